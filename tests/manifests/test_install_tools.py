"""`k8s/install-tools.sh` against projects that a stand-in for curl plays: what it installs, and what it refuses."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.conftest import MESHES, ROOT

SCRIPT = ROOT / "k8s" / "install-tools.sh"
VERSIONS = dict(re.findall(r"^(\w+)=(\S+)$", (ROOT / "k8s" / "versions.env").read_text(), re.MULTILINE))
KIND = f"https://github.com/kubernetes-sigs/kind/releases/download/{VERSIONS['KIND_VERSION']}/kind-linux-amd64"
KUBECTL = f"https://dl.k8s.io/release/{VERSIONS['KUBECTL_VERSION']}/bin/linux/amd64/kubectl"
ISTIO = (
    f"https://github.com/istio/istio/releases/download/{VERSIONS['ISTIO_VERSION']}/"
    f"istioctl-{VERSIONS['ISTIO_VERSION']}-linux-amd64.tar.gz"
)
LINKERD = (
    f"https://github.com/linkerd/linkerd2/releases/download/{VERSIONS['LINKERD_VERSION']}/"
    f"linkerd2-cli-{VERSIONS['LINKERD_VERSION']}-linux-amd64"
)
HELM = f"https://get.helm.sh/helm-{VERSIONS['HELM_VERSION']}-linux-amd64.tar.gz"
# Where each project publishes its checksums.
CHECKSUMS = {KIND: ".sha256sum", HELM: ".sha256sum", KUBECTL: ".sha256", ISTIO: ".sha256", LINKERD: ".sha256"}
TOOLS = {
    "none": ["helm", "kind", "kubectl"],
    "istio": ["istioctl", "kind", "kubectl"],
    "linkerd": ["helm", "kind", "kubectl", "linkerd"],
}

# What is in an archive.
PROGRAMS = {ISTIO: "istioctl", HELM: "linux-amd64/helm"}
# Answers with the file that stands for the URL, and notes the URL.
CURL = """#!/bin/bash
while (($#)); do
  case $1 in --output) out=$2; shift 2 ;; --retry) shift 2 ;; --*) shift ;; *) url=$1; shift ;; esac
done
printf '%s\\n' "$url" >>"$STATE/asked"
file=$STATE/files/${url//\\//_}
[[ -e $file ]] || exit 22
cat "$file" >"${out:-/dev/stdout}"
"""


class Internet:
    """The projects' addresses, as a stand-in for curl answers for them."""

    def __init__(self, folder: Path) -> None:
        self.state, self.into, self.bin = folder, folder / "into", folder / "bin"
        self.bin.mkdir()
        (folder / "files").mkdir()
        (self.bin / "curl").write_text(CURL)
        (self.bin / "curl").chmod(0o755)
        self.machine("Linux", "x86_64")
        for url, ending in CHECKSUMS.items():
            content = archive(PROGRAMS[url]) if url in PROGRAMS else f"#!/bin/sh\necho {url}\n".encode()
            self.publish(url, content)
            self.publish(url + ending, f"{hashlib.sha256(content).hexdigest()}  {url.rpartition('/')[2]}\n".encode())

    def machine(self, system: str, processor: str) -> None:
        """Say what machine this is."""
        script = f'#!/bin/sh\n[ "$1" = -s ] && echo {system} || echo {processor}\n'
        (self.bin / "uname").write_text(script)
        (self.bin / "uname").chmod(0o755)

    def publish(self, url: str, content: bytes) -> None:
        """Put content at a URL."""
        (self.state / "files" / url.replace("/", "_")).write_bytes(content)

    def install(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the script."""
        environment = {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "STATE": str(self.state),
            "HOME": "/nowhere",
        }
        command = [str(SCRIPT), "--into", str(self.into), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    def asked(self) -> list[str]:
        """Return the URLs that were asked for."""
        file = self.state / "asked"
        return file.read_text().splitlines() if file.exists() else []

    def installed(self) -> list[str]:
        """Return the programs in the folder."""
        return sorted(path.name for path in self.into.glob("[a-z]*") if os.access(path, os.X_OK))


def archive(name: str) -> bytes:
    """Return a .tar.gz with one program."""
    content = b"#!/bin/sh\n"
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def internet(tmp_path: Path) -> Internet:
    return Internet(tmp_path)


@pytest.mark.parametrize("mesh", MESHES)
def test_a_mesh_gets_its_tools_in_the_versions_of_the_one_file(internet: Internet, mesh: str) -> None:
    done = internet.install("--service-mesh", mesh)
    assert done.returncode == 0, done.stderr
    assert internet.installed() == TOOLS[mesh]
    for name in TOOLS[mesh]:
        assert subprocess.run([internet.into / name], check=False).returncode == 0


def test_what_is_there_in_its_version_is_not_fetched_again(internet: Internet) -> None:
    assert internet.install().returncode == 0
    asked = internet.asked()
    assert internet.install().returncode == 0
    assert internet.asked() == asked

    (internet.into / ".kind-version").write_text("v0.1.0\n")
    assert internet.install().returncode == 0
    assert internet.asked() == [*asked, KIND, f"{KIND}.sha256sum"]


@pytest.mark.parametrize("url", [KIND, KUBECTL, HELM, ISTIO, LINKERD])
def test_what_is_not_as_its_project_published_it_is_not_installed(internet: Internet, url: str) -> None:
    internet.publish(url, b"something else")
    refused = internet.install("--service-mesh", "istio" if url == ISTIO else "linkerd")
    assert refused.returncode == 1
    assert f"{url} is not what {url}{CHECKSUMS[url]} says" in refused.stderr
    assert url.rpartition("/")[2].partition("-")[0] not in internet.installed()


@pytest.mark.parametrize("ending", ["", ".sha256sum"])
def test_what_cannot_be_had_is_named(internet: Internet, ending: str) -> None:
    (internet.state / "files" / f"{KIND}{ending}".replace("/", "_")).unlink()
    refused = internet.install()
    assert refused.returncode == 1
    assert f"cannot download {KIND}{ending}" in refused.stderr
    assert internet.installed() == []


@pytest.mark.parametrize(
    ("system", "processor", "linkerd", "istio"),
    [
        ("Linux", "aarch64", "linux-arm64", "linux-arm64"),
        ("Darwin", "arm64", "darwin-arm64", "osx-arm64"),
        ("Darwin", "x86_64", "darwin", "osx-amd64"),
    ],
)
def test_each_project_calls_a_machine_by_its_own_name(
    internet: Internet, system: str, processor: str, linkerd: str, istio: str
) -> None:
    internet.machine(system, processor)
    cpu = "amd64" if processor == "x86_64" else "arm64"
    for url in (KIND, KUBECTL, HELM):
        other = url.replace("linux", system.lower()).replace("amd64", cpu)
        content = archive(f"{system.lower()}-{cpu}/helm") if url == HELM else b"#!/bin/sh\n"
        internet.publish(other, content)
        internet.publish(other + CHECKSUMS[url], hashlib.sha256(content).hexdigest().encode())
    for mesh, ending in (("linkerd", linkerd), ("istio", f"{istio}.tar.gz")):
        assert internet.install("--service-mesh", mesh).returncode == 1
        assert internet.asked()[-1].endswith(f"-{ending}")


@pytest.mark.parametrize(("system", "processor"), [("Plan9", "x86_64"), ("Linux", "riscv64")])
def test_a_machine_for_which_there_are_no_tools_is_told_so(internet: Internet, system: str, processor: str) -> None:
    internet.machine(system, processor)
    refused = internet.install()
    assert refused.returncode == 1
    assert "the tools are for" in refused.stderr


@pytest.mark.parametrize("arguments", [["--what"], ["--into"], ["--service-mesh", "other"]])
def test_a_wrong_call_installs_nothing(internet: Internet, arguments: list[str]) -> None:
    refused = internet.install(*arguments)
    assert refused.returncode == 2
    assert arguments[0] in refused.stderr
    assert internet.asked() == []


def test_help_shows_every_option(internet: Internet) -> None:
    shown = internet.install("--help")
    assert shown.returncode == 0
    assert {"--service-mesh", "--into"} == set(re.findall(r"--[a-z-]+", shown.stdout))
