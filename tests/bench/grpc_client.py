"""A closed-loop gRPC client: each of its streams makes its next unary call once the last one is answered.

It speaks just enough of HTTP/2 to cost less than the server: requests are put together once, answers are compared byte
by byte. Nine of ten calls get the order that was placed last, one places a new one. It runs as a process of its own and
prints one JSON object; whatever is not expected ends it with an error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import time
from typing import cast

import uvloop

from .client import EVERY, seen

STREAMS = 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM = ACK = 1
END_HEADERS = 4
WINDOW = 65_535
LARGEST_WINDOW = 2**31 - 1
# An Order begins with its id, a UUID as text; so does a GetOrderRequest.
ID = b"\x0a\x24"
ID_LENGTH = len(ID) + 36


def text(value: str) -> bytes:
    """Return a string of a header or of a message: its length, and its bytes."""
    return bytes([len(value)]) + value.encode()


def block(path: str) -> bytes:
    """Return the headers of a call, in HPACK without compression."""
    fixed = b"\x83\x86"  # POST, http
    named = b"\x04" + text(path) + b"\x01" + text("127.0.0.1") + b"\x0f\x10" + text("application/grpc")
    return fixed + named + b"\x00" + text("te") + text("trailers")


def framed(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def prefixed(message: bytes) -> bytes:
    """Return a message as gRPC carries it, uncompressed."""
    return b"\x00" + struct.pack(">I", len(message)) + message


class Load:
    """What all connections share: when to end, and what was seen.

    Args:
        package: of the proto.
        requests: to send at most; 0 is no limit.
        seconds: to send for.
        order: that is read, as it is answered; empty until one is placed.
    """

    def __init__(self, package: str, requests: int, seconds: float, order: bytes = b"") -> None:
        self.limit = requests or float("inf")
        self.sent = 0
        self.order = order
        self.ends = time.perf_counter() + seconds
        self.latencies: list[float] = []
        self._place = block(f"/{package}.OrderService/PlaceOrder")
        self._get = block(f"/{package}.OrderService/GetOrder")
        self._new = prefixed(b"\x0a" + text("ada") + b"\x12" + text("analytical engine") + b"\x18\x01")

    def take(self) -> tuple[bytes, bytes, bytes] | None:
        """Return headers, message and answer of the next call (empty: any order), or nothing at the end."""
        if self.sent >= self.limit or time.perf_counter() >= self.ends:
            return None
        self.sent += 1
        if self.order and self.sent % EVERY:
            return self._get, prefixed(self.order[:ID_LENGTH]), self.order
        return self._place, self._new, b""


class Connection(asyncio.Protocol):
    """One connection with some streams at a time; `done` ends when the load does."""

    def __init__(self, load: Load, streams: int) -> None:
        self.load = load
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._streams = streams
        self._open: dict[int, tuple[float, bytes]] = {}
        self._answers: dict[int, bytes] = {}
        self._received = b""
        self._next = 1
        self._window = WINDOW

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        grown = struct.pack(">I", LARGEST_WINDOW - WINDOW)
        self._transport.write(PREFACE + framed(SETTINGS, 0, 0, b"") + framed(WINDOW_UPDATE, 0, 0, grown))
        for _ in range(self._streams):
            self._call()

    def _call(self) -> None:
        call = self.load.take()
        if call is None:
            if not self._open:
                self._transport.close()
                self.done.set_result(None)
            return
        headers, message, answer = call
        self._window -= len(message)
        if self._window < 0:
            raise ValueError("the server gives no window to send in")
        stream, self._next = self._next, self._next + 2
        self._open[stream] = time.perf_counter(), answer
        self._transport.write(framed(HEADERS, END_HEADERS, stream, headers) + framed(DATA, END_STREAM, stream, message))

    def data_received(self, data: bytes) -> None:
        data = self._received + data
        at = 0
        try:
            while len(data) - at >= 9:
                length = int.from_bytes(data[at : at + 3], "big")
                if len(data) - at < 9 + length:
                    break
                stream = int.from_bytes(data[at + 5 : at + 9], "big")
                self._frame(data[at + 3], data[at + 4], stream, data[at + 9 : at + 9 + length])
                at += 9 + length
        except ValueError as error:
            self.done.set_exception(error)
            self._transport.close()
        self._received = data[at:]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self._answers[stream] = self._answers.get(stream, b"") + payload
        elif kind == HEADERS and flags & END_STREAM:
            self._end(stream)
        elif kind in (SETTINGS, PING) and not flags & ACK:
            self._transport.write(framed(kind, ACK, 0, payload if kind == PING else b""))
        elif kind == WINDOW_UPDATE and not stream:
            self._window += int.from_bytes(payload, "big")
        elif kind in (RST_STREAM, GOAWAY):
            raise ValueError(f"the server ended it: frame {kind}, {payload!r}")

    def _end(self, stream: int) -> None:
        began, expected = self._open.pop(stream)
        # A call that fails has trailers and no message.
        answer = self._answers.pop(stream, b"")[5:]
        if not answer.startswith(ID) or (expected and answer != expected):
            raise ValueError(f"unexpected answer: {answer!r}")
        if not expected:
            self.load.order = answer
        self.load.latencies.append(time.perf_counter() - began)
        self._call()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed the connection"))


async def put(load: Load, port: int, connections: int, streams: int) -> None:
    """Put the load on the port of this machine."""
    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(lambda: Connection(load, streams), "127.0.0.1", port) for _ in range(connections)
    ]
    await asyncio.gather(*(connection.done for _, connection in opened))


async def measure(port: int, package: str, connections: int, requests: int, seconds: float) -> dict[str, float]:
    """Put load on the port of this machine and return what was seen; latencies are in milliseconds."""
    first = Load(package, 1, seconds)
    await put(first, port, 1, 1)
    load = Load(package, requests, seconds, first.order)
    began, cpu = time.perf_counter(), time.process_time()
    await put(load, port, connections, STREAMS)
    return seen(load.latencies, began, cpu)


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--package", required=True, help="of the proto")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--requests", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    work = measure(options.port, options.package, options.connections, options.requests, options.seconds)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(work)))


if __name__ == "__main__":
    main()
