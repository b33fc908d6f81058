"""What the stack costs: bare FastAPI, the rendered service and the usual assembly; and what rendering takes."""

from __future__ import annotations

from importlib.metadata import version

from . import rendering, report, sink
from .environment import NAME
from .plan import Plan
from .rendering import Times
from .report import Figures, spread
from .servers import HERE, SERVICE_LINE, Row, step, take_turns
from .setting import Setting
from .sink import Sink

ASSEMBLY_LINE = b'"rate_limit": "1000000000 per 1 hour"'
SHOWN = (
    "asgi-correlation-id",
    "fastapi",
    "opentelemetry-instrumentation-fastapi",
    "opentelemetry-sdk",
    "prometheus-fastapi-instrumentator",
    "pydantic",
    "slowapi",
    "starlette",
    "uvicorn",
    "uvloop",
)


def measure(setting: Setting, plan: Plan) -> str:
    """Return the report."""
    step(f"Rendering {plan.renders + 1} times, and Copier's floor as often")
    times = rendering.measure(setting.template, setting.made("renders"), runs=plan.renders)
    with sink.running() as spans:
        figures = take_turns(rows(spans), setting.python, setting.made("http"), plan, spans)
    made_by = report.provenance("http", setting.python, SHOWN, copier=version("copier"))
    return f"{summary(figures, times)}\n{made_by}"


def rows(sink: Sink) -> list[Row]:
    """Return what is compared, the yardstick first."""
    service = ["-m", NAME.replace("-", "_")]
    settings = {"HTTP_PORT": "{port}", "OPS_PORT": "0"}
    exported = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint("service")}
    pasted = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint("assembly")}
    return [
        Row("bare FastAPI", [str(HERE / "bare.py"), "{port}"]),
        Row("service", service, settings, SERVICE_LINE),
        Row("service, traces exported", service, settings | exported, SERVICE_LINE, "service"),
        Row("usual assembly", [str(HERE / "assembly.py"), "{port}"], pasted, ASSEMBLY_LINE, "assembly"),
    ]


def summary(rows: list[Figures], rendering: Times) -> str:
    """Return the table and the goals in sentences."""
    bare, service, _, assembly = rows
    cpu = bare.total("cpu") / service.total("cpu"), assembly.total("cpu") / service.total("cpu")
    return (
        f"{report.table(rows)}\n"
        f"- The service reaches {spread(service.ratios(bare))} of bare FastAPI; the goal is 0.70, then 0.85.\n"
        f"- It serves {spread(service.ratios(assembly), '.1f')} times what the usual assembly serves; the goal is 10.\n"
        f"- By CPU time, which other work on the machine disturbs less, that is {cpu[0]:.2f} and {cpu[1]:.1f}.\n"
        f"- It takes {service.memory - bare.memory:.0f} MB more than bare FastAPI; the limit is 25.\n"
        f"- {rendering.row()} The limit is 1.5 s.\n"
        f"{report.turns(rows)}"
    )
