"""The manifests' own Prometheus and Alertmanager, with what a test must change: addresses, and how long things take.

Discovery needs a cluster, so a target is given with the labels that discovery would give it; which of them to ask,
where, and under which labels is then up to the rules of the manifests.
"""

from __future__ import annotations

import json
import re
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

from tests.observability.rules import FILES, OBSERVABILITY
from tests.servers.prometheus import Alertmanager, Prometheus
from tests.servers.server import Server

NAMESPACE = "shop"


def discovered(job: str, port: int, endpoint: str) -> dict[str, Any]:
    """Return a pod as Kubernetes' discovery would give it: the port of an annotation wins over the address."""
    meta = {
        "namespace": NAMESPACE,
        "pod_name": f"{job}-0",
        "pod_phase": "Running",
        "pod_annotation_prometheus_io_scrape": "true",
        "pod_annotation_prometheus_io_port": str(port),
        "pod_annotation_prometheus_io_path": "/metrics",
        "pod_label_app_kubernetes_io_name": job,
        "pod_container_port_name": endpoint,
        "pod_container_port_number": str(port),
    }
    labels = {f"__meta_kubernetes_{name}": value for name, value in meta.items()}
    return {"targets": [f"127.0.0.1:{port if endpoint != 'ops' else 1}"], "labels": labels}


def configuration(pods: list[dict[str, Any]], alertmanager: int) -> str:
    """Return the manifests' configuration with these pods in place of discovery."""
    found = yaml.safe_load((OBSERVABILITY / "prometheus" / "prometheus.yaml").read_text(encoding="utf-8"))
    found["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    found["rule_files"] = ["*.rules.yaml"]
    found["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{alertmanager}"]
    for job in found["scrape_configs"]:
        if job.pop("kubernetes_sd_configs", [{}])[0].get("role") == "pod":
            job["static_configs"] = pods
    kept = {"services", "pods", "prometheus"}
    found["scrape_configs"] = [job for job in found["scrape_configs"] if job["job_name"] in kept]
    return yaml.safe_dump(found).replace("localhost:9090", "127.0.0.1:PORT")


def impatient_rules() -> dict[str, str]:
    """Return the rule files, evaluated each second and without patience."""
    files: dict[str, str] = {}
    for path in FILES:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for group in content["groups"]:
            group["interval"] = "1s"
            for rule in group["rules"]:
                rule.pop("for", None)
        files[f"{path.stem}.rules.yaml"] = yaml.safe_dump(content)
    return files


def routing(receiver: int) -> str:
    """Return the manifests' configuration of Alertmanager, whose receivers are paths of one address."""
    text = (OBSERVABILITY / "alertmanager" / "alertmanager.yaml").read_text(encoding="utf-8")
    text = re.sub(r"url_file: /etc/alertmanager-receivers/(\w+)", rf"url: http://127.0.0.1:{receiver}/\1", text)
    return re.sub(r"group_(wait|interval): \w+", r"group_\1: 1s", text)


class Receiver:
    """Who is told: keeps what came, by path."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                receiver.told += [(self.path.strip("/"), alert) for alert in body["alerts"]]
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def heard(self, alertname: str, job: str, status: str) -> list[tuple[str, dict[str, Any]]]:
        """Return what came of an alert of a service."""
        wanted = {"alertname": alertname, "job": job}
        return [
            (to, each)
            for to, each in self.told
            if wanted.items() <= each["labels"].items() and each["status"] == status
        ]


class Stack:
    """A running Prometheus with its Alertmanager and whoever that tells."""

    def __init__(self, prometheus: Server, receiver: Receiver) -> None:
        self.url = prometheus.url
        self.receiver = receiver

    def ask(self, path: str, **query: str) -> Any:
        """Return the data of an answer of Prometheus' API."""
        request = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)["data"]

    def series(self, expression: str) -> list[dict[str, Any]]:
        """Return what an expression is now."""
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found


@contextmanager
def running(services: dict[str, int]) -> Iterator[Stack]:
    """Yield a stack that watches services, by name and operations port."""
    with ExitStack() as stack:

        def start(software: Prometheus) -> Server:
            server = Server(software)
            stack.callback(server.close)
            return server.start()

        receiver = Receiver()
        stack.callback(receiver.close)
        alertmanager = start(Alertmanager({"alertmanager.yml": routing(receiver.port)}))
        pods = [discovered(job, port, "ops") for job, port in services.items()]
        pods.append(discovered("alertmanager", alertmanager.port, "metrics"))
        files = {"prometheus.yml": configuration(pods, alertmanager.port), **impatient_rules()}
        yield Stack(start(Prometheus(files)), receiver)
