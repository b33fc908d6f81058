"""HTTP: an API on FastAPI whose errors are problems (RFC 9457), and the server that runs it.

`create_api` returns an ordinary `FastAPI`; the stack in front of it is `HttpSettings`' doing, part by part.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from marty_lib import _openapi, context
from marty_lib._app import App
from marty_lib._server import Server
from marty_lib._stack import Stack
from marty_lib.errors import FieldError, InvalidInput, ServiceError, problem
from marty_lib.settings import HttpSettings

# Swagger UI comes from a content delivery network and starts itself with an inline script.
DOCS_CSP = (
    "default-src 'none'; script-src 'unsafe-inline' https://cdn.jsdelivr.net; style-src https://cdn.jsdelivr.net; "
    "img-src data: https://fastapi.tiangolo.com; connect-src 'self'; frame-ancestors 'none'"
)


def create_api(app: App, settings: HttpSettings, **about: Any) -> FastAPI:
    """Return a FastAPI with the stack in front, problems for errors, and both in its OpenAPI document.

    Args:
        app: the application it is part of.
        settings: which parts of the stack are on.
        about: what FastAPI takes besides, such as `title`, `description`, `contact`.
    """
    api = FastAPI(
        version=app.version,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        telemetry=app.tracing.telemetry(trust=settings.trust_context),
        **about,
    )
    api.add_exception_handler(ServiceError, _service_error)
    api.add_exception_handler(HTTPException, _http_error)
    api.add_exception_handler(RequestValidationError, _validation_error)
    api.add_middleware(
        Stack,
        settings=settings,
        health=app.health,
        traced=app.tracing.provider is not None,
        debug=app.settings.debug,
    )
    if settings.origins:
        _allow_origins(api, settings.origins)
    if settings.docs:
        _add_docs(api)
    _openapi.describe_problems(api)
    return api


def serve(api: FastAPI, settings: HttpSettings) -> Server:
    """Return the component that serves the API; add it last."""
    return Server("http", api, host=settings.host, port=settings.port, setting="HTTP_PORT")


def _allow_origins(api: FastAPI, origins: list[str]) -> None:
    # Outside of the stack, so that its own answers carry the headers too.
    api.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "If-Match", "If-None-Match", "Idempotency-Key", "X-Request-ID"],
        expose_headers=["ETag", "Link", "Location", "Retry-After", "X-Request-ID"],
    )


def _add_docs(api: FastAPI) -> None:
    @api.get("/openapi.json", include_in_schema=False)
    async def document() -> JSONResponse:
        return JSONResponse(api.openapi())

    @api.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        page = get_swagger_ui_html(openapi_url="/openapi.json", title=api.title)
        page.headers["content-security-policy"] = DOCS_CSP
        return page


def _respond(error: ServiceError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    request = context.current()
    return JSONResponse(
        problem(error, request_id=request.request_id if request else ""),
        status_code=error.status,
        headers={**error.headers, **(headers or {})},
        media_type="application/problem+json",
    )


async def _service_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    return _respond(error)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        return Response(status_code=error.status_code, headers=error.headers)
    status = HTTPStatus(error.status_code)
    detail = "" if error.detail == status.phrase else str(error.detail)
    return _respond(_kind(status)(detail), error.headers)


def _kind(status: HTTPStatus) -> type[ServiceError]:
    """Return the error that stands for a status, made up where the library has none (405, 415)."""
    for kind in ServiceError.__subclasses__():
        if kind.status == status and kind.__module__ == ServiceError.__module__:
            return kind
    return type("HttpError", (ServiceError,), {"status": status, "code": status.phrase.lower().replace(" ", "-")})


async def _validation_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    wrong = [FieldError(_pointer(part["type"], part["loc"]), part["msg"]) for part in error.errors()]
    return _respond(InvalidInput("Some fields are wrong.", errors=wrong))


def _pointer(kind: str, location: tuple[int | str, ...]) -> str:
    """Return a JSON pointer for the body (RFC 6901: '' is all of it), and `query/limit` for what stands elsewhere."""
    if kind == "json_invalid":
        return ""
    where, *rest = (str(part).replace("~", "~0").replace("/", "~1") for part in location)
    return "".join(f"/{part}" for part in rest) if where == "body" else "/".join([where, *rest])
