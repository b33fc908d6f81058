"""What the cluster's tests are made of, tried on what there is without one: services, a proxy, a browser, kubectl."""

from __future__ import annotations

import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from marty_lib.testing import free_ports
from playwright.sync_api import expect, sync_playwright

from tests.conftest import MESHES, ROOT, Render
from tests.e2e.cluster.access import Cluster, forwarded_port
from tests.e2e.cluster.browser import chromium
from tests.e2e.cluster.load import Load, tools
from tests.e2e.cluster.manifests import namespace, pod
from tests.e2e.cluster.programs import CALL, PLACE
from tests.e2e.cluster.shares import answered, by_release, check_share, growth, tolerance
from tests.e2e.cluster.waiting import eventually
from tests.e2e.pages import clean_environment
from tests.manifests.test_platform import wrong
from tests.observability.rendered import Rendered

ORDER = json.dumps({"customer": "ada", "item": "engine", "quantity": 1})


@contextmanager
def weighted(first: str, second: str, share: float) -> Iterator[str]:
    """Yield the address of a proxy that gives the second address its share of the requests."""

    class Forward(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            target = second if random.random() < share else first
            with urllib.request.urlopen(f"{target}{self.path}", timeout=10) as answer:
                body = answer.read()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Forward) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def start(installed: Render) -> Iterator[Callable[[], Rendered]]:
    """Return a function that starts a service with both doors."""
    folder, started = installed(service_kind="hybrid"), list[Rendered]()

    def begin() -> Rendered:
        started.append(Rendered(folder, free_ports(3), **clean_environment()))
        return started[-1].wait_ready()  # type: ignore[return-value]

    yield begin
    for each in started:
        each.close()


@pytest.fixture(scope="module")
def running(start: Callable[[], Rendered]) -> Rendered:
    """A service that runs."""
    return start()


def text(url: str) -> str:
    """Return what a URL answers."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


# Shares ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_a_share_is_measured_by_what_the_releases_have_answered(
    start: Callable[[], Rendered], running: Rendered, share: float
) -> None:
    other = start()
    releases = {"one": running.ops, "other": other.ops}
    before = {name: answered(text(f"{ops}/metrics")) for name, ops in releases.items()}
    with weighted(running.http, other.http, share) as proxy:
        for _ in range(400):
            text(f"{proxy}/v1/orders")
    after = {name: answered(text(f"{ops}/metrics")) for name, ops in releases.items()}
    total = by_release(growth(before, after), {"one": "stable", "other": "canary"})

    assert sum(total.values()) == 400
    check_share(total, "canary", share)
    with pytest.raises(AssertionError, match="instead of"):
        check_share(total, "canary", 0.75 if share == 1.0 else share + 0.25)


def test_few_requests_prove_nothing() -> None:
    with pytest.raises(AssertionError, match="too few"):
        check_share({"stable": 90, "canary": 10}, "canary", 0.1)


def test_a_release_that_has_come_in_between_began_at_nothing() -> None:
    assert growth({"old": 10}, {"old": 12, "new": 3}) == {"old": 2, "new": 3}


def test_all_or_nothing_allows_no_difference() -> None:
    assert tolerance(500, 0.0) == tolerance(500, 1.0) == 0.0
    assert 0.05 < tolerance(500, 0.1) < 0.1


# Load -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def loaded(running: Rendered, installed: Render) -> Iterator[Callable[[str], Load]]:
    """Return a function that puts the service's own load on an address."""
    started: list[Load] = []

    def begin(host: str) -> Load:
        environment = tools(clean_environment() | {"GRPC_TARGET": running.grpc})
        started.append(Load(installed(service_kind="hybrid"), host, 5, environment))
        eventually("locust runs", lambda: "Aggregated" in started[-1].output(), seconds=180)
        return started[-1]

    yield begin
    for each in started:
        each.close()


@pytest.mark.slow
def test_load_goes_on_until_it_is_stopped_and_counts(running: Rendered, loaded: Callable[[str], Load]) -> None:
    load = loaded(running.http)
    time.sleep(3)
    assert load.running()
    result = load.stop()
    assert result.requests > 20
    assert result.failures == 0, result.output


@pytest.mark.slow
def test_load_counts_what_fails(loaded: Callable[[str], Load]) -> None:
    (nobody,) = free_ports(1)
    load = loaded(f"http://127.0.0.1:{nobody}")
    time.sleep(2)
    assert load.stop().failures > 0


# Programs -------------------------------------------------------------------------------------------------------------


def run(python: Path | str, program: str, *arguments: str) -> str:
    """Run a program as a pod does."""
    done = subprocess.run([python, "-c", program, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_a_call_prints_status_and_answer(running: Rendered) -> None:
    placed = run(sys.executable, CALL, f"{running.http}/v1/orders", ORDER)
    assert placed.startswith("201 ")
    order = json.loads(placed.partition(" ")[2])
    assert run(sys.executable, CALL, f"{running.http}/v1/orders/{order['id']}").startswith("200 ")
    assert run(sys.executable, CALL, f"{running.http}/v1/nothing").startswith("404 ")
    assert json.loads(run(sys.executable, CALL, f"{running.ops}/info").partition(" ")[2])["version"] == "0.1.0"


def test_a_call_tells_refusal_from_silence() -> None:
    (nobody,) = free_ports(1)
    assert run(sys.executable, CALL, f"http://127.0.0.1:{nobody}/").startswith("refused: ")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert run(sys.executable, CALL, f"http://127.0.0.1:{silent.getsockname()[1]}/") == "timed out"


@pytest.mark.slow
def test_an_order_is_placed_over_grpc_or_is_not(running: Rendered, installed: Render) -> None:
    python = installed(service_kind="hybrid") / ".venv" / "bin" / "python"
    (nobody,) = free_ports(1)
    assert re.fullmatch(r"placed [0-9a-f-]{36}", run(python, PLACE, "order_service", running.grpc))
    assert run(python, PLACE, "order_service", f"127.0.0.1:{nobody}").startswith("refused: DEADLINE_EXCEEDED")


# Waiting, kubectl, browser --------------------------------------------------------------------------------------------


def test_waiting_takes_an_error_for_not_yet() -> None:
    looks = iter([OSError("gone"), None, "there"])

    def look() -> object:
        seen = next(looks)
        if isinstance(seen, Exception):
            raise seen
        return seen

    assert eventually("it is there", look, pause=0.0) == "there"


def test_waiting_ends_with_what_was_seen_last() -> None:
    with pytest.raises(AssertionError, match=r"it is there; seen last: \[\]"):
        eventually("it is there", list, seconds=0.0)


def test_a_context_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="MARTY_CLUSTER=nobody is no context"):
        Cluster("nobody", tmp_path)


def test_the_port_that_kubectl_has_chosen_is_read(tmp_path: Path) -> None:
    file = tmp_path / "printed"
    file.write_text("starting\nForwarding from 127.0.0.1:40123 -> 9093\n")
    with file.open() as printed:
        assert forwarded_port(printed) == 40123
        with pytest.raises(AssertionError, match="has ended"):
            forwarded_port(printed)


@pytest.mark.parametrize("mesh", MESHES)
def test_pods_of_tests_satisfy_their_strict_schema(mesh: str) -> None:
    image = "localhost:5001/shop-ledger:dev"
    for manifest in (pod("one", "shop", image, mesh=mesh), pod("two", "shop", image, scraped=True), namespace("shop")):
        assert wrong(manifest) == []


def test_a_browser_shows_what_a_page_writes_in_its_own_time(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<p></p><script>setTimeout(() => document.querySelector('p').textContent = 'drawn', 300)</script>")
    with sync_playwright() as playwright, chromium(playwright) as opened:
        opened.goto(page.as_uri())
        expect(opened.get_by_text("drawn")).to_be_visible()


# Selection ------------------------------------------------------------------------------------------------------------


def collected(**variables: str) -> str:
    """Return what pytest says of the cluster's tests."""
    environment = {name: value for name, value in clean_environment().items() if name != "MARTY_CLUSTER"}
    command = [sys.executable, "-m", "pytest", "-n", "0", "--collect-only", "tests/e2e/cluster"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment | variables, capture_output=True, text=True, check=False, timeout=120
    )
    return done.stdout


@pytest.mark.slow
def test_without_a_cluster_its_tests_are_left_out_and_pytest_says_so() -> None:
    printed = collected()
    assert "MARTY_CLUSTER names no context of kubectl (make e2e)" in printed
    assert re.search(r"no tests collected \(\d\d deselected\)", printed)


@pytest.mark.slow
def test_with_a_cluster_they_run_on_it() -> None:
    printed = collected(MARTY_CLUSTER="kind-marty")
    assert "cluster tests: on kind-marty" in printed
    assert "deselected" not in printed


def test_every_test_of_the_folder_is_one_of_the_cluster() -> None:
    for file in (ROOT / "tests" / "e2e" / "cluster").glob("test_*.py"):
        assert re.search(r"^pytestmark = \[pytest\.mark\.cluster,", file.read_text(), re.MULTILINE), file


@pytest.mark.slow
def test_make_e2e_fails_where_there_is_no_such_cluster(tmp_path: Path) -> None:
    environment = clean_environment() | {"KUBECONFIG": str(tmp_path / "none"), "MARTY_CLUSTER": "nobody"}
    done = subprocess.run(
        ["make", "--no-print-directory", "e2e"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "1 error" in done.stdout
    assert "MARTY_CLUSTER=nobody is no context" in done.stdout
