"""`marty` on the real template: what `copier update` would leave, in one step, and what a preview has said."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.updates.history import copier, git, tagged_clone
from tests.updates.small import commit, content, marty

IDENTITY = ("--author-name", "Ada", "--author-email", "ada@example.com")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fastapi", "minimal"])
def test_an_update_leaves_what_copiers_own_leaves(tmp_path: Path, kind: str) -> None:
    template = tagged_clone(tmp_path / "marty")
    made = marty(tmp_path, "new", kind, "order-service", "--template", str(template), "--to", "v0.1.0", *IDENTITY)
    assert made.code == 0, made.err
    service = tmp_path / "order-service"
    git(service, "init", "--quiet")
    commit(service, "Render")
    with (service / "README.md").open("a") as page:
        page.write("\n## Our own section\n\nCall the owner at night.\n")
    overlay = service / "k8s/overlays/dev/kustomization.yaml"
    overlay.write_text(overlay.read_text().replace("LOG_LEVEL=debug", "LOG_LEVEL=warning"))
    (service / "docs/ANALYTICS.md").unlink()
    commit(service, "What we did")

    theirs = shutil.copytree(service, tmp_path / "theirs" / service.name, symlinks=True)
    assert copier("update", "--trust", "--defaults", cwd=theirs).returncode == 0
    shown = marty(service, "preview", "--json").json
    ended = marty(service, "update", "--json")
    assert (ended.code, ended.json["changes"]) == (0, shown["changes"]), ended.out
    assert content(service) == content(theirs)
    changes = {each["path"]: (each["change"], each["old_path"], each["edited"]) for each in shown["changes"]}
    new = "k8s/overlays/development/kustomization.yaml"
    assert changes[new] == ("renamed", "k8s/overlays/dev/kustomization.yaml", True)
    assert [tag for tag in shown["releases"] if tag != "v9999.0.0"][:2] == ["v0.2.0", "v0.3.0"]
    assert "## 0.2.0 (" in shown["changelog"]
    assert "## 0.1.0 (" not in shown["changelog"]
