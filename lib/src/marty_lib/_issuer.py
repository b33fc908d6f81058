"""An issuer of access tokens for tests: real signatures, real HTTP, and outages on demand."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey, Key

from marty_lib._server import Server
from marty_lib.auth import AuthSettings

AUDIENCE = "tests"


class Issuer:
    """An issuer on a free port of 127.0.0.1; use it with `async with`."""

    def __init__(self) -> None:
        self.keys: list[Key] = [ECKey.generate_key("P-256", auto_kid=True)]
        self.metadata: dict[str, Any] | None = {}
        """What its metadata say besides or instead; None is none at all."""
        self.published: Any = ()
        """What it publishes as its keys; by default what it has."""
        self.path = ""
        """Stands at the end of its identifier."""
        self.metadata_path = "/.well-known/openid-configuration"
        self.fetches = 0
        """How often its keys were asked for."""
        self.answering = asyncio.Event()
        """Cleared, requests hang."""
        self.answering.set()
        self._server = self._serve(0)

    def _serve(self, port: int) -> Server:
        return Server("issuer", self, host="127.0.0.1", port=port)

    async def __aenter__(self) -> Issuer:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop()

    @property
    def url(self) -> str:
        """The issuer's identifier, which tokens carry as `iss`."""
        return f"http://127.0.0.1:{self._server.port}{self.path}"

    def settings(self, **changes: Any) -> AuthSettings:
        """Return settings that trust it."""
        return AuthSettings(**({"issuer": self.url, "audience": AUDIENCE} | changes))

    async def kill(self) -> None:
        """Stop listening, whatever is under way."""
        await self._server.stop()

    async def restart(self) -> None:
        """Listen again on the same port."""
        self._server = self._serve(self._server.port)
        await self._server.start()

    def rotate(self) -> None:
        """Sign with a new key from now on, and forget the one before."""
        self.keys = [ECKey.generate_key("P-256", auto_kid=True)]

    def token(self, *permissions: str, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """Return an access token of the caller `ada`.

        Args:
            permissions: what it allows.
            header: instead of the usual members.
            claims: besides or instead of the usual ones; None leaves one out.
        """
        key = self.keys[0]
        moment = int(time.time())
        usual = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "ada",
            "client_id": "shop",
            "iat": moment,
            "exp": moment + 300,
        }
        all_claims = usual | {"scope": " ".join(permissions)} | claims
        return jwt.encode(
            {"alg": "ES256", "typ": "at+jwt", "kid": key.kid} | (header or {}),
            {name: value for name, value in all_claims.items() if value is not None},
            key,
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.answering.wait()
        keys = [key.as_dict(private=False) for key in self.keys] if self.published == () else self.published
        documents: dict[str, Any] = {f"{self.path}/jwks": {"keys": keys}}
        if self.metadata is not None:
            documents[self.metadata_path] = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"} | self.metadata
        self.fetches += scope["path"].endswith("/jwks")
        document = documents.get(scope["path"])
        body = json.dumps(document).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 404 if document is None else 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
