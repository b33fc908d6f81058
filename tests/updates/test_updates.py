"""`copier update` from every release: nothing of the owner's is lost, and the service still works.

Each release and kind is updated once, with all edits that do not touch each other and with changed answers. The result
is compared with a new render that got the same edits. So linter, types and tests of a kind need only run once, after
the update from the newest release that has it, and so does a second update: the trees after all other updates are equal
to that one.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from copier import run_copy, run_update
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrations.carry import new_paths
from migrations.releases import between
from tests.conftest import ANSWERS, ROOT, make
from tests.template.questions import questions, valid_answers
from tests.updates.edits import DELETED, PACKAGE, RENAMED, TOKENS, Owner, append
from tests.updates.guards import differing
from tests.updates.history import NEWEST, copier, exported, git, kinds_of, older, tagged_clone

OLD = older()
SERVICES = [(version, kind) for version, commit in OLD.items() for kind in kinds_of(commit)]
NEWEST_OF_KIND = {kind: version for version, kind in SERVICES}
CHANGED = {"namespace": "parcels", "domain": "parcels.example.com", "image_registry": "registry.example.com/parcels"}
MARKERS = (b"<<<<<<< ", b">>>>>>> ")


@pytest.fixture(scope="session")
def template_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the template with its releases tagged."""
    return tagged_clone(tmp_path_factory.mktemp("history") / "marty")


def rendered(history: Path, service: Path, version: str, **answers: Any) -> Path:
    """Render a release into a repository and commit it, as the README says."""
    data = {**ANSWERS, **answers}
    run_copy(str(history), service, data, vcs_ref=f"v{version}", defaults=True, quiet=True, unsafe=True)
    git(service, "init", "--quiet")
    return commit(service, "Render")


def commit(service: Path, message: str) -> Path:
    git(service, "add", "--all")
    git(service, "commit", "--quiet", "--allow-empty", "--message", message)
    return service


def update(service: Path, **answers: str) -> str:
    """Run `copier update` as an owner does, and return what it says."""
    data = [f"--data={name}={value}" for name, value in answers.items()]
    ended = copier("update", "--trust", "--defaults", *data, cwd=service)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def conflicts(service: Path) -> list[str]:
    """Return the files with conflict markers, rejected hunks or unmerged entries."""
    unmerged = git(service, "ls-files", "--unmerged").split("\n")[:-1]
    names = set(git(service, "ls-files", "--cached", "--others", "--exclude-standard").split("\n")[:-1])
    files = [service / name for name in names if (service / name).is_file()]
    marked = [file.name for file in files if any(line.startswith(MARKERS) for line in file.read_bytes().split(b"\n"))]
    return [*unmerged, *marked, *(file.name for file in files if file.suffix == ".rej")]


class Updated(NamedTuple):
    """A service after the update, and what it should be: a new render that got the same edits."""

    service: Path
    expected: Path


def group(version: str, kind: str) -> Any:
    mark = pytest.mark.xdist_group(f"update-{version}-{kind}")
    return pytest.param((version, kind), id=f"{version}-{kind}", marks=mark)


@pytest.fixture(scope="module", params=[group(*service) for service in SERVICES])
def updated(
    template_history: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Updated:
    """One release and kind, edited and updated."""
    version, kind = request.param
    folder = tmp_path_factory.mktemp("update")
    declared = between(version, NEWEST)
    service = rendered(template_history, folder / "service", version, service_kind=kind, mesh="istio")
    expected = rendered(template_history, folder / "new", NEWEST, service_kind=kind, mesh="linkerd", **CHANGED)
    Owner(service, lambda path: path, declared).do_everything()
    Owner(expected, new_paths(declared, PACKAGE, PACKAGE), declared).do_everything()
    update(commit(service, "What we did"), mesh="linkerd", **CHANGED)
    return Updated(service, expected)


@pytest.mark.slow
class TestAnUpdateOfAnEditedService:
    """From every release, for every kind."""

    def test_leaves_nothing_unmerged(self, updated: Updated) -> None:
        assert not conflicts(updated.service)

    def test_keeps_every_edit(self, updated: Updated) -> None:
        for name, token in TOKENS.items():
            assert token.encode() in (updated.service / name).read_bytes(), name
        assert not [name for name in (DELETED, RENAMED[0]) if (updated.service / name).exists()]

    def test_is_a_new_render_with_the_same_edits(self, updated: Updated) -> None:
        assert not differing(commit(updated.service, "Update"), updated.expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", NEWEST_OF_KIND)
def test_after_an_update_checks_and_tests_are_green_and_another_changes_nothing(
    template_history: Path, tmp_path: Path, kind: str
) -> None:
    version = NEWEST_OF_KIND[kind]
    service = rendered(template_history, tmp_path / "order-service", version, service_kind=kind, mesh="istio")
    Owner(service, lambda path: path, between(version, NEWEST)).do_everything()
    update(commit(service, "What we did"), mesh="linkerd", **CHANGED)
    make(service, "lint", "typecheck", "manifests")
    make(service, "test", "PYTEST_FLAGS=")
    commit(service, "Update")
    run_update(service, defaults=True, overwrite=True, quiet=True, unsafe=True)
    assert not git(service, "status", "--porcelain")


@pytest.mark.slow
def test_an_edit_that_clashes_in_a_renamed_file_is_shown_as_a_conflict(template_history: Path, tmp_path: Path) -> None:
    later = tmp_path / "later"
    git(tmp_path, "clone", "--quiet", str(template_history), str(later))
    for name in ("k8s/overlays/development/kustomization.yaml.jinja", "k8s/overlays/staging/kustomization.yaml.jinja"):
        append(later / "template" / name, "# of the template\n")
    git(later, "commit", "--quiet", "--all", "--message", "Say whose it is")
    git(later, "tag", "v9999.1.0")
    service = rendered(later, tmp_path / "service", "0.1.0")
    append(service / "k8s/overlays/dev/kustomization.yaml", "# of ours\n")
    append(service / "k8s/overlays/staging/kustomization.yaml", "# of ours\n")
    said = update(commit(service, "Say whose it is"))
    assert "conflict in k8s/overlays/development/kustomization.yaml" in said
    for name in ("k8s/overlays/development/kustomization.yaml", "k8s/overlays/staging/kustomization.yaml"):
        text = (service / name).read_text()
        assert "<<<<<<< before updating\n# of ours\n" in text
        assert "# of the template\n>>>>>>> after updating\n" in text
        assert name in git(service, "diff", "--name-only", "--diff-filter=U").split()
    assert len(set(git(service, "diff", "--name-only", "--diff-filter=U").split())) == 2


@pytest.mark.slow
def test_a_deleted_file_stays_deleted_under_its_new_name(template_history: Path, tmp_path: Path) -> None:
    service = rendered(template_history, tmp_path / "service", "0.1.0")
    git(service, "rm", "-r", "--quiet", "k8s/overlays/dev")
    update(commit(service, "We have no development cluster"))
    assert not (service / "k8s/overlays/development").exists()


def old_services(templates: dict[str, Path]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    """Return a strategy for a release and answers that are valid there."""
    return st.sampled_from(sorted(templates)).flatmap(
        lambda version: st.tuples(st.just(version), valid_answers(questions(templates[version])))
    )


@pytest.mark.slow
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_was_answered_an_untouched_service_becomes_a_new_render(
    template_history: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("any")
    templates = {version: exported(commit, folder / version) for version, commit in OLD.items()}
    version, answers = data.draw(old_services(templates))
    service = rendered(template_history, folder / "service", version, **answers)
    run_update(service, defaults=True, overwrite=True, quiet=True, unsafe=True)
    assert not conflicts(service)
    commit(service, "Update")
    recorded = questions(ROOT).keys() & (ANSWERS | answers).keys()
    new = rendered(template_history, folder / "new", NEWEST, **{name: (ANSWERS | answers)[name] for name in recorded})
    assert not differing(service, new)
    run_update(service, defaults=True, overwrite=True, quiet=True, unsafe=True)
    assert not git(service, "status", "--porcelain")
    shutil.rmtree(folder)
