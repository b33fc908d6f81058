"""What OAuth and OpenID Connect clients call: metadata, keys, tokens and what has become of them."""

from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from marty_lib import Bearer, Forbidden, Principal, require
from prometheus_client import Counter

from ..domain.clients import ClientService
from ..domain.errors import OAuthError
from ..domain.grants import GrantService
from ..domain.keys import Keyring
from ..domain.models import IDENTITY_SCOPES
from ..domain.status import StatusService
from .callers import client_of
from .forms import form_of

GIVEN = Counter("auth_tokens_given", "Answers of the token endpoint.", ["grant", "outcome"])
GRANTS = ("authorization_code", "client_credentials", "refresh_token")
NO_STORE = {"cache-control": "no-store", "pragma": "no-cache"}
AUTHENTICATION = ["client_secret_basic", "client_secret_post"]
FORM: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": {"type": "object"}}}}
}


def metadata(issuer: str, algorithms: list[str]) -> dict[str, object]:
    """Return what the service tells about itself (OpenID Connect Discovery, RFC 8414, RFC 9207)."""
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{issuer}/token",
        "userinfo_endpoint": f"{issuer}/userinfo",
        "jwks_uri": f"{issuer}/jwks",
        "revocation_endpoint": f"{issuer}/revoke",
        "introspection_endpoint": f"{issuer}/introspect",
        "scopes_supported": sorted(IDENTITY_SCOPES),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": list(GRANTS),
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": algorithms,
        "token_endpoint_auth_methods_supported": [*AUTHENTICATION, "none"],
        "revocation_endpoint_auth_methods_supported": [*AUTHENTICATION, "none"],
        "introspection_endpoint_auth_methods_supported": AUTHENTICATION,
        "code_challenge_methods_supported": ["S256"],
        "claims_supported": ["sub", "name", "email", "email_verified", "roles", "auth_time", "amr", "nonce"],
        "prompt_values_supported": ["none", "login", "consent"],
        "authorization_response_iss_parameter_supported": True,
        "request_uri_parameter_supported": False,
    }


def oauth_errors(api: FastAPI) -> None:
    """Have protocol errors answered as the RFCs say, which is not as a problem document."""

    @api.exception_handler(OAuthError)
    async def refuse(request: Request, error: OAuthError) -> JSONResponse:
        headers, status = dict(NO_STORE), 400
        if error.error == "invalid_client":
            status, headers["www-authenticate"] = 401, 'Basic realm="token"'
        body = {"error": error.error, "error_description": error.description}
        return JSONResponse(body, status, headers)


def oauth_routes(
    issuer: str, keyring: Keyring, clients: ClientService, grants: GrantService, status: StatusService, bearer: Bearer
) -> APIRouter:
    """Return the protocol's routes."""
    router = APIRouter(tags=["oauth"])

    @router.get("/.well-known/openid-configuration")
    @router.get("/.well-known/oauth-authorization-server")
    async def describe() -> JSONResponse:
        algorithms = sorted({str(key["alg"]) for key in await keyring.documents()})
        return JSONResponse(metadata(issuer, algorithms), headers={"cache-control": "public, max-age=300"})

    @router.get("/jwks")
    async def keys() -> JSONResponse:
        body = {"keys": [dict(key) for key in await keyring.documents()]}
        return JSONResponse(body, headers={"cache-control": "public, max-age=60"})

    @router.post("/token", openapi_extra=FORM)
    async def give(request: Request) -> JSONResponse:
        form = await form_of(request)
        kind = form.get("grant_type", "")
        label = kind if kind in GRANTS else "other"
        try:
            client = await client_of(request, form, clients)
            answer = await grants.exchange(form, client)
        except OAuthError as error:
            GIVEN.labels(label, error.error).inc()
            raise
        GIVEN.labels(label, "ok").inc()
        return JSONResponse(answer, headers=NO_STORE)

    @router.post("/revoke", openapi_extra=FORM)
    async def revoke(request: Request) -> Response:
        form = await form_of(request)
        client = await client_of(request, form, clients)
        await status.revoke(form.get("token", ""), client)
        return Response(headers=NO_STORE)

    @router.post("/introspect", openapi_extra=FORM)
    async def introspect(request: Request) -> JSONResponse:
        form = await form_of(request)
        client = await client_of(request, form, clients)
        if client.secret_digest is None:
            raise OAuthError("invalid_client", "A public client may not ask what has become of tokens.")
        return JSONResponse(dict(await status.introspect(form.get("token", ""), client.id)), headers=NO_STORE)

    @router.get("/userinfo", dependencies=[Depends(bearer)])
    @router.post("/userinfo", dependencies=[Depends(bearer)])
    async def tell() -> JSONResponse:
        caller: Principal = await require("openid")()
        if "gid" not in caller.claims:
            raise Forbidden("The token stands for a client, not for a user.")
        return JSONResponse(dict(await status.userinfo(caller.claims)), headers=NO_STORE)

    return router
