"""docs/platform.svg shows what there is, all of it, in both of a reader's colour schemes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from tests.conftest import ROOT

SVG = "{http://www.w3.org/2000/svg}"
FILE = ROOT / "docs" / "platform.svg"
PICTURE = ElementTree.fromstring(FILE.read_text(encoding="utf-8"))  # noqa: S314 our own file
AREAS = {text.text for text in PICTURE.iter(f"{SVG}text") if text.get("class") == "title"}
OUTSIDE = {"you", "make image", "make deploy"}


def boxes() -> dict[str, str | None]:
    """Return where in the repository each box of the picture is, by its name."""
    found: dict[str, str | None] = {}
    for group in PICTURE.iter(f"{SVG}g"):
        (name,) = (text.text or "" for text in group.iter(f"{SVG}text") if text.get("class") == "name")
        found[name] = group.get("data-at")
    return found


def test_every_box_is_somewhere_but_what_is_outside() -> None:
    assert {name for name, where in boxes().items() if where is None} == OUTSIDE
    assert {name: where for name, where in boxes().items() if where and not (ROOT / where).exists()} == {}


def test_every_part_of_the_cluster_has_a_box() -> None:
    k8s = ROOT / "k8s"
    deployed = {
        path.parent.relative_to(ROOT).as_posix()
        for name in ("deployment.yaml", "statefulset.yaml")
        for path in k8s.rglob(name)
    }
    meshes = {path.parent.relative_to(ROOT).as_posix() for path in (k8s / "mesh").glob("*/install.yaml")}
    assert deployed
    assert meshes
    assert deployed | meshes <= set(boxes().values())


@pytest.mark.parametrize("name", ["cert-manager", "metrics-server"])
def test_what_the_setup_fetches_is_in_the_versions(name: str) -> None:
    variable = name.upper().replace("-", "_") + "_VERSION"
    assert re.search(rf"^{variable}=", (ROOT / str(boxes()[name])).read_text(), re.MULTILINE)


def test_namespaces_have_their_names() -> None:
    namespaces = {path.read_text() for path in (ROOT / "k8s" / "observability").rglob("namespace.yaml")}
    for area in ("monitoring", "kafka"):
        assert area in AREAS
        assert any(f"name: {area}\n" in text for text in namespaces)


def test_every_colour_has_one_for_the_dark() -> None:
    (style,) = (each.text or "" for each in PICTURE.iter(f"{SVG}style"))
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    coloured = re.compile(r"^\s*([^\s{][^{]*) \{[^}\n]*#[0-9a-f]{6}", re.MULTILINE)
    assert coloured.findall(light) == coloured.findall(dark)


def test_it_is_read_to_those_who_do_not_see_it() -> None:
    assert PICTURE.get("role") == "img"
    assert set((PICTURE.get("aria-labelledby") or "").split()) == {each.get("id") for each in PICTURE[:2]}


@pytest.mark.parametrize("page", ["README.md", "docs/cluster.md", "docs/laptop-to-canary.md"])
def test_it_is_shown(page: str) -> None:
    assert f"({'docs/' if page == 'README.md' else ''}platform.svg)" in (ROOT / page).read_text()
