"""The operations port: health, metrics and info, as one small ASGI application that needs no framework."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from marty_lib import metrics
from marty_lib.health import Health

Answer = tuple[int, bytes, str]


class Ops:
    """Answers `/health/live`, `/health/ready`, `/health/startup`, `/metrics` and `/info`.

    Args:
        health: what the probes ask.
        info: what `/info` tells; nothing secret.
    """

    def __init__(self, health: Health, info: Mapping[str, str]) -> None:
        self._health = health
        self._info = dict(info)
        self._routes: dict[str, Callable[[str], Awaitable[Answer]]] = {
            "/health/live": self._live,
            "/health/ready": self._ready,
            "/health/startup": self._startup,
            "/metrics": self._metrics,
            "/info": self._tell,
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        route = self._routes.get(scope["path"])
        if route is None:
            status, body, content_type = _json(404, {"routes": list(self._routes)})
        elif scope["method"] not in ("GET", "HEAD"):
            status, body, content_type = _json(405, {"allow": "GET, HEAD"})
        else:
            status, body, content_type = await route(dict(scope["headers"]).get(b"accept", b"").decode("latin-1"))
        headers = [
            (b"content-type", content_type.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            (b"allow", b"GET, HEAD"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _live(self, _: str) -> Answer:
        return _json(200, {"status": "live"})

    async def _startup(self, _: str) -> Answer:
        started = self._health.started
        return _json(200 if started else 503, {"status": "started" if started else "starting"})

    async def _ready(self, _: str) -> Answer:
        ready, body = await self._health.ready()
        return _json(200 if ready else 503, body)

    async def _metrics(self, accept: str) -> Answer:
        for name, up in self._health.verdicts().items():
            metrics.CHECK_UP.labels(name).set(up)
        return (200, *metrics.render(accept))

    async def _tell(self, _: str) -> Answer:
        return _json(200, self._info)


def _json(status: int, body: Mapping[str, Any]) -> Answer:
    return status, json.dumps(body).encode(), "application/json"
