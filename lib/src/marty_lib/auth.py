"""Access tokens: who is calling, as an issuer's signed JWT says (RFC 9068, and what other issuers make of it).

    verifier = app.add(Verifier(settings.auth))
    routes = APIRouter(dependencies=[Depends(Bearer(verifier.authenticate))])

    @routes.post("/v1/orders")
    async def place(caller: Annotated[Principal, Depends(require("orders:write"))]): ...

A gRPC server takes it as `serve_grpc(..., authenticate=verifier.authenticate)`; its handlers ask
`await require("orders:write")()`. Nothing here knows a web framework.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Protocol

from joserfc.jwk import Key
from pydantic import Field, field_validator

from marty_lib._jwks import KeyNotFound as KeyNotFound
from marty_lib._jwks import Keys
from marty_lib._principal import Principal as Principal
from marty_lib._principal import require as require
from marty_lib._sections import Seconds, Section
from marty_lib._tokens import TOKENS, Rules, refused, words
from marty_lib.errors import StartError, Unauthenticated

PUBLIC_KEY_ALGORITHMS = frozenset(
    "RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 EdDSA Ed25519 Ed448".split()  # noqa: SIM905
)
Days = Annotated[float, Field(ge=0, le=7 * 86_400)]


class AuthSettings(Section):
    """Whose access tokens are accepted, and how."""

    issuer: str = ""
    """Who makes the tokens: exactly what they name as `iss`."""
    audience: str = ""
    """What this service is called in the tokens' `aud`; several, separated by commas, are alternatives."""
    jwks_url: str = ""
    """Address of the issuer's keys; empty finds it by the issuer's metadata."""
    algorithms: str = "RS256,PS256,ES256,ES384,Ed25519,EdDSA"
    """Signatures that are accepted."""
    types: str = "at+jwt,JWT"
    """Types of token that are accepted (header `typ`); one without a type counts as JWT."""
    required_claims: str = ""
    """Claims that a token must have besides iss, aud, exp and sub."""
    permission_claims: str = "scope,scp,permissions"
    """Claims that say what the caller may do; dots lead into objects."""
    role_claims: str = "roles"
    """Claims that say what the caller is, such as `realm_access.roles`."""
    leeway: Annotated[int, Field(ge=0, le=300)] = 30
    """Seconds by which clocks may differ."""
    token_limit: Annotated[int, Field(ge=256, le=65_536)] = 8192
    """Longest token in bytes."""
    timeout: Annotated[float, Field(gt=0, le=60)] = 2.0
    """Seconds in which the issuer must give its keys."""
    keys_lifetime: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    """Seconds for which the issuer's keys are good."""
    keys_stale: Days = 86_400.0
    """Seconds for which they are used beyond that while the issuer does not answer."""
    keys_pause: Seconds = 10.0
    """Least seconds between two fetches in vain, and between two for keys that nobody has heard of."""
    cache_size: Annotated[int, Field(ge=0)] = 4096
    """How many verified tokens are remembered; 0 is none."""
    cache_seconds: Seconds = 60.0
    """Seconds for which a verified token is remembered, never beyond its own end."""

    @field_validator("algorithms")
    @classmethod
    def _public_keys_only(cls, text: str) -> str:
        named = set(words(text))
        if not named or named - PUBLIC_KEY_ALGORITHMS:
            raise ValueError(f"must name some of {', '.join(sorted(PUBLIC_KEY_ALGORITHMS))}")
        return text


class KeySource(Protocol):
    """Where the issuer's keys come from."""

    version: int
    """Counts the changes of the keys."""

    def begin(self) -> None:
        """Begin to fetch the keys."""

    async def close(self) -> None:
        """Give up what is under way."""

    async def renew(self) -> None:
        """Look for changes where it is time; raise Unavailable where no keys are usable."""

    async def find(self, kid: str | None, algorithm: str) -> Key:
        """Return the key that a token names, or raise KeyNotFound."""


class Verifier:
    """Verifies access tokens of one issuer; a component, whose start needs no issuer that answers.

    Args:
        settings: whose tokens, and how.
        keys: where the issuer's keys come from, where that is not over HTTP: an issuer verifies its own tokens so.
        now: seconds since 1970, as tokens have them.
        clock: seconds that never go back.

    Raises:
        StartError: where the settings do not say whose tokens, or for whom.
    """

    name = "auth"

    def __init__(
        self,
        settings: AuthSettings,
        *,
        keys: KeySource | None = None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name in ("issuer", "audience"):
            if not getattr(settings, name):
                raise StartError(f"AUTH_{name.upper()} is empty: set it to what the accepted tokens say")
        self._settings = settings
        self._now = now
        self._keys: KeySource = keys or Keys(
            issuer=settings.issuer,
            url=settings.jwks_url,
            lifetime=settings.keys_lifetime,
            stale=settings.keys_stale,
            pause=settings.keys_pause,
            timeout=settings.timeout,
            clock=clock,
        )
        self._rules = Rules(settings, now)
        self._remembered: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()
        self._version = 0

    async def start(self) -> None:
        """Begin to fetch the keys."""
        self._keys.begin()

    async def stop(self) -> None:
        """Close the connections to the issuer."""
        await self._keys.close()

    async def check_keys(self) -> None:
        """Raise Unavailable where no key is usable: a check to show as `health.add("issuer", ..., required=False)`."""
        await self._keys.renew()

    async def authenticate(self, header: str) -> Principal:
        """Return who is calling.

        Args:
            header: the value of `Authorization`; '' where there is none.

        Raises:
            Unauthenticated: where it is no bearer token, or the token is refused.
            Unavailable: where the issuer's keys are unknown and it does not answer.
        """
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            TOKENS.labels("missing").inc()
            raise Unauthenticated("Send an access token.", headers={"WWW-Authenticate": "Bearer"})
        return await self.verify(token.strip())

    async def verify(self, token: str) -> Principal:
        """Return whom a token stands for.

        Raises:
            Unauthenticated: where it is refused.
            Unavailable: where the issuer's keys are unknown and it does not answer.
        """
        if len(token) > self._settings.token_limit:
            raise refused("size", "The token is too long.")
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        principal = self._recall(digest)
        if principal is None:
            principal = await self._verify(token)
            self._remember(digest, principal)
            TOKENS.labels("ok").inc()
        else:
            TOKENS.labels("remembered").inc()
        return principal

    async def _verify(self, token: str) -> Principal:
        signature = self._rules.parse(token)
        header = signature.headers()
        try:
            key = await self._keys.find(header.get("kid"), header["alg"])
        except KeyNotFound:
            raise refused("key", "The token is signed with a key that its issuer does not have.") from None
        return self._rules.principal(signature, key)

    def _recall(self, digest: bytes) -> Principal | None:
        self._forget_withdrawn()
        until, principal = self._remembered.get(digest, (0.0, None))
        return principal if self._now() < until else None

    def _remember(self, digest: bytes, principal: Principal) -> None:
        self._forget_withdrawn()
        until = min(self._now() + self._settings.cache_seconds, principal.claims["exp"])
        self._remembered[digest] = (until, principal)
        while len(self._remembered) > self._settings.cache_size:
            self._remembered.popitem(last=False)

    def _forget_withdrawn(self) -> None:
        """Forget all where the keys have changed: one may be withdrawn, and with it what it has signed."""
        if self._version != self._keys.version:
            self._remembered.clear()
            self._version = self._keys.version
