"""The cluster that `MARTY_CLUSTER` names, seen through its API, and acted upon by kubectl."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import kubernetes
from kubernetes.client import AppsV1Api, CoreV1Api

NAME = "app.kubernetes.io/name"
FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")
SIDECARS = {"istio": "istio-proxy", "linkerd": "linkerd-proxy"}


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    output: str


class Cluster:
    """One cluster, and no other, whatever the current context of the user is.

    Args:
        context: of kubectl's configuration.
        folder: gets a configuration in which it is the only context.

    Raises:
        AssertionError: there is no such context.
    """

    def __init__(self, context: str, folder: Path) -> None:
        self.context = context
        command = ["kubectl", "config", "view", "--minify", "--flatten", "--context", context]
        shown = subprocess.run(command, capture_output=True, text=True, check=False)
        assert shown.returncode == 0, (
            f"MARTY_CLUSTER={context} is no context of kubectl ({shown.stderr.strip()}): make a cluster with "
            f"k8s/setup-cluster.sh, or name another"
        )
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(shown.stdout)
        self.kubeconfig.chmod(0o600)
        self.environment = os.environ | {"KUBECONFIG": str(self.kubeconfig)}
        api = kubernetes.config.new_client_from_config(str(self.kubeconfig), context)  # type: ignore[no-untyped-call]
        self.core, self.apps = CoreV1Api(api), AppsV1Api(api)

    def mesh(self) -> str:
        """Return the mesh that the cluster was made with."""
        data = self.core.read_namespaced_config_map("marty-cluster", "kube-system").data
        assert data, "the cluster does not say which mesh it was made with: make it with k8s/setup-cluster.sh"
        return data["mesh"]

    def try_kubectl(self, *arguments: str, given: str = "") -> Outcome:
        """Run kubectl; return how it ended, and all that it printed."""
        done = subprocess.run(
            ["kubectl", *arguments],
            env=self.environment,
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        return Outcome(done.returncode, done.stdout)

    def kubectl(self, *arguments: str, given: str = "") -> str:
        """Run kubectl, which must succeed; return what it printed."""
        done = self.try_kubectl(*arguments, given=given)
        assert done.code == 0, f"kubectl {' '.join(arguments)} ended with {done.code}:\n{done.output}"
        return done.output

    def apply(self, *manifests: dict[str, Any]) -> None:
        """Apply objects."""
        self.kubectl("apply", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}))

    def rolled_out(self, namespace: str, deployment: str, seconds: int = 300) -> None:
        """Wait for a Deployment."""
        self.kubectl("rollout", "status", f"deployment/{deployment}", "--namespace", namespace, f"--timeout={seconds}s")

    def pods(self, namespace: str, name: str) -> list[Any]:
        """Return the pods of this name that run and are not about to end."""
        found: list[Any] = self.core.list_namespaced_pod(namespace, label_selector=f"{NAME}={name}").items
        return [pod for pod in found if pod.metadata.deletion_timestamp is None and pod.status.phase == "Running"]

    def try_python(self, namespace: str, pod: str, code: str, *arguments: str, container: str = "service") -> Outcome:
        """Run Python in a container; return how it ended."""
        where = ("exec", pod, "--namespace", namespace, "--container", container)
        return self.try_kubectl(*where, "--", "python", "-c", code, *arguments)

    def python(self, namespace: str, pod: str, code: str, *arguments: str, container: str = "service") -> str:
        """Run Python in a container, which must succeed; return what it printed."""
        done = self.try_python(namespace, pod, code, *arguments, container=container)
        assert done.code == 0, f"Python in {namespace}/{pod} ended with {done.code}:\n{done.output}"
        return done.output

    @contextmanager
    def forwarded(self, namespace: str, service: str, port: int) -> Iterator[str]:
        """Yield the address at which a Service is reached from here, past its NetworkPolicy and its mesh."""
        command = ["kubectl", "port-forward", "--namespace", namespace, f"service/{service}", f":{port}"]
        with subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as forward:
            try:
                yield f"http://127.0.0.1:{forwarded_port(forward.stdout)}"
            finally:
                forward.terminate()


def forwarded_port(printed: IO[str] | None) -> int:
    """Return the port that kubectl has chosen, once it says so."""
    assert printed is not None
    seen = []
    for line in printed:
        seen.append(line)
        if found := FORWARDING.search(line):
            return int(found[1])
    raise AssertionError(f"kubectl port-forward has ended: {''.join(seen)}")


def is_meshed(pod: Any, mesh: str) -> bool:
    """Say whether a pod has the mesh's proxy, as a sidecar that starts first and ends last."""
    sidecars = [each for each in pod.spec.init_containers or [] if each.restart_policy == "Always"]
    return SIDECARS[mesh] in {each.name for each in sidecars}
