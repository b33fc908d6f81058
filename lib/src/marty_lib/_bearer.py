"""Bearer tokens on FastAPI: the door's half of `marty_lib.auth`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Request
from fastapi.security import HTTPBearer

from marty_lib import context
from marty_lib._principal import Principal


class Bearer(HTTPBearer):
    """A dependency that puts the caller into the context, and the scheme into the OpenAPI document.

    A call without a token goes on without a principal, which `require` refuses; a wrong token is refused here.

        api.include_router(routes, dependencies=[Depends(Bearer(verifier.authenticate))])

    Args:
        authenticate: returns the principal for an `Authorization` header; `Verifier.authenticate`.
    """

    def __init__(self, authenticate: Callable[[str], Awaitable[Principal]]) -> None:
        super().__init__(bearerFormat="JWT", description="An access token (RFC 6750).", auto_error=False)
        self._authenticate = authenticate

    async def __call__(self, request: Request) -> Principal | None:  # type: ignore[override]
        """Return who is calling, or None where the call has no token.

        Raises:
            Unauthenticated: where the token is refused.
        """
        header = request.headers.get("authorization")
        if header is None:
            return None
        principal = await self._authenticate(header)
        context.identify(principal)
        return principal
