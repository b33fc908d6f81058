"""What callers ask of a rendered service of each kind, so that all that it counts is counted."""

from __future__ import annotations

import base64
import contextlib
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

import grpc
from marty_lib.testing import ServiceProcess

ORDER = {"customer": "ada", "item": "engine", "quantity": 1}
BOOTSTRAP = "Basic " + base64.b64encode(b"bootstrap:bootstrap-for-development").decode()
WRONG = "Basic " + base64.b64encode(b"bootstrap:wrong").decode()


def ask(url: str, body: object = None, method: str = "", **headers: str) -> Any:
    """Return an answer's JSON, that of an error, too."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    kinds = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data, kinds, method=method or ("POST" if data else "GET"))
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return json.load(error)


def orders(service: ServiceProcess) -> None:
    """Place an order, pay it, list all."""
    placed = ask(f"{service.http}/v1/orders", ORDER)
    ask(f"{service.http}/v1/orders/{placed['id']}", {"status": "paid"}, "PATCH", if_match='"1"')
    ask(f"{service.http}/v1/orders")


def calls(service: ServiceProcess) -> None:
    """List all orders by gRPC: the empty request."""
    with grpc.insecure_channel(service.grpc) as channel, contextlib.suppress(grpc.RpcError):
        listing: Any = channel.unary_stream("/order_service.v1.OrderService/ListOrders")
        list(listing(b"", timeout=20))


def both(service: ServiceProcess) -> None:
    """Ask at both doors."""
    orders(service)
    calls(service)


def catalogue(service: ServiceProcess) -> None:
    """Stock a product, look at it, take from it."""
    ask(f"{service.http}/v1/products/engine", {"name": "Engine", "price_cents": 1, "stock": 1000}, "PUT")
    ask(f"{service.http}/v1/products/engine")
    ask(f"{service.http}/v1/products/engine/reservations", {"quantity": 1})


def identity(service: ServiceProcess) -> None:
    """Get a token, use it, and bring a wrong secret."""
    form = {"content_type": "application/x-www-form-urlencoded"}
    body = b"grant_type=client_credentials"
    token = ask(f"{service.http}/token", body, authorization=BOOTSTRAP, **form)["access_token"]
    ask(f"{service.http}/v1/users", authorization=f"Bearer {token}")
    ask(f"{service.http}/token", body, authorization=WRONG, **form)


def nothing(service: ServiceProcess) -> None:
    """Leave it to itself."""


TRAFFIC: dict[str, Callable[[ServiceProcess], None]] = {
    "fastapi": orders,
    "grpc": calls,
    "hybrid": both,
    "database": orders,
    "caching": catalogue,
    "message-queue": orders,
    "auth": identity,
    "minimal": nothing,
}
