"""gRPC: a server whose errors are rich statuses, its health service and reflection, and channels to other services.

`serve_grpc` takes what protoc has generated as it is; the stack around it is `GrpcSettings`' doing, part by part.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Annotated, Any, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import Field

from marty_lib._app import App
from marty_lib._grpc_check import checked as checked
from marty_lib._grpc_client import create_channel as create_channel
from marty_lib._grpc_health import HealthCalls
from marty_lib._grpc_stack import Authenticate, Stack, Unknown
from marty_lib._grpc_status import error_of as error_of
from marty_lib._sections import Port, Seconds, Section
from marty_lib.errors import StartError

Register = Callable[[grpc.aio.Server], object]
HEALTH = str(health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
FOREVER = 86_400.0


class GrpcSettings(Section):
    """The gRPC server and the parts of its stack."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 in a container."""
    port: Port = 50051
    """Port of the gRPC server; 0 takes a free one."""
    request_timeout: Seconds = 30.0
    """Seconds until a unary call ends with DEADLINE_EXCEEDED; 0 is no limit. A caller may ask for less only."""
    stream_timeout: Seconds = 300.0
    """The same for calls that stream."""
    message_limit: Annotated[int, Field(ge=1)] = 4_194_304
    """Largest message in bytes that is taken."""
    metadata_limit: Annotated[int, Field(ge=8192)] = 32_768
    """Most metadata of a call in bytes; an access token is the largest part of it."""
    max_calls: Annotated[int, Field(ge=0)] = 1000
    """Calls answered at once, above which others are refused with UNAVAILABLE; 0 is no limit."""
    keepalive: Annotated[float, Field(ge=1, le=3600)] = 60.0
    """Seconds of silence after which the server asks whether a client is still there."""
    connection_age: Seconds = 0.0
    """Seconds after which a client is asked to connect anew, so that load moves to new pods; 0 is never."""
    reflection: bool = False
    """Tell clients such as grpcurl which services there are."""
    trust_context: bool = True
    """Take request id and trace from the caller's metadata."""
    access_log: bool = True
    """Log one line for each call."""
    metrics: bool = True
    """Count and time calls by method and code."""


def serve_grpc(
    app: App, settings: GrpcSettings, *services: Register, authenticate: Authenticate | None = None
) -> GrpcServer:
    """Return the component that serves gRPC; add it last.

    Args:
        app: the application it is part of.
        settings: which parts of the stack are on.
        services: each adds a servicer to the server that it is given, such as
            `partial(add_OrderServiceServicer_to_server, OrderCalls(orders))`.
        authenticate: returns the principal for the value of the metadata `authorization` ('' where there is none),
            or raises `Unauthenticated`. Health and reflection do without.
    """
    return GrpcServer(app, settings, services, Stack(app, settings, authenticate))


class GrpcServer:
    """A gRPC server that refuses and finishes calls when told to.

    Args:
        app: whose health it tells.
        settings: address and limits.
        services: as `serve_grpc` takes them.
        stack: what surrounds each handler.
    """

    name = "grpc"
    drain_phase = 1

    def __init__(self, app: App, settings: GrpcSettings, services: tuple[Register, ...], stack: Stack) -> None:
        self.port = settings.port
        self._health = app.health
        self._settings = settings
        self._stack = stack
        self._methods = _Methods(stack)
        self._draining = asyncio.Event()
        self._server: grpc.aio.Server | None = None
        self._ended: asyncio.Task[Any] | None = None
        for register in services:
            self.add(register)

    def add(self, register: Register) -> None:
        """Add a further servicer, before the start."""
        register(cast(grpc.aio.Server, self._methods))

    async def start(self) -> None:
        """Listen.

        Raises:
            StartError: where the port is taken or the address is not this machine's.
        """
        # It belongs to the event loop that runs now, so it cannot be made before.
        self._server = server = grpc.aio.server(options=_options(self._settings))
        self._methods.add_to(server)
        names = frozenset(self._methods.services)
        health_pb2_grpc.add_HealthServicer_to_server(HealthCalls(self._health, names, self._draining), server)
        if self._settings.reflection:
            _reflect(server, names)
        server.add_generic_rpc_handlers((Unknown(self._stack),))
        self.port = self._bind(server)
        await server.start()
        self._ended = asyncio.create_task(server.wait_for_termination(), name="server-grpc")

    def _bind(self, server: grpc.aio.Server) -> int:
        host, port = self._settings.host, self._settings.port
        try:
            _try(host, port)
            return server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or "it cannot be bound"
            raise StartError(
                f"cannot listen on {host}:{port} ({reason}): set GRPC_PORT to a free port, or check GRPC_HOST"
            ) from error

    async def wait(self) -> None:
        """Return when the server has ended, which it does by itself only on a defect."""
        if self._ended is not None:
            # grpc's own waiting, once cancelled, would cancel the server's stopping too.
            await asyncio.shield(self._ended)

    async def drain(self) -> None:
        """Refuse calls, finish those under way, streams included, then end."""
        self._draining.set()
        if self._server is not None:
            await self._server.stop(FOREVER)

    async def stop(self) -> None:
        """End at once; calls under way end with UNAVAILABLE."""
        self._draining.set()
        server, self._server = self._server, None
        if server is not None:
            await self._stack.cut_off()
            await server.stop(None)


class _Methods:
    """Takes the place of the server when servicers are added, and wraps their handlers."""

    def __init__(self, stack: Stack) -> None:
        self.services: dict[str, dict[str, Any]] = {}
        self._stack = stack

    def add_generic_rpc_handlers(self, _: Any) -> None:
        """Take nothing: generated code adds the same handlers a second time, below."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Wrap the handlers of a service."""
        self.services[service] = {
            name: self._stack.wrap(f"{service}/{name}", handler) for name, handler in handlers.items()
        }

    def add_to(self, server: grpc.aio.Server) -> None:
        """Add the wrapped handlers to the server."""
        for service, handlers in self.services.items():
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
            server.add_registered_method_handlers(service, handlers)


def _try(host: str, port: int) -> None:
    """Bind for a moment: what the system says is clearer than what grpc does.

    Raises:
        OSError: where it cannot be done.
    """
    if port:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))


def _options(settings: GrpcSettings) -> list[tuple[str, int]]:
    options = [
        # Two servers on one port would each get a share of the connections, instead of one an error.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", settings.message_limit),
        # Between a soft and a hard limit grpc refuses by chance, as it does long tokens by default.
        ("grpc.max_metadata_size", settings.metadata_limit),
        ("grpc.absolute_max_metadata_size", settings.metadata_limit),
        ("grpc.keepalive_time_ms", int(settings.keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", 10_000),
        # Clients may ask too, and more often than every five minutes.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ]
    if settings.connection_age:
        options.append(("grpc.max_connection_age_ms", int(settings.connection_age * 1000)))
    return options


def _reflect(server: grpc.aio.Server, services: frozenset[str]) -> None:
    from grpc_reflection.v1alpha import reflection

    reflection.enable_server_reflection((*services, HEALTH, reflection.SERVICE_NAME), server)
