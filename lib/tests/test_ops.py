"""The operations port: probes, metrics and info."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from marty_lib import Health
from marty_lib._ops import Ops
from prometheus_client.parser import text_string_to_metric_families

PATHS = ["/health/live", "/health/ready", "/health/startup", "/metrics", "/info"]


@pytest.fixture
def health() -> Health:
    health = Health()
    health.started = True
    return health


@pytest.fixture
def ops(client: Callable[[Any], httpx2.AsyncClient], health: Health) -> httpx2.AsyncClient:
    return client(Ops(health, {"name": "orders"}))


async def refuse() -> None:
    raise ConnectionError


@pytest.mark.parametrize("path", PATHS)
async def test_a_ready_service_answers_all_with_200(ops: httpx2.AsyncClient, path: str) -> None:
    answer = await ops.get(path)

    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")


@pytest.mark.parametrize("path", PATHS)
async def test_head_answers_without_a_body(ops: httpx2.AsyncClient, path: str) -> None:
    answer = await ops.head(path)

    assert (answer.status_code, answer.content) == (200, b"")


async def test_another_method_is_refused_with_those_allowed(ops: httpx2.AsyncClient) -> None:
    answer = await ops.post("/health/live")

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_an_unknown_path_tells_the_known_ones(ops: httpx2.AsyncClient) -> None:
    answer = await ops.get("/")

    assert (answer.status_code, answer.json()) == (404, {"routes": PATHS})


async def test_live_asks_no_dependency(ops: httpx2.AsyncClient, health: Health) -> None:
    health.add("database", refuse)

    assert (await ops.get("/health/live")).status_code == 200
    assert (await ops.get("/health/ready")).status_code == 503
    assert (await ops.get("/health/live")).status_code == 200


async def test_startup_is_503_until_the_service_has_started(ops: httpx2.AsyncClient, health: Health) -> None:
    health.started = False

    assert (await ops.get("/health/startup")).status_code == 503


async def test_a_draining_service_is_alive_and_not_ready(ops: httpx2.AsyncClient, health: Health) -> None:
    health.draining = True

    codes = [(await ops.get(path)).status_code for path in PATHS[:3]]

    assert codes == [200, 503, 200]


async def test_info_tells_what_it_was_given(ops: httpx2.AsyncClient) -> None:
    assert (await ops.get("/info")).json() == {"name": "orders"}


async def test_metrics_tell_which_checks_pass(ops: httpx2.AsyncClient, health: Health) -> None:
    health.add("cache-of-this-test", refuse)
    await ops.get("/health/ready")

    assert 'health_check_up{check="cache-of-this-test"} 0.0' in (await ops.get("/metrics")).text


async def test_metrics_can_be_parsed(ops: httpx2.AsyncClient) -> None:
    families = {family.name for family in text_string_to_metric_families((await ops.get("/metrics")).text)}

    assert families >= {"http_server_request_duration_seconds", "http_server_active_requests", "health_check_up"}


async def test_metrics_come_as_openmetrics_to_who_asks_for_it(ops: httpx2.AsyncClient) -> None:
    answer = await ops.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})

    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


async def test_other_protocols_are_ignored(ops: httpx2.AsyncClient) -> None:
    sent: list[Any] = []

    await Ops(Health(), {})({"type": "lifespan"}, None, sent.append)

    assert sent == []
