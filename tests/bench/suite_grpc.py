"""What a unary call costs: grpc.aio alone, and the rendered service with all its interceptors."""

from __future__ import annotations

from . import report
from .plan import Plan
from .servers import Row, take_turns
from .setting import Setting

NAME = "grpc-service"
PACKAGE = "grpc_service"
SERVICE_LINE = b'"event":"grpc.call"'
SHOWN = ("grpcio", "protobuf", "pydantic", "uvloop")


def measure(setting: Setting, plan: Plan) -> str:
    """Return the report."""
    setting.install(NAME, service_kind="grpc")
    figures = take_turns(rows(), setting.python, setting.made("grpc"), plan)
    goal = report.goal(figures, "service", "bare grpc.aio", 0.80)
    made_by = report.provenance("grpc", setting.python, SHOWN)
    return f"{report.table(figures, 'calls/s')}\n{goal}{report.turns(figures)}\n{made_by}"


def rows() -> list[Row]:
    """Return what is compared, the yardstick first."""
    settings = {"GRPC_PORT": "{port}", "OPS_PORT": "0"}
    client = (f"--package={PACKAGE}.v1",)
    load = "tests.bench.grpc_client"
    return [
        Row("bare grpc.aio", ["-m", "tests.bench.apps.called", "{port}"], client=client, load=load),
        Row("service", ["-m", PACKAGE], settings, SERVICE_LINE, client=client, load=load),
    ]
