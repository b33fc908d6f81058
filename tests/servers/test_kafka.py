"""Kafka as tests get it."""

from __future__ import annotations

import asyncio
import subprocess

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from tests.servers import kafka
from tests.servers.server import Server


async def send(bootstrap: str, topic: str, *values: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, request_timeout_ms=2000, enable_idempotence=True)
    try:
        async with asyncio.timeout(60):
            await producer.start()
            for value in values:
                await producer.send_and_wait(topic, value)
    finally:
        # With what it could not send it would wait for ever.
        await asyncio.wait_for(producer.stop(), 10)


async def receive(bootstrap: str, topic: str, group: str) -> bytes:
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False
    )
    async with consumer:
        message = await asyncio.wait_for(consumer.getone(), 20)
        await consumer.commit()
        return message.value or b""


async def test_it_keeps_what_it_is_sent_in_order(kafka_bootstrap: str, topic_prefix: str) -> None:
    topic = f"{topic_prefix}orders"

    await send(kafka_bootstrap, topic, b"1", b"2")

    assert [await receive(kafka_bootstrap, topic, topic) for _ in range(2)] == [b"1", b"2"]


@pytest.mark.parametrize("_", range(2))
async def test_no_topic_of_another_test_has_this_ones_prefix(kafka_bootstrap: str, topic_prefix: str, _: int) -> None:
    client = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await client.start()
    assert not [name for name in await client.list_topics() if name.startswith(topic_prefix)]
    await client.close()
    await send(kafka_bootstrap, f"{topic_prefix}orders", b"1")


async def test_it_comes_back_from_a_kill_with_messages_and_positions(kafka_server: Server) -> None:
    await send(kafka_server.address, "orders", b"1", b"2")
    assert await receive(kafka_server.address, "orders", "group") == b"1"

    kafka_server.kill()
    with pytest.raises(KafkaError):
        await send(kafka_server.address, "orders", b"3")

    kafka_server.start()
    await send(kafka_server.address, "orders", b"3")
    assert [await receive(kafka_server.address, "orders", "group") for _ in range(2)] == [b"2", b"3"]


async def test_a_paused_one_answers_once_it_goes_on(kafka_server: Server) -> None:
    kafka_server.pause()
    with pytest.raises((KafkaError, TimeoutError)):
        await send(kafka_server.address, "orders", b"1")

    kafka_server.resume()
    await send(kafka_server.address, "orders", b"1")


async def test_it_stops_in_order_and_starts_again(kafka_server: Server) -> None:
    await send(kafka_server.address, "orders", b"1")
    kafka_server.stop()

    kafka_server.start()

    assert await receive(kafka_server.address, "orders", "group") == b"1"


@pytest.mark.parametrize(("said", "version"), [('openjdk version "17.0.15" 2025', 17), ('version "1.8.0_4"', 1)])
def test_the_version_of_java_is_known(monkeypatch: pytest.MonkeyPatch, said: str, version: int) -> None:
    monkeypatch.setattr("shutil.which", lambda _: "java")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, stderr=said))

    assert kafka.java_version() == version
