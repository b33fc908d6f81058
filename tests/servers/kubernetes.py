"""A Kubernetes control plane: the real API server and controller manager, from their Go modules, on a real etcd.

No node and no scheduler is there: objects are admitted, stored and reconciled up to pods, which wait for ever.

`python -m tests.servers.kubernetes` compiles it, which takes some minutes; no test does.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from .containers import cache_folder, exclusive

MODULE = Path(__file__).with_name("kubernetes")
REMEDY = "apt install etcd-server, then python -m tests.servers.kubernetes, which needs Go 1.26 or newer"
PROGRAMS = ("kube-apiserver", "kube-controller-manager")
# Both are for 127.0.0.1, and gone with the tests.
TOKEN, MANAGER_TOKEN = "marty", "marty-manager"
TOKENS = f"""{TOKEN},admin,admin,system:masters
{MANAGER_TOKEN},system:kube-controller-manager,manager
"""
ISSUER = "https://kubernetes.default.svc.cluster.local"
# Nobody debugs it, and it need not be fast: so it takes half the time to compile.
BUILD = ("-mod=readonly", "-gcflags=all=-N -l -dwarf=false")
LINK = ("-s", "-w")
COMPILER = {"GOGC": "400"}


@dataclass(frozen=True)
class Kubernetes:
    """Kubernetes from a folder of programs, with the admission that kind's clusters have."""

    programs: Path = Path()
    name = "kubernetes"
    ports = 4  # API server, controller manager, etcd for its clients and for itself
    ending = signal.SIGTERM
    as_root = True

    def prepare(self, folder: Path, ports: list[int]) -> list[list[str]]:
        (folder / "tokens.csv").write_text(TOKENS)
        (folder / "accounts.key").write_bytes(private_key())
        (folder / "manager.json").write_text(kubeconfig(self.url(ports), MANAGER_TOKEN))
        (folder / "start.sh").write_text(self._script(folder, ports))
        return []

    def command(self, folder: Path, ports: list[int]) -> list[str]:
        return ["bash", f"{folder}/start.sh"]

    def environment(self, folder: Path, ports: list[int]) -> Mapping[str, str]:
        return {}

    def url(self, ports: list[int]) -> str:
        return f"https://127.0.0.1:{ports[0]}"

    def check(self, ports: list[int]) -> None:
        for url in (f"{self.url(ports)}/readyz", f"https://127.0.0.1:{ports[1]}/healthz"):
            urllib.request.urlopen(url, timeout=3, context=unverified()).close()

    def _script(self, folder: Path, ports: list[int]) -> str:
        """Return what runs all three, and ends when the first two do; the third is started again, as by a kubelet."""
        commands = {
            "etcd": etcd(folder, *ports[2:]),
            "apiserver": [str(self.programs / "kube-apiserver"), *apiserver(folder, ports[0], ports[2])],
            "manager": [str(self.programs / "kube-controller-manager"), *manager(folder, ports[1])],
        }
        lines = {name: " ".join(f"'{part}'" for part in command) for name, command in commands.items()}
        again = f"while true; do {lines['manager']}; sleep 0.2; done"
        return f"{lines['etcd']} &\n{lines['apiserver']} &\n({again}) &\nwait -n\n"


def etcd(folder: Path, port: int, peers: int) -> list[str]:
    """Return the command of etcd: what is killed with its machine loses data, what is killed alone does not."""
    client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peers}"
    return [
        "etcd",
        f"--data-dir={folder}/etcd",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
    ]


def apiserver(folder: Path, port: int, store: int) -> list[str]:
    """Return the options of the API server."""
    return [
        f"--etcd-servers=http://127.0.0.1:{store}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={folder}/certificates",
        f"--token-auth-file={folder}/tokens.csv",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-key-file={folder}/accounts.key",
        f"--service-account-signing-key-file={folder}/accounts.key",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        # It asks etcd for what 3.4, which Debian has, does not know.
        "--feature-gates=SizeBasedListCostEstimate=false",
        "--service-cluster-ip-range=10.96.0.0/16",
        # An address of the loopback is no endpoint.
        "--endpoint-reconciler-type=none",
    ]


def manager(folder: Path, port: int) -> list[str]:
    """Return the options of the controller manager."""
    return [
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={folder}/certificates",
        f"--kubeconfig={folder}/manager.json",
        f"--service-account-private-key-file={folder}/accounts.key",
        f"--root-ca-file={folder}/certificates/apiserver.crt",
        "--use-service-account-credentials",
        "--leader-elect=false",
        "--kube-api-qps=500",
        "--kube-api-burst=500",
    ]


def private_key() -> bytes:
    """Return a new key, with which tokens of service accounts are signed."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def kubeconfig(server: str, token: str = TOKEN) -> str:
    """Return the configuration of kubectl for a server of this machine, whose certificate is of its own making."""
    name = "kind-marty"
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "current-context": name,
        }
    )


def unverified() -> ssl.SSLContext:
    """Return a context that takes any certificate: the server's is made as it starts."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def version() -> str:
    """Return the release that is compiled."""
    (line,) = [line for line in (MODULE / "go.mod").read_text().splitlines() if "k8s.io/kubernetes v" in line]
    return line.rpartition(" ")[2]


def installed() -> Kubernetes | None:
    """Return what `python -m tests.servers.kubernetes` has compiled; nothing without it or without etcd."""
    programs = compiled()
    return Kubernetes(programs) if programs.exists() and shutil.which("etcd") else None


@functools.cache
def compiled() -> Path:
    """Return where the programs are, if they are: another module or another way to compile is another folder."""
    source = (MODULE / "go.sum").read_bytes() + repr((BUILD, LINK)).encode()
    return cache_folder() / f"kubernetes-{version()}-{hashlib.sha256(source).hexdigest()[:12]}"


def build(programs: Path) -> None:
    """Compile the programs into a folder."""
    major, minor, _ = version().removeprefix("v").split(".")
    known = {"gitVersion": version(), "gitMajor": major, "gitMinor": minor}
    link = [*LINK, *(f"-X k8s.io/component-base/version.{name}={value}" for name, value in known.items())]
    with tempfile.TemporaryDirectory(dir=programs.parent) as folder:
        made = Path(folder, "programs")
        packages = [f"k8s.io/kubernetes/cmd/{name}" for name in PROGRAMS]
        options = [f"-C={MODULE}", *BUILD, f"-ldflags={' '.join(link)}", f"-o={made}/"]
        subprocess.run(["go", "build", *options, *packages], env=os.environ | COMPILER, check=True)
        made.rename(programs)


def main() -> None:
    """Do what the module says."""
    absent = [name for name in ("etcd", "go") if shutil.which(name) is None]
    if absent:
        raise SystemExit(f"{', '.join(absent)} is missing: {REMEDY}")
    with exclusive(compiled()):
        if not compiled().exists():
            build(compiled())


if __name__ == "__main__":
    main()
