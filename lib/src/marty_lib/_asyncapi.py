"""The AsyncAPI 3 document of a service, from its handlers and from what it publishes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marty_lib.events import EventType

TEXT = {"type": "string"}
HEADERS = {
    "type": "object",
    "description": "The attributes of CloudEvents 1.0 in binary mode.",
    "required": ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time"],
    "properties": {
        "ce_specversion": {"const": "1.0"},
        "ce_id": {"type": "string", "description": "Unique within the source."},
        "ce_source": TEXT,
        "ce_type": TEXT,
        "ce_time": {"type": "string", "format": "date-time"},
        "ce_subject": TEXT,
        "ce_dataschema": TEXT,
        "ce_partitionkey": {"type": "string", "description": "Events of one key keep their order."},
        "ce_correlationid": {"type": "string", "description": "The request that led to the event."},
        "ce_traceparent": {"type": "string", "description": "W3C trace context."},
        "ce_tracestate": TEXT,
    },
}


def document(
    *, title: str, version: str, sent: Iterable[EventType[Any]], received: Iterable[EventType[Any]]
) -> dict[str, Any]:
    """Return the document.

    Args:
        title: the service.
        version: of it.
        sent: what it publishes.
        received: what it handles.
    """
    operations = [("send", kind) for kind in sent] + [("receive", kind) for kind in received]
    schemas: dict[str, Any] = {"CloudEvent": HEADERS}
    channels: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    for _, kind in operations:
        messages[kind.name] = _message(kind, schemas)
        channel = channels.setdefault(kind.topic, {"address": kind.topic, "messages": {}})
        channel["messages"][kind.name] = {"$ref": f"#/components/messages/{kind.name}"}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": title, "version": version},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": {f"{action}.{kind.name}": _operation(action, kind) for action, kind in operations},
        "components": {"messages": messages, "schemas": schemas},
    }


def _operation(action: str, kind: EventType[Any]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{kind.topic}"},
        "messages": [{"$ref": f"#/channels/{kind.topic}/messages/{kind.name}"}],
    }


def _message(kind: EventType[Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """Return a message; the definitions that its payload refers to are added to the schemas."""
    payload = kind.adapter.json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(payload.pop("$defs", {}))
    return {
        "name": kind.name,
        "title": kind.name,
        "summary": kind.description or payload.get("description", ""),
        "contentType": "application/json",
        "headers": {"$ref": "#/components/schemas/CloudEvent"},
        "payload": payload,
    }
