"""checkov and yamllint, which users run too, have nothing against what is rendered."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import KINDS, MESHES, Render
from tests.manifests.tools import Built, Composed, has_canary

SKIPPED = {
    "CKV_K8S_11": "a limit of CPU throttles event loops; requests share the node fairly",
    "CKV_K8S_15": "tags are never reused, and images loaded into kind cannot be pulled",
    "CKV_K8S_43": "a release may write the digest, a template has none to name",
}
YAMLLINT = "{extends: default, rules: {line-length: {max: 120}, document-start: disable}}"


def linter(package: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a linter in an environment of its own: checkov pins what others need newer."""
    command = [sys.executable, "-m", "uv", "tool", "run", "--quiet", package, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def checkov(folder: Path) -> tuple[set[str], list[str]]:
    """Return the files that checkov judged, and what it has against them."""
    skipped = ",".join(SKIPPED)
    options = ["--framework", "kubernetes", "--skip-download", "--compact", "--output", "json"]
    done = linter("checkov@3.3.30", "--directory", str(folder), *options, "--skip-check", skipped)
    assert done.stdout, done.stderr
    results = json.loads(done.stdout)["results"]
    assert not results["parsing_errors"]
    failed = [f"{each['check_id']} {each['check_name']}: {each['resource']}" for each in results["failed_checks"]]
    return {Path(each["file_path"]).name for each in results["passed_checks"]}, failed


def test_checkov_passes_production_and_canary_of_every_kind_and_mesh(
    built: Built, composed: Composed, tmp_path: Path
) -> None:
    # A canary holds production.
    overlays = {(kind, mesh): "canary" if has_canary(kind, mesh) else "production" for kind in KINDS for mesh in MESHES}
    files = {f"{kind}-{mesh}.yaml": built(kind, mesh, overlay) for (kind, mesh), overlay in overlays.items()}
    files["faults.yaml"] = composed("hybrid", "linkerd", "staging", "linkerd", "faults")
    for name, manifests in files.items():
        (tmp_path / name).write_text(yaml.safe_dump_all(manifests), encoding="utf-8")
    judged, failed = checkov(tmp_path)
    assert judged == files.keys()
    assert not failed


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("kind", KINDS)
def test_yamllint_passes_every_rendered_file(render: Render, kind: str, mesh: str) -> None:
    folder = render(service_kind=kind, mesh=mesh) / "k8s"
    done = linter("yamllint@1.38.0", "--strict", "--config-data", YAMLLINT, str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
