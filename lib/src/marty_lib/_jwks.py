"""An issuer's public keys: found, fetched, kept, renewed. It knows HTTP's other end and no framework.

One fetch serves all who wait for it. Keys are renewed in the background before they are old; while the issuer does not
answer, those known stay in use. A key that nobody has heard of is asked for, but not more often than once in a pause:
whoever makes up tokens must not be able to make traffic.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx2
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key
from joserfc.jws import JWSRegistry
from joserfc.util import base64_to_int
from prometheus_client import Counter, Gauge

from marty_lib import log
from marty_lib.errors import Unavailable

FETCHED = Counter("auth_keys_fetched_total", "Fetches of the issuer's keys.", ["outcome"])
KEYS = Gauge("auth_keys", "Keys of the issuer that are in use.")

LARGEST = 262_144  # bytes of an answer
SMALLEST_RSA = 2048  # bits
RENEW_AT = 0.8  # of the lifetime


class KeyNotFound(Exception):
    """The issuer has no such key."""


class Keys:
    """The keys of one issuer.

    Args:
        issuer: whose metadata name the keys' address, and must name the issuer itself.
        url: address of the keys, where it need not be found out.
        lifetime: seconds for which keys are good.
        stale: seconds for which they are used beyond that while the issuer does not answer.
        pause: least seconds between two fetches that were in vain.
        timeout: seconds that a fetch may take.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        *,
        issuer: str,
        url: str,
        lifetime: float,
        stale: float,
        pause: float,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._url = url
        self._lifetime = lifetime
        self._stale = stale
        self._pause = pause
        self._timeout = timeout
        self._clock = clock
        self._client: httpx2.AsyncClient | None = None
        self._flight: asyncio.Task[None] | None = None
        self._keys: tuple[Key, ...] = ()
        self._fetched = self._tried = -float("inf")
        self.version = 0
        """Counts the changes of the keys."""

    def begin(self) -> None:
        """Fetch the keys in the background, so that the first call need not wait."""
        self._launch()

    async def close(self) -> None:
        """Give up a fetch under way and close the connections."""
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.wait({self._flight})
        if self._client is not None:
            await self._client.aclose()

    async def find(self, kid: str | None, algorithm: str) -> Key:
        """Return the key that a token names.

        Args:
            kid: the key's name; None is the only key that fits.
            algorithm: of the token's signature.

        Raises:
            KeyNotFound: where the issuer has no such key.
            Unavailable: where no keys are known and the issuer does not answer.
        """
        await self.renew()
        key = self._pick(kid, algorithm)
        if key is None and self._may_try():
            await self._fetch()
            key = self._pick(kid, algorithm)
        if key is None:
            raise KeyNotFound
        return key

    async def renew(self) -> None:
        """Fetch the keys where they are old, and wait for it only where that is needed.

        Raises:
            Unavailable: where no keys are known, or only too old ones, and the issuer does not answer.
        """
        age = self._clock() - self._fetched
        if age > self._lifetime * RENEW_AT and (self._flight or self._may_try()):
            if age > self._lifetime:
                await self._fetch()
            else:
                self._launch()
        if self._clock() - self._fetched > self._lifetime + self._stale:
            raise Unavailable(
                "The issuer of the tokens does not answer: ask again.", headers={"Retry-After": f"{self._pause:.0f}"}
            )

    def _pick(self, kid: str | None, algorithm: str) -> Key | None:
        fitting = [key for key in self._keys if _fits(key, algorithm) and kid in (None, key.kid)]
        return fitting[0] if len(fitting) == 1 or (fitting and kid is not None) else None

    def _may_try(self) -> bool:
        return self._clock() - self._tried >= self._pause

    async def _fetch(self) -> None:
        # A caller that leaves must not take the fetch away from the others.
        await asyncio.shield(self._launch())

    def _launch(self) -> asyncio.Task[None]:
        if self._flight is None:
            self._flight = asyncio.create_task(self._fly(), name="auth-keys")
            self._flight.add_done_callback(self._landed)
        return self._flight

    def _landed(self, _: object) -> None:
        self._flight = None

    async def _fly(self) -> None:
        self._tried = self._clock()
        try:
            if self._client is None:  # outside of the time-out, for it loads certificates
                self._client = httpx2.AsyncClient(timeout=self._timeout, headers={"accept": "application/json"})
            async with asyncio.timeout(self._timeout):
                keys = usable(await self._get(self._client, self._url or await self._discover(self._client)))
        except Exception as error:  # whatever an issuer answers, or does not
            FETCHED.labels("error").inc()
            log.get().warning("auth.keys_not_fetched", issuer=self._issuer, reason=str(error) or type(error).__name__)
            return
        FETCHED.labels("ok").inc()
        KEYS.set(len(keys))
        self._fetched = self._clock()
        if keys != self._keys:
            self._keys = keys
            self.version += 1
            log.get().info("auth.keys_changed", issuer=self._issuer, kids=[key.kid for key in keys])

    async def _discover(self, client: httpx2.AsyncClient) -> str:
        """Return the keys' address from the metadata: OpenID Connect's, else OAuth's (RFC 8414)."""
        try:
            found = await self._get(client, f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        except httpx2.HTTPStatusError:
            parts = urlsplit(self._issuer)
            path = f"/.well-known/oauth-authorization-server{parts.path.rstrip('/')}"
            found = await self._get(client, urlunsplit(parts._replace(path=path)))
        if found.get("issuer") != self._issuer:
            raise ValueError("the metadata are of another issuer")
        return str(found.get("jwks_uri"))

    async def _get(self, client: httpx2.AsyncClient, url: str) -> Mapping[str, Any]:
        async with client.stream("GET", url) as response:
            response.raise_for_status()
            body = b""
            async for part in response.aiter_bytes():
                body += part
                if len(body) > LARGEST:
                    raise ValueError(f"the answer has more than {LARGEST} bytes")
        return _document(body)


def _document(body: bytes) -> Mapping[str, Any]:
    document = json.loads(body)
    if not isinstance(document, dict):
        raise ValueError("the answer is no JSON object")
    return document


def usable(document: Mapping[str, Any]) -> tuple[Key, ...]:
    """Return the keys of a JWK set that may verify signatures; others are nobody's business here.

    A symmetric key in a public set is no secret: it is left out, as are RSA keys that are too short.

    Raises:
        ValueError: where no key is left, which is no rotation but a mistake.
    """
    found = document.get("keys")
    keys = [key for data in (found if isinstance(found, list) else ()) if (key := _imported(data)) is not None]
    if not keys:
        raise ValueError("the answer holds no usable key")
    return tuple(keys)


def _imported(data: Any) -> Key | None:
    try:
        if data["kty"] not in ("RSA", "EC", "OKP") or data.get("use", "sig") != "sig":
            return None
        if data["kty"] == "RSA" and base64_to_int(data["n"]).bit_length() < SMALLEST_RSA:
            return None
        return JWKRegistry.import_key({name: value for name, value in data.items() if name != "x5c"})
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _fits(key: Key, algorithm: str) -> bool:
    try:
        JWSRegistry.algorithms[algorithm].check_key(key)
    except JoseError:
        return False
    return True
