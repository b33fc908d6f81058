"""What is gone after minutes, and counts of failures, in Redis. While it is down, nobody can log in: 503."""

import json
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from marty_lib.redis import Redis, needed

from ..domain.models import Code

REPLAY = 600
"""Seconds for which a code is remembered, so that it is known when it comes again."""


class RedisShortLived:
    """Codes, logins under way and revoked access tokens."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def put_code(self, digest: str, code: Code, seconds: int) -> None:
        """Keep an authorization code."""
        pipeline = self._redis.client.pipeline()
        pipeline.set(self._redis.key("code", digest), _dumped(code), ex=max(REPLAY, seconds))
        pipeline.set(self._redis.key("code-fresh", digest), "1", ex=seconds)
        with needed():
            await pipeline.execute()

    async def take_code(self, digest: str) -> tuple[Code | None, int]:
        """Count a use of a code; return what it stands for, if it still does, and how often it was used by now."""
        uses = self._redis.key("code-uses", digest)
        pipeline = self._redis.client.pipeline()
        pipeline.get(self._redis.key("code", digest))
        pipeline.get(self._redis.key("code-fresh", digest))
        pipeline.incr(uses)
        pipeline.expire(uses, REPLAY)
        with needed():
            text, fresh, count, _ = await pipeline.execute()
        # A second use matters after the code's time too: the first one's tokens are out.
        return (_loaded(text) if text and (fresh or count > 1) else None), count

    async def uses(self, digest: str) -> int:
        """Return how often a code was used."""
        with needed():
            return int(await self._redis.client.get(self._redis.key("code-uses", digest)) or 0)

    async def put_login(self, digest: str, user_id: UUID, seconds: int) -> None:
        """Keep a login whose second factor is missing."""
        with needed():
            await self._redis.client.set(self._redis.key("login", digest), str(user_id), ex=seconds)

    async def login(self, digest: str) -> UUID | None:
        """Return the user of such a login, or None."""
        with needed():
            found = await self._redis.client.get(self._redis.key("login", digest))
        return UUID(found.decode() if isinstance(found, bytes) else found) if found else None

    async def remove_login(self, digest: str) -> None:
        """Forget such a login."""
        with needed():
            await self._redis.client.delete(self._redis.key("login", digest))

    async def deny(self, token_id: str, seconds: int) -> None:
        """Note that an access token was revoked."""
        with needed():
            await self._redis.client.set(self._redis.key("denied", token_id), "1", ex=seconds)

    async def is_denied(self, token_id: str) -> bool:
        """Return whether an access token was revoked."""
        with needed():
            return bool(await self._redis.client.exists(self._redis.key("denied", token_id)))


class RedisAttempts:
    """How often somebody has tried in vain."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def locked_for(self, name: str) -> float:
        """Return the seconds until the next attempt is allowed; 0 is now."""
        with needed():
            return max(0.0, await self._redis.client.pttl(self._redis.key("lock", name)) / 1000)

    async def count(self, name: str, seconds: int) -> int:
        """Count an attempt and return how many there were; they are forgotten that time after the first one."""
        key = self._redis.key("attempts", name)
        pipeline = self._redis.client.pipeline()
        pipeline.incr(key)
        pipeline.expire(key, seconds, nx=True)
        with needed():
            count, _ = await pipeline.execute()
        return int(count)

    async def uncount(self, name: str) -> None:
        """Take one attempt back."""
        with needed():
            await self._redis.client.decr(self._redis.key("attempts", name))

    async def lock(self, name: str, seconds: float) -> bool:
        """Allow no attempt for a time; return False where somebody else was first."""
        with needed():
            key = self._redis.key("lock", name)
            return bool(await self._redis.client.set(key, "1", px=int(seconds * 1000), nx=True))

    async def forget(self, name: str) -> None:
        """Forget the attempts."""
        with needed():
            await self._redis.client.delete(self._redis.key("attempts", name), self._redis.key("lock", name))


def _dumped(code: Code) -> str:
    fields = asdict(code) | {"scopes": sorted(code.scopes), "auth_time": code.auth_time.isoformat()}
    return json.dumps(fields, default=str)


def _loaded(text: bytes) -> Code:
    fields: dict[str, Any] = json.loads(text)
    ids = {name: UUID(fields[name]) for name in ("user_id", "session_id", "grant_id")}
    fields |= {"scopes": frozenset(fields["scopes"]), "methods": tuple(fields["methods"])}
    return Code(**(fields | ids | {"auth_time": datetime.fromisoformat(fields["auth_time"])}))
