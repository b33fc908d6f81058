"""The service as the process that production runs: signals, drains, outages, exit codes."""

from __future__ import annotations

import json
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from marty_lib.testing import ServiceProcess, free_ports, status

Run = Callable[..., ServiceProcess]
Eventually = Callable[[Callable[[], object]], None]

BARE = """
import asyncio
from marty_lib import App, ServiceSettings, StartError, log, main

class Part:
    name = "part"
    async def start(self): {start}
    async def stop(self): {stop}

def create_app(settings):
    app = App(settings, name="bare", version="1")
    app.add(Part())
    return app

if __name__ == "__main__":
    main(ServiceSettings, create_app)
"""


def bare(start: str = "...", stop: str = "...") -> str:
    return BARE.format(start=start, stop=stop)


def lines(process: ServiceProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in process.output().splitlines() if line.startswith("{")]


def events(process: ServiceProcess) -> list[str]:
    return [line["event"] for line in lines(process)]


def get(url: str) -> tuple[int, Any, Any]:
    """Return status, headers and body of an answer, whatever its status."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.headers, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, json.load(error)


@pytest.fixture
def in_background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_answers_the_request_under_way_refuses_others_and_ends_with_0(
    run: Run, tmp_path: Path, eventually: Eventually, in_background: ThreadPoolExecutor, number: signal.Signals
) -> None:
    process = run().wait_ready()
    slow = in_background.submit(get, f"{process.http}/slow?until={tmp_path / 'go'}")
    eventually(lambda: "slow.began" in events(process))

    process.process.send_signal(number)
    eventually(lambda: status(process.http) == 0)
    assert not slow.done()

    (tmp_path / "go").touch()
    assert slow.result()[::2] == (200, {"ok": True})
    assert process.wait() == 0
    order = [line.get("path", line["event"]) for line in lines(process)]
    assert order.index("service.stopping") < order.index("/slow") < order.index("service.stopped")


def test_a_second_signal_ends_it_at_once_with_1(
    run: Run, tmp_path: Path, eventually: Eventually, in_background: ThreadPoolExecutor
) -> None:
    process = run(DRAIN_TIMEOUT="3600").wait_ready()
    slow = in_background.submit(status, f"{process.http}/slow?until={tmp_path / 'never'}", 60)
    eventually(lambda: "slow.began" in events(process))

    process.terminate()
    eventually(lambda: status(process.http) == 0)
    process.terminate()

    assert process.wait() == 1
    assert slow.result() == 503
    assert "service.stopped" in events(process)


def test_a_drain_that_takes_too_long_ends_with_1(
    run: Run, tmp_path: Path, eventually: Eventually, in_background: ThreadPoolExecutor
) -> None:
    process = run(DRAIN_TIMEOUT="0.2").wait_ready()
    slow = in_background.submit(status, f"{process.http}/slow?until={tmp_path / 'never'}", 60)
    eventually(lambda: "slow.began" in events(process))

    process.terminate()

    assert process.wait() == 1
    assert slow.result() == 503
    assert {"drain.failed", "service.stopped"} <= set(events(process))
    assert len(lines(process)) == len(process.output().splitlines())


def test_during_the_drain_delay_it_is_unready_and_still_answers(run: Run, eventually: Eventually) -> None:
    process = run(DRAIN_DELAY="3600").wait_ready()

    process.terminate()
    eventually(lambda: status(f"{process.ops}/health/ready") == 503)
    found, headers, _ = get(process.http)

    assert (found, headers["connection"]) == (200, "close")
    assert status(f"{process.ops}/health/live") == 200
    process.terminate()
    assert process.wait() == 1


def test_a_signal_while_starting_ends_it_with_0(run: Run, eventually: Eventually) -> None:
    process = run(
        bare(start='log.get().warning("begun"); await asyncio.Event().wait()', stop='log.get().info("released")')
    )
    eventually(lambda: "begun" in events(process))
    assert status(f"{process.ops}/health/startup") == 503

    process.terminate()

    assert process.wait() == 0
    assert "released" in events(process)


def test_liveness_outlasts_an_outage_and_readiness_comes_back(run: Run, eventually: Eventually) -> None:
    [port] = free_ports(1)
    database = listen(port)
    process = run(DATABASE_PORT=str(port)).wait_ready()

    close(database)
    while ready(process) != 503:
        assert alive(process) == 200
    assert (alive(process), status(process.http)) == (200, 200)

    database = listen(port)
    eventually(lambda: ready(process) == 200)
    close(database)
    eventually(lambda: changes(process) == [True, False, True])


def changes(process: ServiceProcess) -> list[bool]:
    return [line["up"] for line in lines(process) if line["event"] == "health.changed"]


def alive(process: ServiceProcess) -> int:
    return status(f"{process.ops}/health/live")


def ready(process: ServiceProcess) -> int:
    return status(f"{process.ops}/health/ready")


def listen(port: int) -> socketserver.BaseServer:
    """Serve a port: connections are taken, which is all that the check asks."""
    server = socketserver.TCPServer(("127.0.0.1", port), socketserver.BaseRequestHandler, bind_and_activate=False)
    server.allow_reuse_address = True
    server.server_bind()
    server.server_activate()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


def close(server: socketserver.BaseServer) -> None:
    server.shutdown()
    server.server_close()


def test_an_unknown_error_tells_an_id_that_the_log_holds_and_no_secret(run: Run) -> None:
    process = run().wait_ready()

    found, _, problem = get(f"{process.http}/broken")

    assert (found, problem["code"]) == (500, "internal")
    [line] = [line for line in lines(process) if line["event"] == "http.error"]
    assert line["error_id"] == problem["error_id"]
    assert "hunter2" not in process.output() + json.dumps(problem)


def test_two_megabytes_are_too_much_and_one_is_not(run: Run) -> None:
    connection = HTTPConnection("127.0.0.1", run().wait_ready().http_port, timeout=20)
    answers = []

    for size in (2_000_000, 1_000_000):
        connection.request("POST", "/size", b"x" * size)
        with connection.getresponse() as answer:
            answers.append((answer.status, answer.read()))
    connection.close()

    assert [answers[0][0], answers[1]] == [413, (200, b"1000000")]


@pytest.mark.parametrize("setting", ["OPS_PORT", "HTTP_PORT"])
def test_a_taken_port_ends_it_with_1_and_names_the_setting(run: Run, setting: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = run(**{setting: str(taken.getsockname()[1])})

        assert process.wait() == 1

    assert f"set {setting} to a free port" in lines(process)[-1]["reason"]
    assert "Traceback" not in process.output()


def test_what_a_part_misses_at_the_start_is_said_in_one_line(run: Run) -> None:
    process = run(bare(start='raise StartError("set DATABASE_URL to a server that answers")'))

    assert process.wait() == 1
    assert lines(process)[-1].items() >= {"event": "service.cannot_start", "level": "critical"}.items()
    assert len(process.output().splitlines()) == 1


def test_a_start_that_breaks_is_logged_without_secrets_after_all_that_was_logged(run: Run) -> None:
    process = run(bare(start='log.get().info("before"); raise OSError("redis://:hunter2@cache is down")'))

    assert process.wait() == 1
    assert events(process) == ["before", "service.failed"]
    assert "hunter2" not in process.output()


def test_wrong_settings_end_it_with_1_and_are_all_listed(run: Run) -> None:
    process = run(ENVIRONMENT="production", DEBUG="true", LOG_LEVEL="loud", DRAIN_DELAY="-1")

    assert process.wait() == 1
    assert process.output().splitlines()[0] == "3 wrong settings:"
    assert {line.split(":")[0].strip() for line in process.output().splitlines()[1:]} == {
        "DEBUG", "LOG_LEVEL", "DRAIN_DELAY",
    }  # fmt: skip


def test_the_last_lines_are_written(run: Run) -> None:
    process = run(bare(stop='log.get().info("part.stopped")')).wait_ready()

    process.terminate()

    assert process.wait() == 0
    assert events(process)[-2:] == ["part.stopped", "service.stopped"]


def test_info_names_the_service(run: Run) -> None:
    process = run(bare()).wait_ready()

    assert get(f"{process.ops}/info")[2] == {"name": "bare", "version": "1", "environment": "development"}


def command(tmp_path: Path, *arguments: str, source: str = "", ops_port: str = "0") -> subprocess.CompletedProcess[str]:
    (tmp_path / "a_command.py").write_text(source or bare())
    environment = {"PYTHONPATH": str(tmp_path), "OPS_PORT": ops_port}
    return subprocess.run(
        [sys.executable, "-m", "a_command", *arguments], env=environment, text=True, capture_output=True, check=False
    )


def test_the_reference_of_settings_shows_defaults_whatever_is_set(tmp_path: Path) -> None:
    done = command(tmp_path, "settings", ops_port="hunter2")

    assert (done.returncode, done.stderr) == (0, "")
    assert "| `OPS_PORT` | `9000` | Port of the operations; 0 takes a free one. |" in done.stdout


def test_an_unknown_argument_is_refused(tmp_path: Path) -> None:
    done = command(tmp_path, "serve", "--fast")

    assert done.returncode == 1
    assert done.stderr.startswith("unknown arguments serve --fast: give none to run the service, or one of `settings`")


COUNTER = """
from marty_lib import App, ServiceSettings, StartError, main


class Counter:
    name = "counter"

    def __init__(self):
        self.commands = {"count": self.count}

    async def start(self): ...

    async def stop(self): ...

    async def count(self, arguments):
        if not arguments:
            raise StartError("say what to count")
        print(len(arguments))


def create_app(settings):
    app = App(settings, name="orders", version="1.2.3")
    app.add(Counter())
    return app


if __name__ == "__main__":
    main(ServiceSettings, create_app)
"""


@pytest.mark.parametrize(
    ("arguments", "code", "output"),
    [(["a", "b"], 0, "2\n"), ([], 1, "say what to count\n")],
)
def test_a_component_brings_commands(tmp_path: Path, arguments: list[str], code: int, output: str) -> None:
    done = command(tmp_path, "count", *arguments, source=COUNTER)

    assert (done.returncode, done.stdout + done.stderr) == (code, output)


def test_the_commands_are_listed_for_an_unknown_one(tmp_path: Path) -> None:
    done = command(tmp_path, "guess", source=COUNTER)

    assert done.stderr.endswith("or one of `settings`, `count`\n")
