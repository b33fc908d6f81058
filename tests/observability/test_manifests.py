"""The stack's manifests: built, strictly valid, restricted, and of one mind with services, rules and each other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, Render
from tests.manifests.test_linters import YAMLLINT, checkov, linter
from tests.manifests.tools import build, group_of, one, pick, pod_of, ports, problems
from tests.observability.boards import FILES as BOARDS
from tests.observability.built import environment, file_of, stack, workloads
from tests.observability.rules import FILES, OBSERVABILITY, groups, run

FOLDERS = {"observability": OBSERVABILITY, "operator": OBSERVABILITY / "operator"}
EXCEPTIONS = {
    "CKV_K8S_38": "Prometheus and kube-state-metrics ask the API server: that is their work",
    "CKV_K8S_40": "each image has the user that its files belong to",
}


@pytest.mark.parametrize("folder", FOLDERS.values(), ids=FOLDERS)
def test_every_object_satisfies_its_strict_schema(folder: Path) -> None:
    found = {f"{each['kind']} {each['metadata']['name']}": problems(each) for each in build(folder)}
    assert not {name: wrong for name, wrong in found.items() if wrong}


def test_no_object_is_built_twice() -> None:
    names = [
        (group_of(each), each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in stack()
    ]
    assert len(names) == len(set(names))


def test_no_object_is_larger_than_what_kubectl_remembers_of_it() -> None:
    # `kubectl apply` keeps the whole object in an annotation, and annotations hold 256 KiB.
    assert max(len(json.dumps(each)) for folder in FOLDERS.values() for each in build(folder)) < 240_000


def test_checkov_has_nothing_against_it_but_what_is_explained(tmp_path: Path) -> None:
    for name, folder in FOLDERS.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump_all(build(folder)), encoding="utf-8")
    judged, failed = checkov(tmp_path)
    assert judged == {"observability.yaml"}
    left = {each for each in failed if each.partition(" ")[0] not in EXCEPTIONS}
    assert not left
    assert {each.partition(" ")[0] for each in failed} == EXCEPTIONS.keys()


def test_yamllint_has_nothing_against_the_files() -> None:
    # What a person reads in one line stays in one line: expressions and texts of rules.
    config = YAMLLINT.replace("line-length: {max: 120}", "line-length: disable")
    done = linter("yamllint@1.38.0", "--strict", "--config-data", config, str(OBSERVABILITY))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("namespace", ["monitoring", "kafka"])
def test_a_namespace_is_restricted_and_denies_by_default(namespace: str) -> None:
    (found,) = [each for each in pick(stack(), "Namespace") if each["metadata"]["name"] == namespace]
    assert found["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    policies = [each for each in pick(stack(), "NetworkPolicy") if each["metadata"]["namespace"] == namespace]
    (deny,) = [each for each in policies if each["spec"]["podSelector"] == {}]
    assert deny["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny["spec"]


def test_services_select_pods_that_are_there_and_lead_to_their_ports() -> None:
    for service in pick(stack(), "Service"):
        workload = workloads()[service["spec"]["selector"]["app.kubernetes.io/name"]]
        declared = {
            port["name"]: port["containerPort"]
            for port in workload["spec"]["template"]["spec"]["containers"][0]["ports"]
        }
        assert {port["targetPort"]: port["port"] for port in service["spec"]["ports"]}.items() <= declared.items()


def doors() -> set[tuple[str, int]]:
    """Return name and port of all that the Services of the stack offer."""
    return {
        (each["metadata"]["name"], port["port"]) for each in pick(stack(), "Service") for port in each["spec"]["ports"]
    }


def test_every_address_in_a_configuration_is_that_of_a_service() -> None:
    texts = [text for each in pick(stack(), "ConfigMap") for text in each["data"].values()]
    texts += [entry.get("value", "") for each in workloads().values() for entry in environment(each)]
    named = re.findall(
        r"\b(?:kafka-0\.)?([a-z-]+)(?:\.monitoring|\.kafka\.svc\.cluster\.local)?:(\d{4,5})\b", "\n".join(texts)
    )
    found = {(name, int(port)) for name, port in named if name not in {"localhost", "127.0.0.1"}}
    assert {("alertmanager", 9093), ("jaeger", 4317), ("kafka", 9092), ("kube-state-metrics", 8080)} <= found
    assert found <= doors()


@pytest.mark.parametrize("overlay", ["production", "service-mesh", "staging"])
def test_a_service_sends_its_spans_to_a_service_that_is_there(render: Render, overlay: str) -> None:
    folder = render(service_kind="fastapi", mesh="istio") / "k8s" / "overlays" / overlay
    address = one(build(folder), "ConfigMap")["data"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
    host, port = address.removeprefix("http://").split(":")
    assert host.endswith(".monitoring")
    assert (host.removesuffix(".monitoring"), int(port)) in doors()


def test_the_proxies_of_istio_send_their_spans_there_too() -> None:
    for name in ("ambient", "install"):
        found = yaml.safe_load((ROOT / "k8s" / "mesh" / "istio" / f"{name}.yaml").read_text(encoding="utf-8"))
        (provider,) = found["spec"]["meshConfig"]["extensionProviders"]
        target = provider["opentelemetry"]
        assert (target["service"].removesuffix(".monitoring.svc.cluster.local"), target["port"]) in doors()


def test_all_rules_and_all_dashboards_are_mounted() -> None:
    for path in FILES:
        assert file_of("prometheus-rules", path.name) == path.read_text(encoding="utf-8")
    for path in BOARDS:
        assert file_of("grafana-dashboards", path.name) == path.read_text(encoding="utf-8")


def test_the_operator_gets_the_same_rules() -> None:
    objects = {
        each["metadata"]["name"]: each["spec"]["groups"] for each in pick(build(FOLDERS["operator"]), "PrometheusRule")
    }
    assert objects == {f"marty-{name}": found for name, found in groups().items()}


def test_the_operator_labels_services_as_our_own_prometheus_does() -> None:
    (endpoint,) = one(build(FOLDERS["operator"]), "PodMonitor")["spec"]["podMetricsEndpoints"]
    plain = yaml.safe_load(file_of("prometheus", "prometheus.yaml"))["scrape_configs"][0]["relabel_configs"]
    names = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    operators = [{names.get(key, key): value for key, value in rule.items()} for rule in endpoint["relabelings"]]
    # The operator itself chooses port and phase, and sets namespace and pod.
    assert [rule for rule in operators if rule not in plain] == []
    assert endpoint["port"] == "ops"


@pytest.mark.parametrize("mesh", ["none", "istio", "linkerd"])
def test_a_service_lets_itself_be_scraped_by_this_namespace(render: Render, mesh: str) -> None:
    manifests = build(render(service_kind="fastapi", mesh=mesh) / "k8s" / "overlays" / "production")
    (namespace,) = [each for each in pick(stack(), "Namespace") if each["metadata"]["name"] == "monitoring"]
    role = {"network-role": namespace["metadata"]["labels"]["network-role"]}
    policies = pick(manifests, "NetworkPolicy")
    callers = [
        (source["namespaceSelector"].get("matchLabels"), {port["port"] for port in rule["ports"]})
        for policy in policies
        for rule in policy["spec"].get("ingress", [])
        for source in rule["from"]
        if "namespaceSelector" in source
    ]
    assert (role, {"ops"}) in callers
    spans = [
        rule
        for policy in policies
        for rule in policy["spec"].get("egress", [])
        if rule["to"] == [{"namespaceSelector": {"matchLabels": role}}]
    ]
    (collector,) = [each for each in pick(stack(), "Service") if each["metadata"]["name"] == "otel-collector"]
    listening = {port["port"] for port in collector["spec"]["ports"]}
    assert any({port["port"] for port in rule["ports"]} == listening for rule in spans)
    assert "ops" in ports(manifests)
    assert pod_of(manifests)["metadata"]["annotations"]["prometheus.io/scrape"] == "true"


def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    found = yaml.safe_load(file_of("prometheus", "prometheus.yaml"))
    found["rule_files"] = [str(path) for path in FILES]
    for job in found["scrape_configs"]:
        # Debian's promtool knows no discovery in Kubernetes, nor is there a token here.
        job.pop("kubernetes_sd_configs", None)
        job.pop("authorization", None)
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(found), encoding="utf-8")
    done = run("promtool", "check", "config", "--lint=all", "--lint-fatal", str(tmp_path / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_collector_and_jaeger_use_only_what_they_define() -> None:
    for name, key in (("otel-collector", "collector.yaml"), ("jaeger", "jaeger.yaml")):
        found = yaml.safe_load(file_of(name, key))
        assert set(found["service"]["extensions"]) == found["extensions"].keys()
        for part in ("receivers", "processors", "exporters"):
            used = {each for pipeline in found["service"]["pipelines"].values() for each in pipeline[part]}
            assert used == found[part].keys()


def test_dashboards_ask_the_sources_that_are_provisioned() -> None:
    sources = yaml.safe_load(file_of("grafana-provisioning", "datasources.yaml"))["datasources"]
    assert {source["uid"] for source in sources} == {"prometheus", "jaeger", "alertmanager"}
    provider = yaml.safe_load(file_of("grafana-provisioning", "provider.yaml"))["providers"][0]
    mounts = workloads()["grafana"]["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert provider["options"]["path"] in {mount["mountPath"] for mount in mounts}


def test_this_repository_names_no_image_elsewhere() -> None:
    texts = [path for path in OBSERVABILITY.rglob("*.yaml") if path.parent.name != "versions"]
    images = {
        name
        for path in texts
        for name in re.findall(r"^\s+image: (\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert images == workloads().keys()
    assert ROOT in OBSERVABILITY.parents
