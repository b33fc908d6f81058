"""A release that renames, drops or asks anew without a migration, or renders what changes by itself, does not pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from copier import run_copy

from migrations.releases import Answer, Declaration, Drop, Rename, between
from tests.conftest import ANSWERS, KINDS, ROOT, Render
from tests.template.questions import Question, questions
from tests.updates.guards import differing, lost_answers, rendered_elsewhere, undeclared
from tests.updates.history import NEWEST, exported, kinds_of, older

OLD = older()
# Together they have every file that a mesh brings or takes away.
MESHES = ("istio", "linkerd")
pytestmark = pytest.mark.xdist_group("guards")  # one process renders the old releases


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The template of each release, as a folder."""
    folder = tmp_path_factory.mktemp("releases")
    return {version: exported(commit, folder / version) for version, commit in OLD.items()}


def old_renders(template: Path, version: str, folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Render each kind of a release, as an old service is; yield kind, mesh and folder."""
    for kind in kinds_of(OLD[version]):
        for mesh in MESHES if version == list(OLD)[-1] else MESHES[:1]:
            service = folder / f"{kind}-{mesh}"
            answers = {**ANSWERS, "service_kind": kind, "mesh": mesh}
            run_copy(str(template), service, answers, defaults=True, quiet=True, unsafe=True)
            yield kind, mesh, service


@pytest.mark.parametrize("version", OLD)
def test_every_file_that_a_release_had_is_there_or_its_going_is_declared(
    templates: dict[str, Path], render: Render, tmp_path: Path, version: str
) -> None:
    wrong = [
        f"{kind}, {mesh}: {sentence}"
        for kind, mesh, old in old_renders(templates[version], version, tmp_path)
        for sentence in undeclared(old, render(service_kind=kind, mesh=mesh), between(version, NEWEST), "order_service")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("version", OLD)
def test_every_answer_that_a_release_took_is_taken_or_mapped(templates: dict[str, Path], version: str) -> None:
    wrong = lost_answers(questions(templates[version]), questions(ROOT), between(version, NEWEST))
    assert not wrong, "\n".join(wrong)


def test_nothing_that_changes_by_itself_is_rendered(render: Render, template: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    # With an answer that nobody else gives: what is rendered with theirs, others install and run.
    here = {kind: render(service_kind=kind, mesh="istio", service_description="Twice.") for kind in KINDS}
    answers = {kind: yaml.safe_load((service / ".copier-answers.yml").read_text()) for kind, service in here.items()}
    rendered_elsewhere([(template, tmp_path / kind, recorded(answers[kind])) for kind in KINDS], tmp_path / "home")
    wrong = {kind: found for kind in KINDS if (found := differing(here[kind], tmp_path / kind))}
    assert not wrong


def recorded(answers: dict[str, Any]) -> dict[str, Any]:
    """Return answers as an update reads them: all that is recorded, what is never asked among it."""
    return {name: answer for name, answer in answers.items() if not name.startswith("_")}


class TestEachGuardCanFail:
    """Made histories in which they must."""

    @pytest.fixture
    def trees(self, tmp_path: Path) -> tuple[Path, Path]:
        text = "".join(f"line {number}\n" for number in range(20))
        old = {"k8s/dev/a.yaml": text, "src/order_service/gone.py": "print('gone')\n", "same.txt": "same\n"}
        new = {"k8s/development/a.yaml": text, "same.txt": "same\n"}
        for folder, files in ((tmp_path / "old", old), (tmp_path / "new", new)):
            for name, content in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(content)
        return tmp_path / "old", tmp_path / "new"

    def test_a_rename_and_a_drop_without_declaration_are_named(self, trees: tuple[Path, Path]) -> None:
        renamed, dropped = undeclared(*trees, [], "order_service")
        assert renamed.endswith("Rename('k8s/dev/a.yaml', 'k8s/development/a.yaml')")
        assert dropped.endswith("Drop('src/order_service/gone.py')")

    def test_declared_they_pass(self, trees: tuple[Path, Path]) -> None:
        declared: list[Declaration] = [Rename("k8s/dev", "k8s/development"), Drop("src/{package}/gone.py")]
        assert not undeclared(*trees, declared, "order_service")

    def test_a_rename_to_where_nothing_is_does_not_pass(self, trees: tuple[Path, Path]) -> None:
        wrong = undeclared(*trees, [Rename("k8s/dev", "k8s/nowhere"), Drop("src")], "order_service")
        assert [sentence.partition(" ")[0] for sentence in wrong] == ["k8s/dev/a.yaml"]

    def test_lost_choices_tightened_validators_and_questions_that_are_gone_are_named(self) -> None:
        def question(name: str, *choices: str, longest: int = 200) -> Question:
            return Question(name, "str", choices, lambda text: "too long" if len(text) > longest else "", "")

        old = {"broker": question("broker", "kafka", "nats"), "text": question("text"), "gone": question("gone")}
        new = {"broker": question("broker", "kafka"), "text": question("text", longest=100)}
        wrong = lost_answers(old, new, [])
        assert {sentence.partition(":")[0] for sentence in wrong} == {"broker", "text", "gone is asked no more"}
        assert "'nats' is no answer any more" in wrong[0]
        mapped = [
            Answer("broker", {"nats": "kafka"}),
            Answer("text", lambda text: text[:100]),
            Answer("gone", to="text"),
        ]
        assert not [sentence for sentence in lost_answers(old, new, mapped) if not sentence.startswith("gone")]

    @pytest.mark.parametrize(
        "body",
        [
            "{% now 'utc', '%Y' %}",
            "{{ '~' | expanduser }}",
            "{{ '$USER' | expandvars }}",
            "{{ '$TZ' | expandvars }}",
            "{{ _copier_conf.dst_path }}",
            "{{ ['a', 'b', 'c', 'd', 'e', 'f', 'g'] | random }}",
        ],
    )
    def test_what_changes_by_itself_is_named(self, tmp_path: Path, body: str) -> None:
        (tmp_path / "template").mkdir()
        (tmp_path / "home").mkdir()
        (tmp_path / "template/copier.yml").write_text("_jinja_extensions: [jinja2_time.TimeExtension]\n")
        (tmp_path / "template/same.txt.jinja").write_text("{{ _copier_conf.sep }}")
        for number in range(20 if "random" in body else 1):
            (tmp_path / f"template/{number}.txt.jinja").write_text(body)
        run_copy(str(tmp_path / "template"), tmp_path / "here", defaults=True, quiet=True, unsafe=True)
        rendered_elsewhere([(tmp_path / "template", tmp_path / "there", {})], tmp_path / "home")
        assert "0.txt" in differing(tmp_path / "here", tmp_path / "there") or "random" in body
        assert differing(tmp_path / "here", tmp_path / "there")
        assert "same.txt" not in differing(tmp_path / "here", tmp_path / "there")
