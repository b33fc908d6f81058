"""The template's questions as options; a test compares them with copier.yml."""

from __future__ import annotations

from typing import Annotated

import typer

IDENTITY, FEATURES, RARE = "Who it is", "What it has", "Rarely needed"


def option(help_text: str, panel: str, choices: tuple[str, ...] = ()) -> typer.models.OptionInfo:
    """Return an option for a question; the template checks the answer."""
    shown = f"{help_text}; one of {', '.join(choices)}" if choices else help_text
    info: typer.models.OptionInfo = typer.Option(help=shown, rich_help_panel=panel, metavar="TEXT", show_default=False)
    return info


ServiceName = Annotated[
    str | None,
    option(
        "Name of the service (lower-case letters, digits and hyphens; it names the folder, the package, the image)",
        IDENTITY,
    ),
]
ServiceDescription = Annotated[str | None, option("What does it do? One line", IDENTITY)]
AuthorName = Annotated[str | None, option("Who answers for it? A person or a team", IDENTITY)]
AuthorEmail = Annotated[str | None, option("An e-mail address for questions about it", IDENTITY)]
KINDS = ("fastapi", "grpc", "hybrid", "database", "caching", "message-queue", "auth", "minimal")
ServiceKind = Annotated[str | None, option("What kind of service is it?", FEATURES, KINDS)]
HttpPort = Annotated[str | None, option("Port of the HTTP API", FEATURES)]
GrpcPort = Annotated[str | None, option("Port of the gRPC API", FEATURES)]
OpsPort = Annotated[str | None, option("Port of the operations (health, metrics, info)", FEATURES)]
Broker = Annotated[
    str | None,
    option("Which broker carries the events? (redis is Redis Streams)", FEATURES, ("kafka", "rabbitmq", "redis")),
]
Mesh = Annotated[str | None, option("Which service mesh does the cluster run?", FEATURES, ("none", "istio", "linkerd"))]
Namespace = Annotated[str | None, option("Kubernetes namespace", FEATURES)]
Domain = Annotated[str | None, option("Domain under which the service is reached from outside", FEATURES)]
ImageRegistry = Annotated[str | None, option("Where images are pushed, without the image's name", FEATURES)]
PythonVersion = Annotated[
    str | None,
    option(
        "Python that the service runs on, and the oldest one it supports", FEATURES, ("3.11", "3.12", "3.13", "3.14")
    ),
]
CopyrightYear = Annotated[str | None, option("Year in the copyright notice; else this year", RARE)]
MartyLibSource = Annotated[str | None, option("Folder, wheel or git URL of marty-lib; else the package index", RARE)]
QUESTIONS = (
    "service_name",
    "service_description",
    "author_name",
    "author_email",
    "service_kind",
    "http_port",
    "grpc_port",
    "ops_port",
    "broker",
    "mesh",
    "namespace",
    "domain",
    "image_registry",
    "python_version",
    "copyright_year",
    "marty_lib_source",
)
