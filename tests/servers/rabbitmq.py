"""RabbitMQ, and a virtual host in it for each test."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import socket
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .contained import Image

USER = PASSWORD = "marty"  # noqa: S105 - for 127.0.0.1, and gone with the test
# The distributions' wrapper on the PATH changes the user and the folders.
INSTALLED = ("usr/lib/rabbitmq/bin", "usr/lib/rabbitmq/lib/*/sbin", "opt/homebrew/opt/rabbitmq/sbin")
CONFIGURATION = f"""
listeners.tcp.local = 127.0.0.1:{{amqp}}
management.tcp.ip = 127.0.0.1
management.tcp.port = {{management}}
default_user = {USER}
default_pass = {PASSWORD}
default_user_tags.administrator = true
default_permissions.configure = .*
default_permissions.read = .*
default_permissions.write = .*
log.console = true
log.console.level = warning
log.file = false
disk_free_limit.absolute = 50MB
"""
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def image(ports: list[int]) -> Image:
    """Return the official image that has the management plugin."""
    environment = {"RABBITMQ_DEFAULT_USER": USER, "RABBITMQ_DEFAULT_PASS": PASSWORD}
    return Image("rabbitmq:4-management", (5672, 15672), environment)


@dataclass(frozen=True)
class RabbitMQ:
    """RabbitMQ by the folder of its scripts: own node, cookie and port mapper, so that many run on one machine."""

    programs: Path = Path()
    name = "rabbitmq"
    ports = 4  # AMQP, management, distribution, port mapper
    ending = signal.SIGTERM
    as_root = True

    def prepare(self, folder: Path, ports: list[int]) -> list[list[str]]:
        amqp, management = ports[:2]
        (folder / "rabbitmq.conf").write_text(CONFIGURATION.format(amqp=amqp, management=management))
        (folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        return []

    def command(self, folder: Path, ports: list[int]) -> list[str]:
        return [str(self.programs / "rabbitmq-server")]

    def environment(self, folder: Path, ports: list[int]) -> Mapping[str, str]:
        return {
            "RABBITMQ_NODENAME": f"{folder.name}@localhost",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/none",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{folder}/none",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{folder}/generated",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "RABBITMQ_DIST_PORT": str(ports[2]),
            "ERL_EPMD_PORT": str(ports[3]),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # Else a shell stands before it that answers signals by starting another Erlang.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def url(self, ports: list[int]) -> str:
        return f"amqp://{USER}:{PASSWORD}@127.0.0.1:{ports[0]}/"

    def api(self, ports: list[int]) -> str:
        """Return the URL of its management API."""
        return f"http://{USER}:{PASSWORD}@127.0.0.1:{ports[1]}"

    def check(self, ports: list[int]) -> None:
        with socket.create_connection(("127.0.0.1", ports[0]), timeout=3) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            if not connection.recv(1):
                raise ConnectionError("it closed the connection")
        call(self.api(ports), "GET", "/api/vhosts")


def installed() -> RabbitMQ | None:
    """Return the RabbitMQ of this machine."""
    folders = [folder for pattern in INSTALLED for folder in sorted(Path("/").glob(pattern))]
    if on_path := shutil.which("rabbitmq-server"):
        folders.append(Path(on_path).resolve().parent)
    return next((RabbitMQ(folder) for folder in folders if (folder / "rabbitmq-env").exists()), None)


@contextmanager
def fresh_vhost(url: str, api: str) -> Iterator[str]:
    """Yield the URL of a new virtual host, made by the management API at `api`; delete it afterwards."""
    name = f"test-{uuid.uuid4().hex}"
    call(api, "PUT", f"/api/vhosts/{name}")
    try:
        yield f"{url.rpartition('/')[0]}/{name}"
    finally:
        call(api, "DELETE", f"/api/vhosts/{name}")


def default_api(url: str) -> str:
    """Return where the management API of the server at `url` usually is."""
    return f"http://{urlsplit(url).netloc.rpartition(':')[0]}:15672"


def call(api: str, method: str, path: str) -> None:
    """Call the management API; the URL holds user and password."""
    parts = urlsplit(api)
    secret = base64.b64encode(f"{parts.username}:{parts.password}".encode()).decode()
    request = urllib.request.Request(f"http://{parts.hostname}:{parts.port}{path}", method=method)
    request.add_header("authorization", f"Basic {secret}")
    with _open(request, timeout=10) as answer:
        json.loads(answer.read() or b"null")
