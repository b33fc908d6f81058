"""Problems in the OpenAPI document: every error is `application/problem+json`, and is described as such."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "What went wrong (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "code"],
    "properties": {
        "type": {"type": "string", "format": "uri", "description": "Names the kind of problem."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong with this request, and what to change."},
        "code": {"type": "string", "description": "The kind of problem, for programs."},
        "request_id": {"type": "string"},
        "error_id": {"type": "string", "description": "Under which the log holds the rest."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "message"],
                "properties": {"pointer": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
    "example": {
        "type": "urn:problem-type:not-found",
        "title": "Not Found",
        "status": 404,
        "detail": "There is no such thing.",
        "code": "not-found",
        "request_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    },
}
CONTENT = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


def describe_problems(api: FastAPI) -> None:
    """Have `api.openapi()` describe errors as problems instead of FastAPI's own form."""
    generate = api.openapi

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            api.openapi_schema = _with_problems(generate())
        return api.openapi_schema

    api.openapi = openapi  # type: ignore[method-assign]


def _with_problems(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas["Problem"] = SCHEMA
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for operations in document.get("paths", {}).values():
        for operation in operations.values():
            responses = operation.setdefault("responses", {})
            responses.setdefault("default", {"description": "Any other problem"})
            for status, response in responses.items():
                if status == "default" or status >= "400":
                    response["content"] = CONTENT
    return document
