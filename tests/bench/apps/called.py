"""Bare grpc.aio: the rendered service's own calls and storage, no interceptor, no health, no reflection."""

import asyncio
import sys

import grpc
import uvloop
from grpc_service.domain.service import OrderService
from grpc_service.rpc.orders import order_calls
from grpc_service.storage.memory import InMemoryOrders


async def main(port: int) -> None:
    """Serve until the end."""
    server = grpc.aio.server()
    order_calls(OrderService(InMemoryOrders()))(server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1])))
