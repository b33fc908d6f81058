"""The settings of events."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from marty_lib.settings import Embedded, SecretUrl, Section

# Scheme of the URL: module, the extra that has its client.
BROKERS = {
    "memory": ("_memory_broker", "events"),
    "kafka": ("_kafka", "events-kafka"),
    "kafkas": ("_kafka", "events-kafka"),
    "amqp": ("_rabbitmq", "events-rabbitmq"),
    "amqps": ("_rabbitmq", "events-rabbitmq"),
    "redis": ("_redis_streams", "events-redis"),
    "rediss": ("_redis_streams", "events-redis"),
}


class EventsSettings(Section):
    """The event broker, and how messages are consumed."""

    url: Annotated[
        SecretUrl,
        Embedded(SecretUrl("memory://"), "Its events are lost with the process: set the URL of a broker"),
    ] = SecretUrl("memory://")
    """kafka://host:9092,host:9092 (kafkas:// with TLS), amqp://user:password@host/vhost, redis://host:6379/0."""
    prefix: Annotated[str, Field(pattern=r"^[a-z0-9.-]*$", max_length=60)] = ""
    """Put before the names of topics and groups, so that several environments can share a broker."""
    partitions: Annotated[int, Field(ge=1, le=1024)] = 8
    """Partitions of topics that are made here. The same in all services that share a topic, and for ever."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 16
    """How many keys are worked on at a time."""
    max_in_flight: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Messages that are fetched before others are finished, at most."""
    attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """Tries of a message in a row."""
    retry_delays: str = "1,10,60"
    """Seconds before each further row of tries, separated by commas; after the last one the message is dead."""
    handler_timeout: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """Seconds that a handler has for one message."""
    publish_timeout: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """Seconds in which the broker must keep what is published."""

    @field_validator("url")
    @classmethod
    def _known(cls, url: SecretUrl) -> SecretUrl:
        if urlsplit(url.get_secret_value()).scheme not in BROKERS:
            raise ValueError(f"must begin with one of {', '.join(f'{scheme}://' for scheme in BROKERS)}")
        return url

    @field_validator("retry_delays")
    @classmethod
    def _seconds(cls, text: str) -> str:
        try:
            wrong = any(not 0 <= seconds <= 86_400 for seconds in _numbers(text))
        except ValueError:
            wrong = True
        if wrong:
            raise ValueError("must be seconds from 0 to 86400, separated by commas, such as 1,10,60")
        return text

    @property
    def delays(self) -> tuple[float, ...]:
        """The seconds of `retry_delays`, one by one."""
        return _numbers(self.retry_delays)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(",") if part.strip())
