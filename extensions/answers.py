"""Validators: each returns '' for a good answer, or a sentence that says what to change."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, cast

from copier.errors import UserMessageError
from copier_template_extensions import ContextHook
from jinja2 import Environment

LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
DOMAIN_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
REGISTRY = re.compile(
    r"[a-z0-9]+([.-][a-z0-9]+)*(:[0-9]{1,5})?(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*",
)
EMAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")

ANSWERS_FILE = ".copier-answers.yml"
DEFAULT_PORTS = {"http_port": 8000, "grpc_port": 50051, "ops_port": 9000}
DOORS = {"http_port": "http", "grpc_port": "grpc"}
IDENTITY = {"author_name": "user.name", "author_email": "user.email"}
CHOICES = {
    "broker": ("kafka", "rabbitmq", "redis"),
    "mesh": ("none", "istio", "linkerd"),
    "python_version": ("3.11", "3.12", "3.13", "3.14"),
}

# YAML reads these words as something else than text.
YAML_WORDS = frozenset(["false", "null", "off", "true", "yes"])

# Modules that a rendered service imports, or may: a package of the same name would hide them.
DEPENDENCY_MODULES = frozenset(
    [
        "aio_pika",
        "aiokafka",
        "aiormq",
        "alembic",
        "annotated_types",
        "anyio",
        "authlib",
        "click",
        "copier",
        "coverage",
        "cryptography",
        "docs",
        "dotenv",
        "fakeredis",
        "fastapi",
        "faststream",
        "gevent",
        "google",
        "googleapis",
        "grpc",
        "grpc_health",
        "grpc_reflection",
        "grpc_status",
        "grpc_tools",
        "grpcio",
        "h11",
        "hatch_build",
        "httptools",
        "httpx",
        "httpx2",
        "hypothesis",
        "idna",
        "jinja2",
        "joserfc",
        "jwt",
        "kubernetes",
        "limits",
        "locust",
        "marty",
        "marty_lib",
        "migrations",
        "mypy",
        "opentelemetry",
        "packaging",
        "playwright",
        "prometheus_client",
        "proto",
        "protobuf",
        "pydantic",
        "pydantic_core",
        "pydantic_settings",
        "pytest",
        "redis",
        "requests",
        "ruff",
        "scripts",
        "service",
        "sqlalchemy",
        "src",
        "stamina",
        "starlette",
        "structlog",
        "template",
        "test",
        "tests",
        "typer",
        "typing_extensions",
        "urllib3",
        "uv",
        "uvicorn",
        "uvloop",
        "yaml",
    ]
)


class Answers(ContextHook):
    """Offer the validators as filters to `copier.yml`, and refuse unattended runs with one clear message.

    Copier answers a bad `--data` with a traceback. This hook looks first, and names everything that is wrong at once.
    """

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.looked = False
        environment.globals["default_ports"] = DEFAULT_PORTS
        environment.filters.update({check.__name__: check for check in (*CHECKS.values(), port_clash)})

    def hook(self, context: dict[str, Any]) -> None:
        if self.looked:
            return
        self.looked = True
        conf, shared = context["_copier_conf"], cast(dict[str, Any], self.environment.globals)
        folder = Path(conf["dst_path"])
        if problem := destination_problem(folder, conf["overwrite"] or conf["pretend"]):
            raise UserMessageError(problem)
        data = dict(conf["data"])
        if conf["defaults"] and not conf["user_defaults"] and not (folder / ANSWERS_FILE).exists():
            data = {name: shared["git_identity"](key) for name, key in IDENTITY.items()} | data
        if problems := list(data_problems(data, shared["kinds"])):
            raise UserMessageError("\n".join(problems))


def data_problems(data: dict[str, Any], kinds: dict[str, frozenset[str]]) -> Iterator[str]:
    """Yield a sentence for each answer given by `--data` or `--data-file` that would be refused."""
    for question, check in CHECKS.items():
        if question in data and (problem := check(data[question])):
            yield f"{question}: {problem}"
    for question, choices in {"service_kind": kinds, **CHOICES}.items():
        if question in data and data[question] not in choices:
            yield f"{question}: '{data[question]}' is no choice: use one of {', '.join(choices)}."
    has = kinds.get(data.get("service_kind", "fastapi"), frozenset())
    ports = {
        name: str(data.get(name, port))
        for name, port in DEFAULT_PORTS.items()
        if DOORS.get(name, "ops") in {"ops", *has}
    }
    for (first, taken), (second, port) in combinations(ports.items(), 2):
        if problem := port_clash(port, taken, first):
            yield f"{second}: {problem}"


def service_name_problem(name: str) -> str:
    """Refuse what is no DNS-1123 label of 3 to 40 characters, or no importable Python package of its own."""
    if not 3 <= len(name) <= 40:
        return f"'{name}' has {len(name)} characters: use 3 to 40."
    if not LABEL.fullmatch(name):
        return (
            f"'{name}' is no service name: use lower-case letters, digits and hyphens, start with a letter "
            "and end with a letter or digit, such as order-service."
        )
    package = name.replace("-", "_")
    if keyword.iskeyword(package) or keyword.issoftkeyword(package):
        return f"'{name}' is a Python keyword: choose another name, such as {name}-service."
    if name in YAML_WORDS:
        return f"'{name}' is no text in YAML: choose another name, such as {name}-service."
    if package in sys.stdlib_module_names or package in DEPENDENCY_MODULES:
        return f"'{name}' would hide the Python module {package}: choose another name, such as {name}-service."
    return ""


def destination_problem(folder: Path, allowed: bool) -> str:
    """Refuse to render over somebody's files, unless asked to or a service is there already (an update)."""
    if allowed or not folder.is_dir() or (folder / ANSWERS_FILE).exists():
        return ""
    there = sorted(entry.name for entry in folder.iterdir() if entry.name != ".git")
    if not there:
        return ""
    return (
        f"{folder} is not empty (it holds {', '.join(there[:3])}{', ...' if len(there) > 3 else ''}): "
        "name a new folder, or add --overwrite to render over it on purpose."
    )


def line_problem(text: str, longest: int) -> str:
    """Refuse more than one line, control characters and white space around the text."""
    if not text:
        return "It is empty: type one line."
    if len(text) > longest:
        return f"It has {len(text)} characters: use at most {longest}."
    if not text.isprintable():
        return "It holds a line break, a tab or another control character: use one line of plain text."
    if text != text.strip():
        return "It starts or ends with a space: remove it."
    return ""


def description_problem(text: str) -> str:
    """Refuse what is not one line of up to 200 characters."""
    return line_problem(str(text), 200)


def author_problem(text: str) -> str:
    """Refuse what is not one line of up to 100 characters."""
    if not text:
        return 'It is empty: pass --data author_name="...", or say it once: git config --global user.name "..."'
    return line_problem(str(text), 100)


def email_problem(text: str) -> str:
    """Refuse what is no plain e-mail address."""
    if not text:
        return 'It is empty: pass --data author_email=..., or say it once: git config --global user.email "..."'
    return "" if EMAIL.fullmatch(text) else f"'{text}' is no e-mail address: use one such as team@example.com."


def port_problem(port: int | str) -> str:
    """Refuse what is no port, or one that needs root."""
    if str(port).isdecimal() and 1024 <= int(port) <= 65535:
        return ""
    return f"{port} is no port: use a whole number from 1024 to 65535."


def port_clash(port: int | str, other: int | str | None, question: str) -> str:
    """Refuse the port that another question has already taken."""
    return f"{port} is already the answer to {question}: choose another port." if port == other else ""


def namespace_problem(name: str) -> str:
    """Refuse what Kubernetes would, and its own namespaces."""
    if len(name) > 63 or not DOMAIN_LABEL.fullmatch(name):
        return f"'{name}' is no namespace: use 1 to 63 lower-case letters, digits and hyphens, no hyphen at the ends."
    if name.startswith("kube-"):
        return f"'{name}' belongs to Kubernetes: choose a name that does not start with kube-."
    return ""


def domain_problem(name: str) -> str:
    """Refuse what is no lower-case DNS name of two labels or more."""
    labels = name.split(".")
    good = len(name) <= 200 and len(labels) > 1 and all(DOMAIN_LABEL.fullmatch(label) for label in labels)
    return (
        ""
        if good
        else f"'{name}' is no domain: use a lower-case DNS name such as example.com, without https:// or a path."
    )


def registry_problem(name: str) -> str:
    """Refuse what cannot stand before an image's name."""
    if len(name) <= 200 and REGISTRY.fullmatch(name):
        return ""
    return f"'{name}' is no image registry: use a host and path such as ghcr.io/my-org, without https:// or a tag."


CHECKS: dict[str, Callable[[Any], str]] = {
    "service_name": service_name_problem,
    "service_description": description_problem,
    "author_name": author_problem,
    "author_email": email_problem,
    "http_port": port_problem,
    "grpc_port": port_problem,
    "ops_port": port_problem,
    "namespace": namespace_problem,
    "domain": domain_problem,
    "image_registry": registry_problem,
}
