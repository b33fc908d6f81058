"""Tokens that this service signs: access tokens (RFC 9068) and ID tokens (OpenID Connect Core, section 2)."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from .keys import Keyring, imported
from .models import Client, Code, Grant, User


class Tokens:
    """Signs and reads tokens.

    Args:
        issuer: this service's public address.
        keyring: the keys.
        lifetime: of access tokens and ID tokens, in seconds.
        now: the time, in UTC.
    """

    def __init__(
        self,
        issuer: str,
        keyring: Keyring,
        *,
        lifetime: int,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.issuer = issuer
        self.lifetime = lifetime
        self._keyring = keyring
        self._now = now

    async def for_user(self, user: User, client: Client, grant: Grant, scopes: frozenset[str]) -> str:
        """Return an access token by which a client acts for a user."""
        return await self._access_token(
            client,
            scopes,
            sub=str(user.id),
            roles=sorted(user.roles),
            auth_time=int(grant.auth_time.timestamp()),
            sid=str(grant.session_id),
            gid=str(grant.id),
        )

    async def for_client(self, client: Client, scopes: frozenset[str]) -> str:
        """Return an access token by which a client acts for itself."""
        return await self._access_token(client, scopes, sub=client.id)

    async def id_token(self, user: User, code: Code) -> str:
        """Return the ID token that tells a client who has logged in."""
        claims: dict[str, object] = {
            "sub": str(user.id),
            "aud": code.client_id,
            "auth_time": int(code.auth_time.timestamp()),
            "amr": list(code.methods),
            "sid": str(code.session_id),
        }
        return await self._sign("JWT", claims | ({"nonce": code.nonce} if code.nonce else {}))

    async def read(self, token: str) -> Mapping[str, Any] | None:
        """Return the claims of an access token that this service has signed and that has not ended, else None."""
        documents = await self._keyring.documents()
        keys = KeySet([imported(document) for document in documents])
        try:
            found = jwt.decode(token, keys, [str(document["alg"]) for document in documents])
            registry = jwt.JWTClaimsRegistry(
                lambda: int(self._now().timestamp()), 0, iss={"essential": True, "value": self.issuer}
            )
            registry.validate(found.claims)
        except (JoseError, ValueError, TypeError, KeyError):
            return None
        return found.claims if found.header.get("typ") == "at+jwt" else None

    async def _access_token(self, client: Client, scopes: Iterable[str], **claims: object) -> str:
        audiences = list(client.audiences) or [self.issuer]
        if "openid" in scopes and self.issuer not in audiences:
            audiences.append(self.issuer)
        usual = {"aud": audiences, "client_id": client.id, "scope": " ".join(sorted(scopes)), "jti": uuid4().hex}
        return await self._sign("at+jwt", usual | claims)

    async def _sign(self, kind: str, claims: Mapping[str, object]) -> str:
        key, private = await self._keyring.signer()
        moment = int(self._now().timestamp())
        times: dict[str, object] = {"iss": self.issuer, "iat": moment, "exp": moment + self.lifetime}
        return jwt.encode(
            {"alg": key.algorithm, "typ": kind, "kid": key.kid}, {**times, **claims}, private, [key.algorithm]
        )
