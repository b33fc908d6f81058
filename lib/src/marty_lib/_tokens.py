"""Signed tokens: parsed, checked, read. It does not know where keys come from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from joserfc import jws
from joserfc.errors import ClaimError, ExpiredTokenError, JoseError, MissingClaimError, UnsupportedAlgorithmError
from joserfc.jwk import Key
from joserfc.jws import CompactSignature, JWSRegistry
from joserfc.jwt import JWTClaimsRegistry
from prometheus_client import Counter

from marty_lib._principal import Principal
from marty_lib.errors import Unauthenticated

if TYPE_CHECKING:
    from marty_lib.auth import AuthSettings

TOKENS = Counter("auth_tokens_total", "Access tokens that were looked at.", ["outcome"])


class _Algorithms(JWSRegistry):
    """Only the algorithms that are named; joserfc's own falls back on a list with HS256, and warns of EdDSA."""

    max_header_length = 4096  # some issuers send their certificates along

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__(strict_check_header=False)
        self._names = names

    def get_alg(self, name: str) -> Any:
        if name not in self._names:
            raise UnsupportedAlgorithmError(f"Algorithm of '{name}' is not allowed")
        return self.algorithms[name]


class Rules:
    """What a token must be.

    Args:
        settings: whose tokens, and how.
        now: seconds since 1970, as tokens have them.
    """

    def __init__(self, settings: AuthSettings, now: Callable[[], float]) -> None:
        self._registry = _Algorithms(frozenset(words(settings.algorithms)))
        self._types = frozenset(_media_type(name) for name in words(settings.types))
        self._permissions = words(settings.permission_claims)
        self._roles = words(settings.role_claims)
        essential = {name: {"essential": True} for name in ("exp", "sub", *words(settings.required_claims))}
        self._claims = JWTClaimsRegistry(
            lambda: int(now()),
            settings.leeway,
            **essential,  # type: ignore[arg-type]
            iss={"essential": True, "value": settings.issuer},
            aud={"essential": True, "values": words(settings.audience)},
        )

    def parse(self, token: str) -> CompactSignature:
        """Return what the token claims to be; nothing of it is verified but that it could be.

        Raises:
            Unauthenticated: where it is no token, or one of another algorithm or type.
        """
        try:
            signature = jws.extract_compact(token.encode("ascii"), None, self._registry)
            self._registry.check_header(signature.headers())
            self._registry.get_alg(signature.headers()["alg"])
        except UnsupportedAlgorithmError:
            raise refused("algorithm", "The token is signed in a way that is not accepted here.") from None
        except Exception:  # whatever foreign bytes do to a parser
            raise refused("malformed", "This is no token.") from None
        if _media_type(str(signature.headers().get("typ", "JWT"))) not in self._types:
            raise refused("type", "The token is of a type that is not accepted here.")
        return signature

    def principal(self, signature: CompactSignature, key: Key) -> Principal:
        """Return whom the token stands for.

        Raises:
            Unauthenticated: where its signature or a claim is wrong.
        """
        try:
            signed = jws.validate_compact(signature, key, registry=self._registry)
        except (JoseError, ValueError):
            signed = False
        if not signed:
            raise refused("signature", "The token's signature is wrong.")
        claims = self._checked(signature.payload)
        return Principal(
            subject=claims["sub"],
            client_id=str(claims.get("client_id") or claims.get("azp") or ""),
            permissions=_values(claims, self._permissions),
            roles=_values(claims, self._roles),
            claims=claims,
        )

    def _checked(self, payload: bytes) -> Mapping[str, Any]:
        try:
            claims = dict(json.loads(payload))
            self._claims.validate(claims)
        except ExpiredTokenError:
            raise refused("expired", "The token has expired.") from None
        except MissingClaimError as error:
            raise refused("claims", f"The token lacks {error.claim}.") from None
        except ClaimError as error:
            raise refused("claims", f"The token's {error.claim} is not what is accepted here.") from None
        except (ValueError, TypeError, RecursionError):
            raise refused("malformed", "This is no token.") from None
        return MappingProxyType(claims)


def refused(outcome: str, detail: str) -> Unauthenticated:
    """Return the refusal of a token as RFC 6750, section 3.1 has it, and count it."""
    TOKENS.labels(outcome).inc()
    challenge = f'Bearer error="invalid_token", error_description="{detail}"'
    return Unauthenticated(detail, code="invalid-token", headers={"WWW-Authenticate": challenge})


def words(text: str) -> list[str]:
    """Return what stands between the commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def _values(claims: Mapping[str, Any], names: list[str]) -> frozenset[str]:
    """Return the words of all the claims that are named: lists, or text with spaces in between."""
    found: set[str] = set()
    for name in names:
        value: Any = claims
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        among = value.split() if isinstance(value, str) else value if isinstance(value, list) else ()
        found.update(word for word in among if isinstance(word, str))
    return frozenset(found)


def _media_type(name: str) -> str:
    return name.lower().removeprefix("application/")
