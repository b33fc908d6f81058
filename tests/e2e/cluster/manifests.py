"""Objects that tests put into a cluster, such as its policies admit."""

from __future__ import annotations

from typing import Any

Manifest = dict[str, Any]

IN_THE_MESH: dict[str, Manifest] = {
    "istio": {"labels": {"sidecar.istio.io/inject": "true"}, "annotations": {"sidecar.istio.io/nativeSidecar": "true"}},
    "linkerd": {
        "annotations": {
            "linkerd.io/inject": "enabled",
            "config.beta.linkerd.io/proxy-enable-native-sidecar": "true",
        }
    },
    "none": {},
}


def namespace(name: str) -> Manifest:
    """Return a namespace as strict as a service's."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }


def pod(name: str, where: str, image: str, *, mesh: str = "none", scraped: bool = False) -> Manifest:
    """Return a pod that waits for programs to be run in it.

    Args:
        name: of the pod.
        where: its namespace.
        image: of a service.
        mesh: that it is part of.
        scraped: whether Prometheus takes it for a service; it does not answer.
    """
    metadata = IN_THE_MESH[mesh]
    labels = {"app.kubernetes.io/name": name, **metadata.get("labels", {})}
    annotations = dict(metadata.get("annotations", {}))
    container: Manifest = {
        "name": "service",
        "image": image,
        "command": ["python", "-c", "import signal; signal.sigwait({signal.SIGTERM})"],
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if scraped:
        annotations |= {"prometheus.io/scrape": "true", "prometheus.io/port": "9000", "prometheus.io/path": "/metrics"}
        container["ports"] = [{"name": "ops", "containerPort": 9000}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": where, "labels": labels, "annotations": annotations},
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
        },
    }
