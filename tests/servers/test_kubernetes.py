"""Kubernetes as tests get it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.servers import kubernetes

VERSIONS = Path(__file__).resolve().parents[2] / "k8s" / "versions.env"


def test_it_is_of_the_release_that_the_cluster_is_made_of() -> None:
    named = dict(line.split("=", 1) for line in VERSIONS.read_text().splitlines() if not line.startswith("#"))
    assert named["KUBECTL_VERSION"] == kubernetes.version()
    assert re.findall(r":(v\d+\.\d+)\.", named["NODE_IMAGE"]) == [kubernetes.version().rpartition(".")[0]]


def test_every_part_is_of_that_release() -> None:
    module = (kubernetes.MODULE / "go.mod").read_text()
    replaced = set(re.findall(r"^replace k8s.io/[\w-]+ => k8s.io/[\w-]+ (\S+)$", module, re.MULTILINE))
    assert replaced == {kubernetes.version().replace("v1.", "v0.")}


@pytest.mark.xdist_group("cluster")
def test_it_says_its_version(kubeconfig: Path) -> None:
    call = ["kubectl", f"--kubeconfig={kubeconfig}", "get", "--raw=/version"]
    said = json.loads(subprocess.run(call, capture_output=True, text=True, check=True).stdout)
    assert said["gitVersion"] == kubernetes.version()


def test_it_is_not_there_before_it_is_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kubernetes, "compiled", lambda: tmp_path / "nothing")
    assert kubernetes.installed() is None
