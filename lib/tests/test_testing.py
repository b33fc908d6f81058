"""The pytest plugin: its clock, its servers that misbehave, its services as processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from marty_lib.testing import Clock, FaultyServer, ServiceProcess, free_ports, status

pytest_plugins = ["pytester"]

Faulty = Callable[..., FaultyServer]


def test_the_clock_moves_only_when_told_to(clock: Clock) -> None:
    before = clock()
    clock.advance(2.5)

    assert clock() - before == 2.5


def test_free_ports_are_all_different() -> None:
    assert len(set(free_ports(50))) == 50


async def test_a_hanging_server_takes_connections_and_never_answers(faulty_server: Faulty) -> None:
    async with faulty_server("hang") as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)
        writer.close()

        assert server.connections == 1


async def test_a_resetting_server_breaks_the_connection_off(faulty_server: Faulty) -> None:
    async with faulty_server("reset") as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.close()


async def test_a_server_of_garbage_answers_with_nonsense(faulty_server: Faulty) -> None:
    async with faulty_server("garbage") as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert (await reader.read()).startswith(b"\x00\xff")
        writer.close()


async def test_a_faulty_server_that_has_ended_takes_no_connection(faulty_server: Faulty) -> None:
    async with faulty_server("hang") as server:
        pass

    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)


@pytest.mark.parametrize("fault", ["reset", "garbage", "hang"])
async def test_the_status_of_who_does_not_answer_properly_is_0(faulty_server: Faulty, fault: str) -> None:
    async with faulty_server(fault) as server:
        assert await asyncio.to_thread(status, f"http://127.0.0.1:{server.port}", 0.1) == 0


def test_the_status_of_nobody_is_0(free_port: int) -> None:
    assert status(f"http://127.0.0.1:{free_port}") == 0


def test_a_proxy_is_not_asked(free_port: int) -> None:
    code = (
        "import threading, http.server; from marty_lib.testing import status\n"
        "server = http.server.HTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)\n"
        "threading.Thread(target=server.serve_forever, daemon=True).start()\n"
        "print(status(f'http://127.0.0.1:{server.server_port}'))"
    )
    environment = os.environ | {"http_proxy": f"http://127.0.0.1:{free_port}", "no_proxy": "", "NO_PROXY": ""}

    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "200\n"


def test_a_service_that_ends_instead_of_starting_shows_its_output(run: Callable[..., ServiceProcess]) -> None:
    process = run("import sys; sys.exit('set DATABASE_URL')")

    with pytest.raises(RuntimeError, match=r"exit code 1(.|\n)*set DATABASE_URL"):
        process.wait_ready()


def test_an_empty_variable_is_taken_away(run: Callable[..., ServiceProcess]) -> None:
    process = run("import os; print('PATH' in os.environ, 'HTTP_PORT' in os.environ)", PATH="")

    process.wait()

    assert process.output() == "False True\n"


def test_the_plugin_is_found_loads_little_and_ends_what_it_started(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(pytester.path))
    pytester.makepyfile(
        a_worker="""
        from marty_lib import App, ServiceSettings, main

        main(ServiceSettings, lambda settings: App(settings, name="worker", version="1"))
        """
    )
    pytester.makepyfile(
        """
        import os
        import sys

        import pytest

        pids = []

        def test_it_loads_nothing_that_a_measurement_of_coverage_would_miss():
            loaded = {name for name in sys.modules if name.startswith("marty_lib")}
            parts = ("_db_fixtures", "_faulty_server", "testing")
            assert loaded == {"marty_lib", *(f"marty_lib.{name}" for name in parts)}

        def test_its_fixtures_are_there(service_process, clock, free_port, faulty_server):
            process = service_process("a_worker")
            pids.append(process.process.pid)

        def test_the_process_has_ended():
            with pytest.raises(ProcessLookupError):
                os.kill(pids[0], 0)
        """
    )
    others = [
        f"-pno:{name}" for name in ("cacheprovider", "copie", "hypothesispytest", "xdist", "asyncio", "pytest_cov")
    ]

    pytester.runpytest_subprocess(*others).assert_outcomes(passed=3)
