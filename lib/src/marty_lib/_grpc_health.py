"""grpc.health.v1 as the probes see it: serving where the service is ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from marty_lib.health import Health

LOOK_EVERY = 0.5
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthCalls(health_pb2_grpc.HealthServicer):
    """Answers Check and Watch for the server ('') and for each of its services, which share one fate.

    Args:
        health: what the operations port asks too.
        services: full names of the server's services.
        draining: set when the server refuses calls; watchers then are told and let go.
    """

    def __init__(self, health: Health, services: frozenset[str], draining: asyncio.Event) -> None:
        self._health = health
        self._services = services | {""}
        self._draining = draining

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Tell how it is now."""
        if request.service not in self._services:
            await context.abort(StatusCode.NOT_FOUND, "There is no such service here.")
        return health_pb2.HealthCheckResponse(status=await self._status())

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Tell how it is, and again whenever that changes, until the server drains."""
        told = None
        while True:
            status = await self._status() if request.service in self._services else SERVICE_UNKNOWN
            if status != told:
                told = status
                yield health_pb2.HealthCheckResponse(status=status)
            if self._draining.is_set():
                return
            await self._pause()

    async def _status(self) -> Any:
        ready = not self._draining.is_set() and (await self._health.ready())[0]
        return SERVING if ready else NOT_SERVING

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(LOOK_EVERY):
                await self._draining.wait()
        except TimeoutError:
            return
