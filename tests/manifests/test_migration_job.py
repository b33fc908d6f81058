"""The Job that migrates the database: it can be applied again and again, ends in a mesh, and is nobody's backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from extensions.kinds import KINDS
from tests.conftest import KINDS as OFFERED
from tests.conftest import Render
from tests.manifests.tools import Built, Manifest, build, cases, name_of, one, pick, pod_of, pods_of, service_container

MIGRATING = [kind for kind in OFFERED if "database" in KINDS[kind]]


@pytest.fixture(params=cases(MIGRATING), ids="-".join)
def migrating(request: pytest.FixtureRequest, built: Built) -> list[Manifest]:
    """Every release in every overlay of every kind that has a database, with every mesh."""
    return built(*request.param)


def container_of(manifests: list[Manifest]) -> Manifest:
    """Return the Job's container."""
    (container,) = one(manifests, "Job")["spec"]["template"]["spec"]["containers"]
    found: Manifest = container
    return found


def test_only_kinds_with_a_database_migrate(built: Built) -> None:
    found = {kind for kind in OFFERED if pick(built(kind, "none", "production"), "Job")}
    assert found == set(MIGRATING)


def test_the_job_runs_the_command_in_the_image_of_the_service(migrating: list[Manifest]) -> None:
    container = container_of(migrating)
    assert container["image"] == service_container(migrating)["image"]
    assert container["command"] == ["python", "-m", "order_service", "migrate"]


def test_each_tag_has_a_job_of_its_own_for_a_job_cannot_be_changed(migrating: list[Manifest]) -> None:
    tag = service_container(migrating)["image"].rpartition(":")[2]
    suffix = name_of(one(migrating, "Service")).removeprefix("order-service")
    assert name_of(one(migrating, "Job")) == f"order-service-migrate-{tag}{suffix}"


@pytest.mark.parametrize("kind", MIGRATING)
def test_the_tag_is_found_behind_the_port_of_a_registry(render: Render, kind: str) -> None:
    service = render(service_kind=kind, image_registry="localhost:5001/a/b", service_name="a-b-c")
    job = one(build(service / "k8s/overlays/production"), "Job")
    assert job["metadata"]["name"] == "a-b-c-migrate-0.1.0"


def test_changed_settings_leave_the_job_as_it_is(migrating: list[Manifest]) -> None:
    assert "envFrom" not in container_of(migrating)


def test_the_service_and_the_job_have_the_same_secret_and_no_configmap_holds_an_address(
    migrating: list[Manifest],
) -> None:
    secrets = [secrets_of(pod) for pod in pods_of(migrating)]
    assert secrets == [{"/run/secrets": {"secretName": "order-service", "optional": True}}] * 2
    names = {name for each in pick(migrating, "ConfigMap") for name in each["data"]}
    assert not [name for name in names if name.endswith("_URL")]


def secrets_of(pod: Manifest) -> dict[str, Manifest]:
    """Return the Secrets that a pod's container has as files, by folder."""
    volumes = {each["name"]: each["secret"] for each in pod["spec"]["volumes"] if "secret" in each}
    (container,) = pod["spec"]["containers"]
    return {each["mountPath"]: volumes[each["name"]] for each in container["volumeMounts"] if each["name"] in volumes}


def selectors(node: Any) -> Iterator[dict[str, str]]:
    """Yield the labels by which an object selects pods."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if key in {"selector", "podSelector"} and value:
            yield value.get("matchLabels", value)
        yield from selectors(value)


def test_nothing_takes_the_job_for_the_service(migrating: list[Manifest]) -> None:
    labels = one(migrating, "Job")["spec"]["template"]["metadata"]["labels"]
    assert not labels.items() >= one(migrating, "Service")["spec"]["selector"].items()
    others = [each for each in migrating if each["kind"] not in {"Job", "NetworkPolicy"}]
    found = [selector for each in others for selector in selectors(each.get("spec", {}))]
    assert found
    assert not [selector for selector in found if selector.items() <= labels.items()]


def test_the_job_may_reach_the_database_and_the_dns_and_nobody_reaches_it(migrating: list[Manifest]) -> None:
    labels = one(migrating, "Job")["spec"]["template"]["metadata"]["labels"]
    policies = [each["spec"] for each in pick(migrating, "NetworkPolicy")]
    own = [spec for spec in policies if spec["podSelector"]["matchLabels"].items() <= labels.items()]
    ports = {port["port"] for spec in own for rule in spec["egress"] for port in rule.get("ports", [])}
    assert {53, 5432} <= ports
    assert not [spec for spec in own if spec.get("ingress")]


def test_the_service_may_reach_the_database(migrating: list[Manifest]) -> None:
    labels = pod_of(migrating)["metadata"]["labels"]
    policies = [each["spec"] for each in pick(migrating, "NetworkPolicy")]
    own = [spec for spec in policies if spec["podSelector"]["matchLabels"].items() <= labels.items()]
    assert 5432 in {port["port"] for spec in own for rule in spec["egress"] for port in rule.get("ports", [])}


@pytest.mark.parametrize("kind", MIGRATING)
@pytest.mark.parametrize(
    ("mesh", "injects", "native"),
    [
        ("istio", "sidecar.istio.io/inject", "sidecar.istio.io/nativeSidecar"),
        ("linkerd", "linkerd.io/inject", "config.beta.linkerd.io/proxy-enable-native-sidecar"),
    ],
)
def test_in_a_mesh_the_proxy_ends_with_the_job(built: Built, kind: str, mesh: str, injects: str, native: str) -> None:
    metadata = one(built(kind, mesh, "production"), "Job")["spec"]["template"]["metadata"]
    assert injects in metadata["labels"] | metadata["annotations"]
    assert metadata["annotations"][native] == "true"


def test_the_job_gives_up_and_goes_away(migrating: list[Manifest]) -> None:
    spec = one(migrating, "Job")["spec"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["ttlSecondsAfterFinished"] < spec["activeDeadlineSeconds"]
