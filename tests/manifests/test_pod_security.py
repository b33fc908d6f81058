"""The pod template keeps to the Pod Security Standard `restricted`, which the API server checks on pods only.

A Deployment that breaks it is accepted, and its pods are refused: nothing says so until somebody looks. The controls
are those of https://kubernetes.io/docs/concepts/security/pod-security-standards/, `baseline` included.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest

from tests.manifests.tools import Built, Manifest, one, pod_of, pods_of

VOLUMES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"},
)
SELINUX = frozenset({None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"})
SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    },
)

Change = Callable[[Manifest, Manifest], object]


def containers(spec: Manifest) -> list[Manifest]:
    """Return all containers of a pod."""
    return [each for key in ("initContainers", "containers", "ephemeralContainers") for each in spec.get(key, [])]


def violations(spec: Manifest) -> Iterator[str]:
    """Yield the name of each control that a pod's spec violates."""
    pod = spec.get("securityContext", {})
    if any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
        yield "host namespaces"
    if any(not VOLUMES & volume.keys() for volume in spec.get("volumes", [])):
        yield "volume types"
    if any(sysctl["name"] not in SYSCTLS for sysctl in pod.get("sysctls", [])):
        yield "sysctls"
    yield from shared_violations(pod)
    for container in containers(spec):
        context = container.get("securityContext", {})
        yield from shared_violations(context)
        yield from effective_violations(pod | context)
        yield from container_violations(container, context)


def shared_violations(context: Manifest) -> Iterator[str]:
    """Judge what a pod and a container may both say."""
    selinux = context.get("seLinuxOptions", {})
    if selinux.get("type") not in SELINUX or selinux.get("user") or selinux.get("role"):
        yield "SELinux"
    if context.get("appArmorProfile", {}).get("type") == "Unconfined":
        yield "AppArmor"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield "host process"
    if context.get("runAsUser") == 0:
        yield "running as root"


def effective_violations(context: Manifest) -> Iterator[str]:
    """Judge what a container must have, of its own or of its pod."""
    if context.get("runAsNonRoot") is not True:
        yield "running as non-root"
    if context.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}:
        yield "seccomp"


def container_violations(container: Manifest, context: Manifest) -> Iterator[str]:
    """Judge what only a container may say."""
    capabilities = context.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "privilege escalation"
    if context.get("privileged"):
        yield "privileged"
    if context.get("procMount", "Default") != "Default":
        yield "proc mount"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "host ports"
    if any(handler.get("host") for handler in handlers(container)):
        yield "host probes"


def handlers(container: Manifest) -> Iterator[Manifest]:
    """Yield the handlers of probes and hooks that may name a host."""
    probes = (container.get(name, {}) for name in ("startupProbe", "livenessProbe", "readinessProbe"))
    for each in (*probes, *container.get("lifecycle", {}).values()):
        yield from (each[name] for name in ("httpGet", "tcpSocket") if name in each)


def test_every_pod_conforms_to_the_restricted_standard(manifests: list[Manifest]) -> None:
    assert not [each for pod in pods_of(manifests) for each in violations(pod["spec"])]


@pytest.mark.parametrize(
    ("control", "change"),
    [
        ("host namespaces", lambda spec, _: spec.update(hostNetwork=True)),
        ("volume types", lambda spec, _: spec["volumes"].append({"name": "x", "hostPath": {"path": "/"}})),
        ("sysctls", lambda spec, _: spec["securityContext"].update(sysctls=[{"name": "kernel.msgmax", "value": "1"}])),
        ("SELinux", lambda _, context: context.update(seLinuxOptions={"type": "spc_t"})),
        ("AppArmor", lambda _, context: context.update(appArmorProfile={"type": "Unconfined"})),
        ("host process", lambda _, context: context.update(windowsOptions={"hostProcess": True})),
        ("running as root", lambda _, context: context.update(runAsUser=0)),
        ("running as non-root", lambda _, context: context.update(runAsNonRoot=False)),
        ("running as non-root", lambda spec, _: spec["securityContext"].pop("runAsNonRoot")),
        ("seccomp", lambda spec, _: spec["securityContext"].pop("seccompProfile")),
        ("seccomp", lambda _, context: context.update(seccompProfile={"type": "Unconfined"})),
        ("capabilities", lambda _, context: context.pop("capabilities")),
        ("capabilities", lambda _, context: context["capabilities"].update(add=["NET_ADMIN"])),
        ("privilege escalation", lambda _, context: context.pop("allowPrivilegeEscalation")),
        ("privileged", lambda _, context: context.update(privileged=True)),
        ("proc mount", lambda _, context: context.update(procMount="Unmasked")),
        ("host ports", lambda spec, _: spec["containers"][0]["ports"][0].update(hostPort=80)),
        ("host probes", lambda spec, _: spec["containers"][0]["livenessProbe"]["httpGet"].update(host="127.0.0.1")),
    ],
)
def test_a_pod_that_violates_a_control_is_found(built: Built, control: str, change: Change) -> None:
    spec = copy.deepcopy(pod_of(built("fastapi", "none", "development"))["spec"])
    change(spec, spec["containers"][0]["securityContext"])
    assert list(violations(spec)) == [control]


def test_the_namespace_enforces_the_restricted_standard(manifests: list[Manifest]) -> None:
    labels = one(manifests, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_root_file_system_is_read_only_and_tmp_is_writable(manifests: list[Manifest]) -> None:
    for spec in (pod["spec"] for pod in pods_of(manifests)):
        (container,) = spec["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        (mount,) = [each for each in container["volumeMounts"] if each["mountPath"] == "/tmp"]  # noqa: S108
        assert [each["name"] for each in spec["volumes"] if "emptyDir" in each] == [mount["name"]]


def test_no_pod_gets_a_token_for_the_api_server(manifests: list[Manifest]) -> None:
    assert one(manifests, "ServiceAccount")["automountServiceAccountToken"] is False
    assert not [pod for pod in pods_of(manifests) if pod["spec"]["automountServiceAccountToken"] is not False]
