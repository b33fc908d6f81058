"""Sessions on the server: the client has an id that means nothing, Redis has what it stands for.

The id is a secret of 256 random bits; Redis knows only its hash, so that who reads Redis can take over no session.
Sessions end after a time without use, after a time in any case, and when they are told to. Rotate the id at a login:
an id that somebody planted in the client before is then worth nothing. While Redis is down there are no sessions:
whoever asks gets Unavailable.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel

from marty_lib.errors import Conflict, Unauthenticated
from marty_lib.redis import Redis, needed

ATTEMPTS = 10

# A session is `end record`: when it ends in any case, in milliseconds since 1970, and the rest as JSON.
_FIND = """
local raw = redis.call('GET', KEYS[1])
if not raw then return nil end
local now = redis.call('TIME')
local left = tonumber(string.match(raw, '^%d+')) - (now[1] * 1000 + math.floor(now[2] / 1000))
if left <= 0 then
  redis.call('DEL', KEYS[1])
  return nil
end
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.min(tonumber(ARGV[1]), left)))
return raw
"""
_REPLACE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
return 1
"""
_RENAME = """
local ttl = redis.call('PTTL', KEYS[1])
if ttl <= 0 then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ttl)
return 1
"""

T = TypeVar("T")


class NoSession(Unauthenticated):
    """There is no such session, or no longer."""

    code = "no-session"


class SessionBusy(Conflict):
    """Others change the session all the time."""

    code = "session-busy"


class _Record(BaseModel, Generic[T]):
    user: str
    created: float
    data: T


@dataclass(frozen=True, slots=True)
class Session(Generic[T]):
    """A session.

    Args:
        id: the secret that the client has; empty in lists.
        handle: names the session where it may be shown, in lists and logs.
        user: whose it is; empty where nobody has logged in.
        data: what it holds.
        created: seconds since 1970.
        ends: when it ends in any case, in seconds since 1970.
    """

    id: str = field(repr=False)
    handle: str
    user: str
    data: T
    created: float
    ends: float


class SessionStore(Generic[T]):
    """Sessions of one sort.

    Args:
        redis: where they are.
        name: of the sort, in keys.
        kind: type of the data, as pydantic knows it.
        idle: seconds without use after which a session ends.
        absolute: seconds after which it ends in any case.
        clock: seconds since 1970, the same for all processes.
    """

    def __init__(
        self,
        redis: Redis,
        name: str,
        kind: type[T],
        *,
        idle: float = 1_800,
        absolute: float = 86_400,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._name = name
        self._record = cast("type[_Record[T]]", _Record.__class_getitem__(kind))
        self._idle = idle
        self._absolute = absolute
        self._clock = clock
        self._find = redis.client.register_script(_FIND)
        self._replace = redis.client.register_script(_REPLACE)
        self._rename = redis.client.register_script(_RENAME)

    async def begin(self, data: T, *, user: str = "") -> Session[T]:
        """Begin a session."""
        now = round(self._clock(), 3)
        session_id = secrets.token_urlsafe(32)
        session = Session(session_id, _handle(session_id), user, data, now, round(now + self._absolute, 3))
        with needed():
            async with self._redis.client.pipeline() as pipe:
                pipe.set(self._key(session.handle), self._encode(session), px=_ms(min(self._idle, self._absolute)))
                self._enlist(pipe, session)
                await pipe.execute()
        return session

    async def find(self, session_id: str) -> Session[T]:
        """Return a session, which thereby is in use.

        Raises:
            NoSession: where there is none of that id.
        """
        handle = _handle(session_id)
        with needed():
            raw = await self._find(keys=[self._key(handle)], args=[_ms(self._idle)])
        if raw is None:
            raise NoSession("There is no such session: begin a new one.")
        return self._decode(raw, handle, session_id)

    async def change(self, session_id: str, change: Callable[[T], T]) -> Session[T]:
        """Replace the data by what `change` makes of it; again where somebody else has changed it meanwhile.

        Raises:
            NoSession: where there is none of that id.
            SessionBusy: where others are faster all the time.
        """
        for _ in range(ATTEMPTS):
            old = await self.find(session_id)
            new = Session(old.id, old.handle, old.user, change(old.data), old.created, old.ends)
            with needed():
                args = [self._encode(old), self._encode(new)]
                if await self._replace(keys=[self._key(old.handle)], args=args):
                    return new
        raise SessionBusy("The session was changed by others meanwhile: ask again.")

    async def rotate(self, session_id: str, *, user: str | None = None) -> Session[T]:
        """Give a session a new id, and at a login a user; the old id means nothing any more.

        Raises:
            NoSession: where there is none of that id.
        """
        old = await self.find(session_id)
        new_id = secrets.token_urlsafe(32)
        owner = old.user if user is None else user
        new = Session(new_id, _handle(new_id), owner, old.data, old.created, old.ends)
        with needed():
            keys = [self._key(old.handle), self._key(new.handle)]
            if not await self._rename(keys=keys, args=[self._encode(new)]):
                raise NoSession("There is no such session: begin a new one.")
            async with self._redis.client.pipeline() as pipe:
                pipe.zrem(self._list_of(old.user), old.handle)
                self._enlist(pipe, new)
                await pipe.execute()
        return new

    async def end(self, session_id: str) -> None:
        """End a session, if there is one of that id."""
        await self.end_handles(_handle(session_id))

    async def end_handles(self, *handles: str) -> None:
        """End sessions by their handles."""
        if handles:
            with needed():
                await self._redis.client.delete(*map(self._key, handles))

    async def of(self, user: str) -> list[Session[T]]:
        """Return the sessions of a user, the oldest first, without their ids."""
        with needed():
            listed = await self._redis.client.zrange(self._list_of(user), 0, -1)
            handles = [cast("bytes", handle).decode() for handle in listed]
            found = await self._redis.client.mget(map(self._key, handles)) if handles else []
            gone = [handle for handle, raw in zip(handles, found, strict=True) if raw is None]
            if gone:
                await self._redis.client.zrem(self._list_of(user), *gone)
        sessions = [self._decode(raw, handle) for handle, raw in zip(handles, found, strict=True) if raw is not None]
        return sorted(sessions, key=lambda session: session.created)

    async def end_all(self, user: str, *, but: str = "") -> int:
        """End all sessions of a user, but the one of the id `but`; return how many."""
        handles = [session.handle for session in await self.of(user) if not but or session.handle != _handle(but)]
        await self.end_handles(*handles)
        return len(handles)

    def _key(self, handle: str) -> str:
        return self._redis.key("session", self._name, handle)

    def _list_of(self, user: str) -> str:
        return self._redis.key("session", self._name, "of", user)

    def _enlist(self, pipe: Any, session: Session[T]) -> None:
        if session.user:
            pipe.zadd(self._list_of(session.user), {session.handle: session.ends})
            pipe.pexpire(self._list_of(session.user), _ms(self._absolute))

    def _encode(self, session: Session[T]) -> bytes:
        record = self._record(user=session.user, created=session.created, data=session.data)
        return b"%d %b" % (_ms(session.ends), record.model_dump_json().encode())

    def _decode(self, raw: Any, handle: str, session_id: str = "") -> Session[T]:
        ends, text = raw.split(b" ", 1)
        record = self._record.model_validate_json(text)
        return Session(session_id, handle, record.user, record.data, record.created, int(ends) / 1000)


def _handle(session_id: str) -> str:
    return hashlib.sha256(session_id.encode()).hexdigest()


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
