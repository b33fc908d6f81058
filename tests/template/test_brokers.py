"""The kind message-queue on each broker: installed alone, linted, typed, its tests pass embedded and on the server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.conftest import MESHES, Render, make
from tests.npm import installed as installed_by_npm
from tests.template.test_extras import installed_in_production

CLIENTS = {"kafka": "aiokafka", "rabbitmq": "aiormq", "redis": "redis"}
PORTS = {"kafka": 9092, "rabbitmq": 5672, "redis": 6379}
every_broker = pytest.mark.parametrize("broker", CLIENTS)


@every_broker
@pytest.mark.parametrize("mesh", MESHES)
def test_what_is_rendered_for_a_broker_is_formatted_and_free_of_lint(render: Render, broker: str, mesh: str) -> None:
    service = render(service_kind="message-queue", broker=broker, mesh=mesh)
    for command in (["format", "--check"], ["check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "."]
        ended = subprocess.run(ruff, cwd=service, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout


@every_broker
def test_a_service_names_no_other_broker(render: Render, broker: str) -> None:
    service = render(service_kind="message-queue", broker=broker)
    others = {f"{scheme}://" for name, scheme in (("kafka", "kafka"), ("rabbitmq", "amqp"), ("redis", "redis"))}
    others -= {"amqp://" if broker == "rabbitmq" else f"{broker}://"}
    made = {".venv", "__pycache__"}
    text = "".join(path.read_text() for path in service.rglob("*") if path.is_file() and not made & set(path.parts))

    assert not [scheme for scheme in others if scheme in text]


@every_broker
def test_pods_may_reach_the_broker_and_compose_brings_it(render: Render, broker: str) -> None:
    service = render(service_kind="message-queue", broker=broker)
    policy = yaml.safe_load((service / "k8s/base/networkpolicy.yaml").read_text())
    ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule.get("ports", ())}
    compose = yaml.safe_load((service / "compose.yaml").read_text())["services"]

    assert PORTS[broker] in ports
    assert not ports & (set(PORTS.values()) - {PORTS[broker]})
    assert broker in compose["broker"]["image"]
    assert str(PORTS[broker]) in compose["order-service"]["environment"]["EVENTS_URL"]


@pytest.mark.slow
@every_broker
def test_a_service_installs_the_client_of_its_broker_alone(installed: Render, broker: str) -> None:
    found = installed_in_production(installed(service_kind="message-queue", broker=broker))

    assert found & set(CLIENTS.values()) == {CLIENTS[broker]}


@pytest.mark.slow
def test_its_asyncapi_document_is_one_by_the_official_schema(installed: Render) -> None:
    python = installed(service_kind="message-queue") / ".venv/bin/python"
    printed = subprocess.run([python, "-m", "order_service", "asyncapi"], capture_output=True, text=True, check=True)
    specs = installed_by_npm("@asyncapi/specs", "6.11.1") / "node_modules/@asyncapi/specs/schemas"
    schema = jsonschema.Draft7Validator(json.loads((specs / "3.0.0-without-$id.json").read_text()))

    assert not [error.message for error in schema.iter_errors(json.loads(printed.stdout))]
    assert not schema.is_valid(json.loads(printed.stdout) | {"operations": {"one": {"action": "shout"}}})


@pytest.mark.slow
@every_broker
def test_a_services_own_tests_pass_on_the_server(
    installed: Render, broker: str, postgresql_url: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    service: Path = installed(service_kind="message-queue", broker=broker)
    make(service, "typecheck")
    monkeypatch.setitem(os.environ, "DATABASE_URL", postgresql_url)
    monkeypatch.setitem(os.environ, "EVENTS_URL", request.getfixturevalue(f"{broker}_url"))
    make(service, "test", "PYTEST_FLAGS=tests/messaging tests/storage")
