"""Build an overlay of a rendered service, pick objects out of it, and judge each by its strict schema."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from jsonschema import Draft202012Validator

from extensions.kinds import DOORS
from extensions.kinds import KINDS as FEATURES
from tests.conftest import KINDS, MESHES, ROOT
from tests.manifests import crds
from tests.servers.requirement import missing

# The oldest release that still gets fixes: what it knows, newer ones know too.
KUBERNETES = "1.35"
CORE_GROUPS = frozenset(
    {"", "apps", "autoscaling", "batch", "policy", "networking.k8s.io", "rbac.authorization.k8s.io"},
)

SHARED = frozenset({"Namespace", "ServiceAccount"})

Manifest = dict[str, Any]
Built = Callable[[str, str, str], list[Manifest]]
Composed = Callable[..., list[Manifest]]


def overlays(mesh: str) -> list[str]:
    """Return the overlays that every service with this mesh has."""
    return ["development", "production", "staging", *(["service-mesh"] if mesh != "none" else [])]


def has_canary(kind: str, mesh: str) -> bool:
    """Say whether a mesh can share out the requests of this kind."""
    return mesh != "none" and bool(DOORS & FEATURES[kind])


def cases(kinds: Iterable[str] = KINDS) -> list[tuple[str, str, str]]:
    """Return kind, mesh and overlay of every single release; a canary is two: `canary stable` and `canary canary`."""
    canaries = ["canary stable", "canary canary"]
    return [
        (kind, mesh, overlay)
        for kind in kinds
        for mesh in MESHES
        for overlay in overlays(mesh) + canaries * has_canary(kind, mesh)
    ]


def compose(folder: Path, mesh: str, *components: str) -> None:
    """Let every overlay that has the mesh's component have these components in its place."""
    listed, wanted = f"  - ../../components/{mesh}\n", "".join(f"  - ../../components/{name}\n" for name in components)
    files = [each for each in (folder / "overlays").glob("*/kustomization.yaml") if listed in each.read_text()]
    assert len(files) == 3
    for file in files:
        file.write_text(file.read_text().replace(listed, wanted))


def build(overlay: Path) -> list[Manifest]:
    """Return the objects of an overlay as `kubectl kustomize` builds them; a warning fails the test."""
    if not shutil.which("kubectl"):
        missing("kubectl is not on the PATH")
    done = subprocess.run(["kubectl", "kustomize", str(overlay)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def release(manifests: list[Manifest], name: str) -> list[Manifest]:
    """Return the objects of one of two releases, `stable` or `canary`, and what there is once for both."""
    of_canary = [each for each in manifests if is_canary(each)]
    of_stable = [each for each in manifests if not is_canary(each)]
    policies = {f"{name_of(one(of_stable, 'Service'))}-migrate{part}" for part in ("", "-mesh")}
    shared = [each for each in of_stable if each["kind"] in SHARED or name_of(each) in policies]
    return of_stable if name == "stable" else shared + of_canary


def is_canary(manifest: Manifest) -> bool:
    """Say whether an object is there for a canary only."""
    return str(manifest["metadata"].get("labels", {}).get("app.kubernetes.io/name")).endswith("-canary")


def name_of(manifest: Manifest) -> str:
    """Return an object's name."""
    return str(manifest["metadata"]["name"])


def pick(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """Return the objects of a kind."""
    return [each for each in manifests if each["kind"] == kind]


def one(manifests: list[Manifest], kind: str) -> Manifest:
    """Return the only object of a kind."""
    (only,) = pick(manifests, kind)
    return only


def group_of(manifest: Manifest) -> str:
    """Return the API group, '' for the core group."""
    group, slash, _ = manifest["apiVersion"].partition("/")
    return group if slash else ""


def pod_of(manifests: list[Manifest]) -> Manifest:
    """Return the Deployment's pod template: metadata and spec."""
    pod: Manifest = one(manifests, "Deployment")["spec"]["template"]
    return pod


def pods_of(manifests: list[Manifest]) -> list[Manifest]:
    """Return all pod templates: the Deployment's, and the Jobs'."""
    return [pod_of(manifests), *(job["spec"]["template"] for job in pick(manifests, "Job"))]


def service_container(manifests: list[Manifest]) -> Manifest:
    """Return the container in which the service runs."""
    (container,) = pod_of(manifests)["spec"]["containers"]
    found: Manifest = container
    return found


def environment(manifests: list[Manifest]) -> dict[str, str]:
    """Return the environment that the service's container gets, as Kubernetes would put it together."""
    container = service_container(manifests)
    maps = {each["metadata"]["name"]: each["data"] for each in pick(manifests, "ConfigMap")}
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= maps[source["configMapRef"]["name"]]
    return found | {entry["name"]: entry["value"] for entry in container.get("env", [])}


def ports(manifests: list[Manifest]) -> dict[str, int]:
    """Return the ports of the service's container by name."""
    return {port["name"]: port["containerPort"] for port in service_container(manifests)["ports"]}


def problems(manifest: Manifest) -> list[str]:
    """Return what the object's schema, unknown fields included, has against it; fail where there is no schema."""
    if group_of(manifest) in CORE_GROUPS:
        return core_problems(manifest)
    # A resource definition says nothing of metadata: any core kind's schema does.
    metadata = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": manifest["metadata"]}
    key = (manifest["apiVersion"], manifest["kind"])
    validator = module_schemas(group_of(manifest)).get(key) or custom_schemas().get(key)
    if validator is None:
        pytest.fail(f"no schema for {manifest['apiVersion']} {manifest['kind']}", pytrace=False)
    errors = validator.iter_errors(manifest)
    return core_problems(metadata) + [f"{error.json_path}: {error.message}" for error in errors]


def core_problems(manifest: Manifest) -> list[str]:
    """Judge an object of Kubernetes itself."""
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{error.json_path}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError as error:
        pytest.fail(error.message, pytrace=False)
    return []


@functools.cache
def custom_schemas() -> dict[tuple[str, str], Draft202012Validator]:
    """Return a strict validator for each served version of each custom resource, by apiVersion and kind."""
    specs = [json.loads(file.read_text(encoding="utf-8"))["spec"] for file in sorted(definitions().glob("*.json"))]
    return dict(entry for spec in specs for entry in validators(spec))


def definitions() -> Path:
    """Return the folder of the custom resource definitions; skip the test where there are none."""
    folder = Path(os.environ.get("MARTY_CRDS") or ROOT.parent / "shared" / "crds")
    if not any(folder.glob("*.json")):
        missing(f"there are no custom resource definitions in {folder}: name their folder in MARTY_CRDS")
    return folder


@functools.cache
def module_schemas(group: str) -> dict[tuple[str, str], Draft202012Validator]:
    """Return the same for an API group whose definitions a Go module holds."""
    return dict(entry for spec in crds.specs(group) for entry in validators(spec))


def validators(spec: Manifest) -> Iterator[tuple[tuple[str, str], Draft202012Validator]]:
    """Yield apiVersion, kind and validator for each served version of one definition."""
    for version in spec["versions"]:
        if version["served"]:
            schema = version["schema"]["openAPIV3Schema"]
            known = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
            schema = {**schema, "properties": {**known, **schema["properties"]}}
            key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            yield key, Draft202012Validator(closed(schema))


def closed(schema: Manifest) -> Manifest:
    """Return the schema with unknown fields forbidden wherever it lists the known ones, as a strict API server does.

    `oneOf` and its kin stay as they are: there `properties` is a condition on a few fields, not the list of all.
    """
    result = dict(schema)
    if "properties" in schema:
        result["properties"] = {name: closed(child) for name, child in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            result.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            result[key] = closed(schema[key])
    return result
