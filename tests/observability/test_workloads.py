"""Each part of the stack runs restricted, limited, watched, and with a volume where data matters."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.manifests.test_pod_security import violations
from tests.manifests.tools import pick
from tests.observability.built import stack, workloads
from tests.observability.rules import OBSERVABILITY

KEEPS = {"alertmanager", "grafana", "jaeger", "kafka", "prometheus"}
ASKS_THE_API = {"kube-state-metrics", "prometheus"}


@pytest.mark.parametrize("name", workloads())
class TestAWorkload:
    def test_keeps_to_the_restricted_standard(self, name: str) -> None:
        spec = workloads()[name]["spec"]["template"]["spec"]
        assert list(violations(spec)) == []
        (container,) = spec["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True

    def test_has_requests_a_memory_limit_and_all_probes(self, name: str) -> None:
        (container,) = workloads()[name]["spec"]["template"]["spec"]["containers"]
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert container["resources"]["limits"].keys() == {"memory"}
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()

    def test_has_an_image_of_the_one_file_with_a_version(self, name: str) -> None:
        (container,) = workloads()[name]["spec"]["template"]["spec"]["containers"]
        known = yaml.safe_load((OBSERVABILITY / "versions" / "kustomization.yaml").read_text(encoding="utf-8"))[
            "images"
        ]
        # A digest is there where k8s/images.py has written it down.
        image = container["image"].partition("@")[0]
        assert image in {f"{each['newName']}:{each['newTag']}" for each in known}
        assert re.search(r":v?\d+\.\d+\.\d+$", image)

    def test_keeps_on_a_volume_what_matters(self, name: str) -> None:
        found = workloads()[name]
        assert (found["kind"] == "StatefulSet") is (name in KEEPS)
        claims = found["spec"].get("volumeClaimTemplates", [])
        assert [claim["metadata"]["name"] for claim in claims] == (["data"] if name in KEEPS else [])

    def test_has_a_token_only_where_it_asks_the_api_server(self, name: str) -> None:
        spec = workloads()[name]["spec"]["template"]["spec"]
        assert spec["automountServiceAccountToken"] is (name in ASKS_THE_API)
        assert spec["serviceAccountName"] in {each["metadata"]["name"] for each in pick(stack(), "ServiceAccount")}

    def test_mounts_only_what_exists(self, name: str) -> None:
        found = workloads()[name]
        spec = found["spec"]["template"]["spec"]
        volumes = {each["name"] for each in (*spec.get("volumes", []),)}
        volumes |= {claim["metadata"]["name"] for claim in found["spec"].get("volumeClaimTemplates", [])}
        assert {mount["name"] for mount in spec["containers"][0].get("volumeMounts", [])} == volumes
        paths = [mount["mountPath"] for mount in spec["containers"][0].get("volumeMounts", [])]
        assert not [path for path in paths for other in paths if path.startswith(f"{other}/")]

    def test_is_reached_and_reaches_others_only_by_its_policy(self, name: str) -> None:
        labels = workloads()[name]["spec"]["template"]["metadata"]["labels"]
        chosen = [
            each for each in pick(stack(), "NetworkPolicy") if each["spec"]["podSelector"] == {"matchLabels": labels}
        ]
        (policy,) = chosen
        named = {port["port"] for rule in policy["spec"].get("ingress", []) for port in rule["ports"]}
        (container,) = workloads()[name]["spec"]["template"]["spec"]["containers"]
        assert named <= {port["name"] for port in container["ports"]}
        assert all(rule.get("from") for rule in policy["spec"].get("ingress", []))
        assert all(rule.get("to") for rule in policy["spec"].get("egress", []))

    def test_is_scraped_at_a_port_that_it_declares(self, name: str) -> None:
        template = workloads()[name]["spec"]["template"]
        asked = template["metadata"].get("annotations", {}).get("prometheus.io/port")
        declared = {str(port["containerPort"]) for port in template["spec"]["containers"][0]["ports"]}
        assert asked is None or asked in declared
