"""`copier update` from every release: nothing of the owner's is lost, and the service still works."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import ANSWERS, make
from tests.updates.history import copier, git, kinds_of, older, tagged_clone

OLD = list(older())
SERVICES = [(version, kind) for version, commit in older().items() for kind in kinds_of(commit)]
MARKERS = ("<<<<<<< ", ">>>>>>> ")
OVERLAYS = {True: "k8s/overlays/dev", False: "k8s/overlays/development"}


@pytest.fixture(scope="session")
def template_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the template with its releases tagged."""
    return tagged_clone(tmp_path_factory.mktemp("history") / "marty")


def rendered(history: Path, folder: Path, version: str, **answers: str) -> Path:
    """Render a release into a repository and commit it, as the README says."""
    service = folder / "order-service"
    data = [f"--data={name}={value}" for name, value in {**ANSWERS, **answers}.items()]
    arguments = ["copy", "--trust", "--defaults", "--quiet", f"--vcs-ref=v{version}", *data, str(history), str(service)]
    ended = copier(*arguments, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    git(service, "init", "--quiet")
    commit(service, "Render")
    return service


def commit(service: Path, message: str) -> None:
    git(service, "add", "--all")
    git(service, "commit", "--quiet", "--message", message)


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text, f"{file} has no {old!r} to edit"
    file.write_text(text.replace(old, new, 1))


def edit(service: Path, overlay: str) -> None:
    """Do what owners do: edit here and there, add, delete."""
    with (service / "README.md").open("a") as readme:
        readme.write("\n## Our own section\n\nCall the owner at night.\n")
    replace(
        service / "src/order_service/app.py", "    return app\n", "    app.health.add('ours', ours)\n    return app\n"
    )
    replace(
        service / "src/order_service/app.py",
        "def create_app",
        'async def ours() -> None:\n    """Always fine."""\n\n\ndef create_app',
    )
    replace(service / "pyproject.toml", "dependencies = [\n", 'dependencies = [\n  "tomli-w>=1",\n')
    (service / "src/order_service/ours.py").write_text(
        '"""Our own file."""\n\nimport tomli_w\n\nTEXT = tomli_w.dumps({"ours": 1})\n'
    )
    (service / "tests/unit/test_ours.py").write_text(
        '"""Our own test."""\n\nfrom order_service.ours import TEXT\n\n\n'
        'def test_ours() -> None:\n    assert TEXT == "ours = 1\\n"\n'
    )
    replace(service / overlay / "kustomization.yaml", "LOG_LEVEL=debug", "LOG_LEVEL=warning")
    (service / overlay / "ours.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: ours\n")
    replace(service / overlay / "kustomization.yaml", "  - ../../base\n", "  - ../../base\n  - ours.yaml\n")
    (service / "docs/ANALYTICS.md").unlink()
    commit(service, "What we did")


def conflicts(service: Path) -> list[str]:
    """Return the files with conflict markers, rejected hunks or unmerged entries."""
    unmerged = git(service, "ls-files", "--unmerged").split("\n")[:-1]
    files = git(service, "ls-files", "--cached", "--others", "--exclude-standard").split("\n")[:-1]
    marked = [
        name
        for name in files
        if (service / name).is_file()
        and any(line.startswith(MARKERS) for line in (service / name).read_text().split("\n"))
    ]
    return [*unmerged, *marked, *(name for name in files if name.endswith(".rej"))]


def test_the_history_holds_two_releases_at_least() -> None:
    assert len(OLD) >= 2
    assert SERVICES[:2] == [("0.1.0", "fastapi"), ("0.1.0", "minimal")]


@pytest.mark.slow
@pytest.mark.parametrize(("version", "kind"), SERVICES)
def test_an_update_keeps_every_edit_and_the_tests_green(
    template_history: Path, tmp_path: Path, version: str, kind: str
) -> None:
    service = rendered(template_history, tmp_path, version, service_kind=kind, mesh="istio")
    edit(service, OVERLAYS[(service / "k8s/overlays/dev").exists()])
    ended = copier("update", "--trust", "--defaults", cwd=service)
    assert ended.returncode == 0, ended.stderr

    assert not conflicts(service)
    assert "Call the owner at night." in (service / "README.md").read_text()
    assert "app.health.add('ours', ours)" in (service / "src/order_service/app.py").read_text()
    assert "tomli-w>=1" in (service / "pyproject.toml").read_text()
    assert not (service / "docs/ANALYTICS.md").exists()
    assert not (service / "k8s/overlays/dev").exists()
    overlay = (service / "k8s/overlays/development/kustomization.yaml").read_text()
    assert "LOG_LEVEL=warning" in overlay
    assert "  - ours.yaml\n" in overlay
    assert (service / "k8s/overlays/development/ours.yaml").exists()
    make(service, "manifests")
    make(service, "test", "PYTEST_FLAGS=")
    assert "_commit: v9999.0.0" in (service / ".copier-answers.yml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("version", OLD)
def test_an_update_of_an_untouched_service_equals_a_new_render(
    template_history: Path, tmp_path: Path, version: str
) -> None:
    service = rendered(template_history, tmp_path, version, mesh="linkerd")
    assert copier("update", "--trust", "--defaults", cwd=service).returncode == 0
    (tmp_path / "new").mkdir()
    new = rendered(template_history, tmp_path / "new", "9999.0.0", mesh="linkerd")
    difference = ["diff", "--recursive", "--exclude=.git", str(service), str(new)]
    ended = subprocess.run(difference, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.slow
def test_an_edit_that_clashes_in_a_renamed_file_is_shown_as_a_conflict(template_history: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", str(template_history), "later")
    replace(
        tmp_path / "later/template/k8s/overlays/development/kustomization.yaml.jinja",
        "LOG_LEVEL=debug",
        "LOG_LEVEL=info",
    )
    git(tmp_path / "later", "commit", "--quiet", "--all", "--message", "Log less")
    git(tmp_path / "later", "tag", "v9999.1.0")
    service = rendered(tmp_path / "later", tmp_path, "0.1.0")
    replace(service / "k8s/overlays/dev/kustomization.yaml", "LOG_LEVEL=debug", "LOG_LEVEL=error")
    commit(service, "Log errors only")
    ended = copier("update", "--trust", "--defaults", cwd=service)
    new = "k8s/overlays/development/kustomization.yaml"
    assert f"conflict in {new}" in ended.stderr
    assert "<<<<<<< before updating" in (service / new).read_text()
    assert new in git(service, "ls-files", "--unmerged")


@pytest.mark.slow
def test_a_deleted_file_stays_deleted_under_its_new_name(template_history: Path, tmp_path: Path) -> None:
    service = rendered(template_history, tmp_path, "0.1.0")
    git(service, "rm", "-r", "--quiet", "k8s/overlays/dev")
    commit(service, "We have no development cluster")
    assert copier("update", "--trust", "--defaults", cwd=service).returncode == 0
    assert not (service / "k8s/overlays/development").exists()
