"""Signing keys: which one signs, which are published, when the next one is due. Safe with many replicas.

A key is published for a while before it signs, so that everybody has heard of it, and after it has signed until the
last token has ended. All of that follows from one column, `active_from`: nothing is ever updated.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from typing import cast

from joserfc.errors import JoseError
from joserfc.jwk import DictKey, ECKey, JWKRegistry, Key, RSAKey
from joserfc.jws import JWSRegistry
from marty_lib.auth import KeyNotFound

from .models import SigningKey
from .stores import Keys, Transaction
from .vault import Vault

RELOAD = 10.0
"""Seconds after which a replica looks whether another one has changed the keys."""


def signs(keys: Sequence[SigningKey], now: datetime) -> SigningKey:
    """Return the key that signs: the last one that is active."""
    return [keys[0], *(key for key in keys if key.active_from <= now)][-1]


def published(keys: Sequence[SigningKey], now: datetime, keep: timedelta) -> list[SigningKey]:
    """Return the keys to publish: all but those whose successor has been active for `keep`."""
    return [key for key, later in zip_longest(keys, keys[1:]) if later is None or later.active_from + keep > now]


def is_due(keys: Sequence[SigningKey], now: datetime, lifetime: timedelta, overlap: timedelta) -> bool:
    """Return whether it is time to publish the next key, `overlap` before it signs."""
    return not keys or keys[-1].active_from + lifetime - overlap <= now


class Keyring:
    """The keys of this service, as one replica knows them.

    Args:
        keys: where they are kept.
        vault: seals the private ones.
        transaction: opens a unit of work.
        algorithm: of new keys, ES256 or RS256.
        lifetime: for which a key signs.
        overlap: for which it is published before.
        keep: for which it is published after: as long as the longest token lives.
        now: the time, in UTC.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        keys: Keys,
        vault: Vault,
        transaction: Transaction,
        *,
        algorithm: str,
        lifetime: timedelta,
        overlap: timedelta,
        keep: timedelta,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = keys
        self._vault = vault
        self._transaction = transaction
        self._algorithm = algorithm
        self._lifetime = lifetime
        self._overlap = overlap
        self._keep = keep
        self._now = now
        self._clock = clock
        self._loaded = -RELOAD
        self._keys: Sequence[SigningKey] = ()
        self._private: dict[str, Key] = {}
        self.version = 0
        """Counts the changes."""

    async def signer(self) -> tuple[SigningKey, Key]:
        """Return the key that signs now."""
        await self.renew()
        key = signs(self._keys, self._now())
        if key.kid not in self._private:
            self._private[key.kid] = JWKRegistry.import_key(json.loads(self._vault.open(key.sealed)))
        return key, self._private[key.kid]

    async def documents(self) -> list[Mapping[str, object]]:
        """Return the public keys as a JWK set's members."""
        await self.renew()
        return [key.public for key in published(self._keys, self._now(), self._keep)]

    async def rotate_if_due(self) -> None:
        """Publish the next key where it is time."""
        await self._load()
        if is_due(self._keys, self._now(), self._lifetime, self._overlap):
            await self.rotate(at_once=not self._keys)

    async def rotate(self, *, at_once: bool = False, withdraw: bool = False) -> SigningKey:
        """Make a new key.

        Args:
            at_once: let it sign before everybody has heard of it.
            withdraw: forget the keys before, and with them all tokens they have signed.

        Returns:
            The newest key, which may be another replica's.
        """
        await self._load()
        last = self._keys[-1].sequence if self._keys else 0
        new = await self._made(last + 1, self._now() + (timedelta(0) if at_once or withdraw else self._overlap))
        async with self._transaction():
            if await self._store.add(new) and withdraw:
                await self._store.remove([key.sequence for key in self._keys])
        await self._load()
        return self._keys[-1]

    async def find(self, kid: object, algorithm: str) -> Key:
        """Return a published key, for verifying our own tokens.

        Raises:
            KeyNotFound: where there is no such key.
        """
        for document in await self.documents():
            if document["kid"] == kid:
                key = imported(document)
                try:
                    JWSRegistry.algorithms[algorithm].check_key(key)
                except JoseError:
                    break
                return key
        raise KeyNotFound

    async def renew(self) -> None:
        """Look for changes, now and then."""
        if self._clock() - self._loaded >= RELOAD:
            await self._load()

    def begin(self) -> None:
        """Have nothing to fetch from elsewhere."""

    async def close(self) -> None:
        """Have no connection to close."""

    async def _load(self) -> None:
        async with self._transaction():
            found = await self._store.all()
        if found != self._keys:
            self._keys = found
            self.version += 1
        self._loaded = self._clock()

    async def _made(self, sequence: int, active_from: datetime) -> SigningKey:
        key = await asyncio.to_thread(_generate, self._algorithm)
        public = {**key.as_dict(private=False), "use": "sig", "alg": self._algorithm}
        sealed = self._vault.seal(json.dumps(key.as_dict(private=True)).encode())
        return SigningKey(sequence, str(key.kid), self._algorithm, public, sealed, active_from)


def imported(document: Mapping[str, object]) -> Key:
    """Return the key of a member of a JWK set."""
    return JWKRegistry.import_key(cast(DictKey, dict(document)))


def _generate(algorithm: str) -> Key:
    if algorithm == "ES256":
        return ECKey.generate_key("P-256", auto_kid=True)
    return RSAKey.generate_key(2048, auto_kid=True)
