"""What a service is tried with in the cluster: as strict as a service, and reached by nobody else."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.manifests.test_platform import wrong
from tests.manifests.tools import Built, Manifest, pick

POSTGRESQL = list(yaml.safe_load_all((ROOT / "k8s/trial/postgresql.yaml").read_text(encoding="utf-8")))


@pytest.mark.parametrize("manifest", POSTGRESQL, ids=lambda each: each["kind"])
def test_the_database_of_trials_satisfies_its_strict_schema(manifest: Manifest) -> None:
    assert wrong(manifest) == []


def test_the_database_of_trials_runs_as_strictly_as_a_service(built: Built) -> None:
    def hardening(manifests: list[Manifest]) -> Any:
        (deployment,) = pick(manifests, "Deployment")
        pod = deployment["spec"]["template"]["spec"]
        return pod["securityContext"], pod["containers"][0]["securityContext"], pod["automountServiceAccountToken"]

    assert hardening(POSTGRESQL) == hardening(built("database", "none", "production"))


def test_the_database_of_trials_is_where_the_page_says() -> None:
    page = (ROOT / "docs/laptop-to-canary.md").read_text(encoding="utf-8")
    (deployment,) = pick(POSTGRESQL, "Deployment")
    values = {each["name"]: each["value"] for each in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}
    (service,) = pick(POSTGRESQL, "Service")
    login = f"{values['POSTGRES_USER']}:{values['POSTGRES_PASSWORD']}"
    assert f"DATABASE_URL=postgresql+asyncpg://{login}@{service['metadata']['name']}/{values['POSTGRES_DB']}" in page


def test_the_certificate_is_the_one_that_the_services_own_door_looks_for(built: Built) -> None:
    certificate = yaml.safe_load((ROOT / "k8s/trial/certificate.yaml").read_text(encoding="utf-8"))
    (door,) = pick(built("database", "istio", "production"), "Gateway")
    (tls,) = (server["tls"] for server in door["spec"]["servers"] if server["port"]["protocol"] == "HTTPS")
    assert certificate["spec"]["secretName"] == tls["credentialName"]
    # The tests' services have another domain.
    name, _, _ = door["spec"]["servers"][0]["hosts"][0].partition(".")
    assert certificate["spec"]["dnsNames"] == [f"{name}.example.com"]
