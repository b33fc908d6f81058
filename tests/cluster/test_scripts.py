"""The cluster's scripts with the real kubectl on a real API server; what needs nodes or downloads is stood in for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cluster.conftest import applied
from tests.cluster.kubectl import Kubectl, eventually
from tests.manifests.test_cluster_scripts import Machine

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]

KUBECTL = """#!/usr/bin/env bash
case $* in
  *" rollout status "* | *" wait "* | *" https://"* | *" deployment metrics-server "* | *" /apis/metrics.k8s.io/"*)
    exec "{stand_ins}/kubectl" "$@" ;;
esac
exec "{kubectl}" "$@"
"""


@pytest.fixture
def machine(tmp_path: Path, cluster: Kubectl) -> Machine:
    """A machine where kubectl is real."""
    machine = Machine(tmp_path)
    stand_ins = tmp_path / "stand-ins"
    stand_ins.mkdir()
    (machine.bin / "kubectl").rename(stand_ins / "kubectl")
    (machine.bin / "kubectl").write_text(KUBECTL.format(stand_ins=stand_ins, kubectl=shutil.which("kubectl")))
    (machine.bin / "kubectl").chmod(0o755)
    machine.environment = {name: cluster.environment()[name] for name in ("KUBECONFIG", "KUBECACHEDIR")}
    return machine


def test_what_setup_makes_is_valid_also_after_a_second_run(machine: Machine) -> None:
    for _ in range(2):
        made = machine.run("setup-cluster.sh", "--service-mesh", "istio")
        assert (made.returncode, made.stderr) == (0, ""), made.stdout + made.stderr
        said = machine.run("validate.sh", "--service-mesh", "istio")
        assert (said.returncode, "WRONG" in said.stdout) == (0, False), said.stdout


def test_validate_notices_a_policy_that_does_not_hold(machine: Machine, cluster: Kubectl) -> None:
    options = ("--service-mesh", "istio", "--no-observability")
    assert machine.run("setup-cluster.sh", *options).returncode == 0
    cluster("delete", "validatingadmissionpolicybinding", "marty-root")
    expected = ["what must not be is refused: root"]

    def wrong() -> list[str]:
        said = machine.run("validate.sh", *options).stdout.splitlines()
        return [line.split("  ")[1].rpartition(": ")[0] for line in said if line.startswith("WRONG")]

    try:
        eventually(lambda: wrong() == expected, "only the policy is missed")
    finally:
        applied(cluster)
