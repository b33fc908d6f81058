"""RED for gRPC, in and out; `_count` is the rate, the label `code` the errors."""

from __future__ import annotations

from prometheus_client import Gauge

from marty_lib._durations import Durations

SERVER_DURATION = Durations(
    "grpc_server_call_duration_seconds",
    "Time of calls that were answered, in seconds; of a stream until its end.",
    ["method", "code"],
)
SERVER_ACTIVE = Gauge("grpc_server_active_calls", "Calls being answered.")
CLIENT_DURATION = Durations(
    "grpc_client_call_duration_seconds",
    "Time of calls to other services, in seconds; of a stream until its end.",
    ["service", "method", "code"],
)
