"""A container engine for tests: Docker where its daemon answers, else buildah and podman as root.

The second needs no registry, no daemon and no system-wide configuration: storage and settings live in a temporary
folder, and a debootstrap of Debian, kept in a cache between runs, stands in for the official Python image.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .requirement import missing

PYTHON_VERSION = "3.11"  # what Debian bookworm has; services are rendered for it
BASE_IMAGE = f"docker.io/library/python:{PYTHON_VERSION}-slim"
SUITE = "bookworm"
PACKAGES = ("ca-certificates", "python3", "python3-pip")
NOT_PACKED = (
    "dev/*",
    "var/cache/apt/*",
    "var/lib/apt/lists/*",
    "usr/share/doc/*",
    "usr/share/locale/*",
    "usr/share/man/*",
)
LIMITS = ("nofile=20000:20000", "nproc=4096:4096")
SEARCH_PATH = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
CLEANUP_SECONDS = 30
TOOLS = ("podman", "buildah", "runc", "debootstrap")


@dataclass(frozen=True)
class Engine:
    """What builds images and runs containers.

    Attributes:
        builder: the program for `make image CONTAINER=...`.
        build_flags: what `make image BUILD_FLAGS=...` needs here.
        runner: the program that runs, inspects and removes containers.
        environment: the environment of both programs.
        host_network: containers share the network of the machine; otherwise ports are published on 127.0.0.1.
    """

    builder: str
    runner: str
    build_flags: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    host_network: bool = False

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the runner with these arguments."""
        return run(self.runner, *arguments, environment=self.environment, check=check)

    def network(self, ports: Sequence[int]) -> list[str]:
        """Return the options under which these ports of a container are reached at 127.0.0.1."""
        return ["--network=host"] if self.host_network else [f"--publish=127.0.0.1:{port}:{port}" for port in ports]


@contextmanager
def container_engine() -> Iterator[Engine]:
    """Yield the engine of this machine; skip the test (fail it under `MARTY_REQUIRE=all`) where there is none."""
    if docker_answers():
        yield Engine(builder="docker", runner="docker")
        return
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        missing(f"no Docker daemon answers, and without it containers need {', '.join(absent)}")
    if os.geteuid() != 0:
        missing("no Docker daemon answers, and without it containers need root")
    with podman_engine() as engine:
        yield engine


def docker_answers() -> bool:
    """Say whether there is a Docker daemon."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, timeout=60, check=False).returncode == 0


@contextmanager
def podman_engine() -> Iterator[Engine]:
    """Yield buildah and podman with storage of their own and the base image in it; remove all of it afterwards."""
    home = Path(tempfile.mkdtemp(prefix="marty-"))  # short: podman refuses long paths
    engine = Engine("buildah", "podman", build_flags(home), podman_environment(home), host_network=True)
    try:
        engine("import", f"--change=ENV PATH={SEARCH_PATH}", str(base_root_file_system()), BASE_IMAGE)
        yield engine
    finally:
        engine("rm", "--all", "--force", "--time=0", check=False)
        remove(home)


def remove(home: Path) -> None:
    """Remove podman's storage; it cleans up after containers by itself, and may mount it once more meanwhile."""
    deadline = time.monotonic() + CLEANUP_SECONDS
    while home.exists():
        unmount(home)
        try:
            shutil.rmtree(home)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def unmount(folder: Path) -> None:
    """Unmount what is left below the folder: a build that failed leaves its file system there."""
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        if line.split()[1].startswith(f"{folder}/"):
            run("umount", line.split()[1], check=False)


def podman_environment(home: Path) -> dict[str, str]:
    """Write the configuration into `home`; return the environment that makes podman and buildah use it."""
    (home / "tmp").mkdir()
    limits = ", ".join(f'"{limit}"' for limit in LIMITS)
    configuration = {
        "CONTAINERS_CONF": f"""
            [containers]
            default_ulimits = [{limits}]
            [engine]
            cgroup_manager = "cgroupfs"
            events_logger = "file"
            lock_type = "file"
            runtime = "runc"
            tmp_dir = "{home}/libpod"
            """,
        "CONTAINERS_STORAGE_CONF": f"""
            [storage]
            driver = "overlay"
            graphroot = "{home}/storage"
            runroot = "{home}/run"
            """,
        "CONTAINERS_REGISTRIES_CONF": 'unqualified-search-registries = ["docker.io"]',
    }
    for variable, text in configuration.items():
        (home / variable).write_text(text)
    return {
        **os.environ,
        **{variable: str(home / variable) for variable in configuration},
        "DISABLE_HC_SYSTEMD": "true",
        "TMPDIR": str(home / "tmp"),
    }


def build_flags(home: Path) -> tuple[str, ...]:
    """Return the flags of `buildah build`, the machine's certificates and package index among them."""
    index, uv_index = os.environ.get("PIP_INDEX_URL", ""), os.environ.get("UV_DEFAULT_INDEX", "")
    (home / "pip.conf").write_text(f"[global]\ncert = {CERTIFICATES}\n" + (f"index-url = {index}\n" if index else ""))
    (home / "uv.toml").write_text(
        "system-certs = true\n" + (f'[[index]]\nurl = "{uv_index}"\ndefault = true\n' if uv_index else ""),
    )
    return (
        "--runtime=runc",
        "--isolation=oci",
        "--format=docker",
        "--pull-never",
        "--network=host",
        *(f"--ulimit={limit}" for limit in LIMITS),
        f"--volume={os.environ.get('SSL_CERT_FILE', CERTIFICATES)}:{CERTIFICATES}:ro",
        f"--secret=id=pip.conf,src={home}/pip.conf",
        f"--secret=id=uv.toml,src={home}/uv.toml",
    )


def base_root_file_system() -> Path:
    """Return an archive of a Debian with Python, made once for each suite, architecture and list of packages."""
    key = hashlib.sha256(" ".join((SUITE, platform.machine(), *PACKAGES)).encode()).hexdigest()[:12]
    archive = cache_folder() / f"base-{SUITE}-{key}.tar"
    with exclusive(archive):
        if not archive.exists():
            bootstrap(archive)
    return archive


def bootstrap(archive: Path) -> None:
    """Install Debian into a temporary folder, make it resemble the official Python image, and pack it."""
    with tempfile.TemporaryDirectory(prefix="marty-base-") as folder:
        root = Path(folder, "root")
        options = ["--variant=minbase", f"--include={','.join(PACKAGES)}"]
        run("debootstrap", *options, SUITE, str(root), *debian_mirror())
        for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
            marker.unlink()
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        packed = Path(folder, archive.name)
        skipped = [f"--exclude=./{path}" for path in NOT_PACKED]
        run("tar", "--create", "--numeric-owner", f"--file={packed}", f"--directory={root}", *skipped, ".")
        shutil.move(packed, archive.with_suffix(".part"))
        archive.with_suffix(".part").rename(archive)


def debian_mirror() -> list[str]:
    """Return the mirror that apt on this machine takes the suite from; none leaves the choice to debootstrap."""
    listed = run("apt-get", "indextargets", "--format=$(REPO_URI)", "Created-By: Packages", f"Codename: {SUITE}")
    return sorted(set(listed.stdout.split()))[:1]


def cache_folder() -> Path:
    """Return the folder for what is dear to make and good for every run: `$MARTY_CACHE`, else the user's cache."""
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("MARTY_CACHE") or users / "marty")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Let one process at a time make what `path` is the name of."""
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(
    *command: str,
    environment: Mapping[str, str] | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; fail with all that it wrote."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} exited {done.returncode}:\n{done.stdout}{done.stderr}")
    return done
