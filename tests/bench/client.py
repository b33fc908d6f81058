"""A closed-loop HTTP/1.1 client: each connection sends its next request once the last answer is there.

It runs as a process of its own and prints one JSON object. Nine of ten requests read the order that was placed last,
one places a new one; with `--path` all read that path. Any answer that is not the expected one ends it with an error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from statistics import quantiles
from typing import cast

import uvloop

EVERY = 10
BODY = b'{"customer":"ada","item":"analytical engine","quantity":1}'
HEAD = b"%b HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/json\r\nuser-agent: bench\r\n"
POST = HEAD % b"POST /v1/orders" + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY
GET = HEAD % b"GET %b" + b"\r\n"
LENGTH = b"\r\ncontent-length: "
ID = b'"id":"'
ID_LENGTH = 36


class Load:
    """What all connections share: when to end, and what was seen.

    Args:
        requests: to send at most; 0 is no limit.
        seconds: to send for.
        read: the request that reads an order; empty until one is placed.
        body: the one answer to every request, none of which then writes.
    """

    def __init__(self, requests: int, seconds: float, read: bytes = b"", body: bytes = b"") -> None:
        self.limit = requests or float("inf")
        self.sent = 0
        self.read = read
        self.body = body
        self.ends = time.perf_counter() + seconds
        self.latencies: list[float] = []

    def take(self) -> bytes:
        """Return the request to send next, or nothing at the end."""
        if self.sent >= self.limit or time.perf_counter() >= self.ends:
            return b""
        self.sent += 1
        return self.read if self.body or (self.read and self.sent % EVERY) else POST


class Connection(asyncio.Protocol):
    """One keep-alive connection; `done` ends when the load does."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._next()

    def _next(self) -> None:
        request = self.load.take()
        if not request:
            self._transport.close()
            self.done.set_result(None)
            return
        self._writing = request is POST
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        try:
            complete = self._complete(self._received[:end], self._received[end + 4 :])
        except ValueError as error:
            self.done.set_exception(error)
            self._transport.close()
            return
        if complete:
            self._received = b""
            self.load.latencies.append(time.perf_counter() - self._sent)
            self._next()

    def _complete(self, head: bytes, body: bytes) -> bool:
        """Return whether the answer is there.

        Raises:
            ValueError: where it is not the expected one.
        """
        start = head.lower().find(LENGTH) + len(LENGTH)
        if head[9:12] != (b"201" if self._writing else b"200") or start < len(LENGTH):
            raise ValueError(f"unexpected answer: {(head + body)[:500]!r}")
        missing = int(head[start:].partition(b"\r")[0]) - len(body)
        if missing < 0:
            raise ValueError(f"more than its content length: {body[:500]!r}")
        if self.load.body and not missing and body != self.load.body:
            raise ValueError(f"unexpected body: {body[:500]!r}")
        if self._writing and not missing:
            at = body.index(ID) + len(ID)
            self.load.read = GET % b"/v1/orders/%b" % body[at : at + ID_LENGTH]
        return not missing

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed the connection"))


async def put(load: Load, port: int, connections: int) -> None:
    """Put the load on the port of this machine."""
    loop = asyncio.get_running_loop()
    opened = [await loop.create_connection(lambda: Connection(load), "127.0.0.1", port) for _ in range(connections)]
    await asyncio.gather(*(connection.done for _, connection in opened))


async def measure(port: int, connections: int, requests: int, seconds: float, path: str, body: str) -> dict[str, float]:
    """Put load on the port of this machine and return what was seen; latencies are in milliseconds."""
    first = Load(1, seconds, GET % path.encode() if path else b"", body.encode())
    await put(first, port, 1)
    load = Load(requests, seconds, first.read, first.body)
    began, cpu = time.perf_counter(), time.process_time()
    await put(load, port, connections)
    return seen(load.latencies, began, cpu)


def seen(latencies: list[float], began: float, cpu: float) -> dict[str, float]:
    """Return the figures of a load that began at these times; the one request before it was served too."""
    seconds = time.perf_counter() - began
    steps = quantiles(latencies, n=100)
    return {
        "requests": len(latencies),
        "served": len(latencies) + 1,
        "per_second": len(latencies) / seconds,
        "p50": steps[49] * 1000,
        "p99": steps[98] * 1000,
        "client_share": (time.process_time() - cpu) / seconds,
    }


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--requests", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--path", default="", help="what all requests read")
    parser.add_argument("--body", default="", help="the answer to each of them")
    options = parser.parse_args()
    if bool(options.path) != bool(options.body):
        parser.error("--path goes with --body")
    work = measure(options.port, options.connections, options.requests, options.seconds, options.path, options.body)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(work)))


if __name__ == "__main__":
    main()
