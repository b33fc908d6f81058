"""The sections that services' settings are made of."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(ge=0, le=3600)]


class Embedded(NamedTuple):
    """Mark a setting's value that keeps data inside this process; production refuses it.

    Args:
        value: the value that is embedded.
        instead: what to do instead, as a sentence.
    """

    value: object
    instead: str


class SecretUrl(SecretStr):
    """A URL that may hold a password: shown without it, and without its query."""

    def _display(self) -> str:
        try:
            parts = urlsplit(self.get_secret_value())
        except ValueError:
            return "***"
        secret, at, hosts = parts.netloc.rpartition("@")
        user = secret.partition(":")[0]
        return f"{parts.scheme}://{f'{user}:***' if at else ''}{at}{hosts}{parts.path}"


class Section(BaseModel):
    """A group of settings that belong together."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, use_attribute_docstrings=True)


class HttpSettings(Section):
    """The HTTP API and the parts of its stack, all on by default."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 in a container."""
    port: Port = 8000
    """Port of the API; 0 takes a free one."""
    request_timeout: Seconds = 30.0
    """Seconds until a request is answered with 504; 0 is no limit. A caller may ask for less, not for more."""
    body_limit: Annotated[int, Field(ge=0)] = 1_048_576
    """Largest request body in bytes; 0 is no limit."""
    trust_context: bool = True
    """Take request id, trace and time-out from the caller's headers."""
    access_log: bool = True
    """Log one line for each request."""
    metrics: bool = True
    """Count and time requests by method, route and status."""
    security_headers: bool = True
    """Send CSP, HSTS and the other headers that browsers heed."""
    csp: str = "default-src 'none'; frame-ancestors 'none'"
    """Content security policy of every answer but the API's documentation."""
    hsts_seconds: Annotated[int, Field(ge=0)] = 31_536_000
    """How long browsers keep to HTTPS; 0 leaves the header out."""
    cors_origins: str = ""
    """Origins whose pages may call the API, separated by commas; * allows every one."""
    docs: bool = True
    """Serve /docs and /openapi.json."""

    @property
    def origins(self) -> list[str]:
        """The origins of `cors_origins`, one by one."""
        return [origin.strip() for origin in self.cors_origins.split(",") if origin.strip()]


class OpsSettings(Section):
    """The operations port: health, metrics, info. It is for the cluster, never for the public."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 in a container."""
    port: Port = 9000
    """Port of the operations; 0 takes a free one."""


class LogSettings(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is written."""
    format: Literal["auto", "json", "console"] = "auto"
    """JSON lines or text for people; auto is text on a terminal only."""


class DrainSettings(Section):
    """How the service stops. A pod's grace period must exceed the sum."""

    delay: Seconds = 0.0
    """Seconds between not being ready and refusing connections, in which balancers learn of it."""
    timeout: Seconds = 20.0
    """Seconds that work under way may take to finish."""


class OtelSettings(Section):
    """Traces over OTLP, under OpenTelemetry's own names."""

    exporter_otlp_endpoint: str = ""
    """Collector's address, such as http://collector:4318; empty exports nothing."""
    exporter_otlp_headers: SecretStr = SecretStr("")
    """Headers for the collector: key=value, separated by commas."""
    traces_sampler_arg: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the traces begun here that is recorded, from 0 to 1."""
