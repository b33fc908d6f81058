"""RabbitMQ as tests get it."""

from __future__ import annotations

import aio_pika
import pytest
from aio_pika.exceptions import AMQPConnectionError, ChannelNotFoundEntity

from tests.servers.rabbitmq import default_api
from tests.servers.server import Server

QUEUE = "orders"
ORDER = aio_pika.Message(b"42", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)


async def send(url: str) -> None:
    async with await aio_pika.connect(url, timeout=10) as connection, await connection.channel() as channel:
        await channel.declare_queue(QUEUE, durable=True)
        await channel.default_exchange.publish(ORDER, routing_key=QUEUE)


async def receive(url: str) -> bytes:
    async with await aio_pika.connect(url, timeout=10) as connection, await connection.channel() as channel:
        message = await (await channel.get_queue(QUEUE)).get(timeout=10)
        await message.ack()
        return message.body


@pytest.mark.parametrize("_", range(2))
async def test_each_test_gets_a_virtual_host_without_queues(rabbitmq_url: str, _: int) -> None:
    with pytest.raises(ChannelNotFoundEntity):
        await receive(rabbitmq_url)
    await send(rabbitmq_url)
    assert await receive(rabbitmq_url) == b"42"


async def test_it_comes_back_from_a_kill_with_what_was_confirmed(rabbitmq_server: Server) -> None:
    await send(rabbitmq_server.url)

    rabbitmq_server.kill()
    with pytest.raises(AMQPConnectionError):
        await send(rabbitmq_server.url)

    rabbitmq_server.start()
    assert await receive(rabbitmq_server.url) == b"42"


async def test_a_paused_one_answers_once_it_goes_on(rabbitmq_server: Server) -> None:
    rabbitmq_server.pause()
    with pytest.raises(TimeoutError):
        await aio_pika.connect(rabbitmq_server.url, timeout=0.2)

    rabbitmq_server.resume()
    await send(rabbitmq_server.url)


@pytest.mark.parametrize("url", ["amqp://user:secret@mq:5672/", "amqp://user:secret@mq:5672/shop"])
def test_the_management_api_is_looked_for_beside_the_server(url: str) -> None:
    assert default_api(url) == "http://user:secret@mq:15672"
