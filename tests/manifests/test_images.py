"""Images of the platform: three files name them, with tags, and a script writes down what the tags are."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.manifests.tools import build

K8S = ROOT / "k8s"
NAMED = (Path("versions.env"), Path("observability/versions/kustomization.yaml"), Path("trial/postgresql.yaml"))
# Answers with a digest that is made of the image's name, but for what is told to be missing.
DOCKER = """#!/bin/sh
for image; do :; done
echo "$*" >>"$CALLS"
[ "$image" != "$ABSENT" ] || { echo "$image: not found" >&2; exit 1; }
printf '{"digest": "sha256:%s"}' "$(printf '%s' "$image$SALT" | sha256sum | cut -d' ' -f1)"
"""


class Registry:
    """A copy of the files and the script, and a stand-in for docker."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder / "k8s", folder / "calls"
        for name in ("images.py", *NAMED):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(K8S / name, self.folder / name)
        docker = folder / "bin" / "docker"
        docker.parent.mkdir()
        docker.write_text(DOCKER)
        docker.chmod(0o755)
        self.bin = docker.parent

    def run(self, *arguments: str, absent: str = "", salt: str = "") -> subprocess.CompletedProcess[str]:
        """Run the script; the registry lacks one image, or has put others in the place of all by a `salt`."""
        environment = {"PATH": f"{self.bin}:/usr/bin:/bin", "CALLS": str(self.calls), "ABSENT": absent, "SALT": salt}
        command = [sys.executable, str(self.folder / "images.py"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def texts(self) -> list[str]:
        """Return the files."""
        return [(self.folder / name).read_text() for name in NAMED]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


def test_no_other_file_names_an_image_with_a_tag() -> None:
    found = {}
    for path in sorted(K8S.rglob("*")):
        if path.suffix in {".yaml", ".sh", ".env", ".py"} and path.relative_to(K8S) not in NAMED:
            named = re.findall(
                r"^[^#\n]*\b(?:image:|newTag:|\w*IMAGE=) *\"?([\w./-]+[:@][\w.:-]+)", path.read_text(), re.MULTILINE
            )
            found[path.relative_to(K8S).as_posix()] = named
    # What must be refused needs an image to be refused with; nothing pulls it.
    refused = {name for name, images in found.items() if images}
    assert refused == {f"policies/refused/{name}.yaml" for name in ("latest", "limits", "name", "root")}
    assert {image.partition("/")[0] for name in refused for image in found[name]} == {"registry.example.com"}


def test_every_image_is_asked_for_by_its_tag(registry: Registry) -> None:
    assert registry.run("--check").returncode == 0, "nothing is written down yet that could be wrong"
    asked = {call.split()[-1] for call in registry.calls.read_text().splitlines()}
    stack = yaml.safe_load(registry.texts()[1])["images"]
    # The node's is kind's to say.
    scripts = set(re.findall(r"^(?!NODE)[A-Z]+_IMAGE=([^@\n]+)", registry.texts()[0], re.MULTILINE))
    assert scripts == {"registry:3.0.0"}
    trial = set(re.findall(r"^ +image: ([^@\n]+)$", registry.texts()[2], re.MULTILINE))
    assert len(trial) == 1
    assert asked == {f"{each['newName']}:{each['newTag']}" for each in stack} | scripts | trial


def test_digests_are_written_beside_the_tags_and_kustomize_uses_both(registry: Registry) -> None:
    before = registry.texts()
    assert registry.run().returncode == 0
    env, versions, trial = registry.texts()
    assert re.search(r"^ +image: .+:.+@sha256:[0-9a-f]{64}$", trial, re.MULTILINE)
    assert len(re.findall(r"^[A-Z]+_IMAGE=.+:.+@sha256:[0-9a-f]{64}$", env, re.MULTILINE)) == 2
    images = yaml.safe_load(versions)["images"]
    assert [{key: each[key] for key in ("name", "newName", "newTag")} for each in images] == (
        yaml.safe_load(before[1])["images"]
    )
    used = registry.folder / "used"
    used.mkdir()
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}}
    pod["spec"] = {"containers": [{"name": "one", "image": images[0]["name"]}]}
    (used / "pod.yaml").write_text(yaml.safe_dump(pod))
    (used / "kustomization.yaml").write_text("resources: [pod.yaml]\ncomponents: [../observability/versions]\n")
    (built,) = build(used)
    expected = f"{images[0]['newName']}:{images[0]['newTag']}@{images[0]['digest']}"
    assert built["spec"]["containers"][0]["image"] == expected


def test_a_second_run_changes_nothing_and_a_check_is_content(registry: Registry) -> None:
    registry.run()
    once = registry.texts()
    assert registry.run().returncode == 0
    assert registry.texts() == once
    assert registry.run("--check").returncode == 0


def test_a_tag_that_has_become_another_fails_the_check_and_is_written_anew(registry: Registry) -> None:
    registry.run()
    once = registry.texts()
    checked = registry.run("--check", salt="later")
    assert checked.returncode == 1
    assert len(re.findall("was sha256:", checked.stderr)) == 11
    assert registry.texts() == once
    assert registry.run(salt="later").returncode == 0
    assert registry.texts() != once
    assert registry.run("--check", salt="later").returncode == 0


@pytest.mark.parametrize("arguments", [(), ("--check",)])
def test_a_tag_that_is_not_there_is_named_and_nothing_is_written(
    registry: Registry, arguments: tuple[str, ...]
) -> None:
    before = registry.texts()
    stack = yaml.safe_load(before[1])["images"][0]
    image = f"{stack['newName']}:{stack['newTag']}"
    failed = registry.run(*arguments, absent=image)
    assert failed.returncode == 1
    assert f"images.py: {image}: {image}: not found" in failed.stderr
    assert registry.texts() == before


def test_docker_that_is_missing_is_named(registry: Registry) -> None:
    (registry.bin / "docker").unlink()
    environment = {"PATH": str(registry.bin)}
    command = [sys.executable, str(registry.folder / "images.py")]
    failed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "docker is missing: install" in failed.stderr
