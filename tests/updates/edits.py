"""What owners do to a rendered service. Each edit is done alike to an old render and to a new one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

from migrations.releases import Declaration, Drop, Rename

PACKAGE = "order_service"
MARK = "\n# ours\n"
# The changed answers change this file and the next, whatever the releases do.
CRLF = "k8s/overlays/staging/kustomization.yaml"
RENAMED = ("docs/ARCHITECTURE.md", "docs/design/how-it-is-built.md")
DELETED = "docs/ANALYTICS.md"
# Where the middle of the composition root is, in whatever kind.
MIDDLE = ("    api = create_api(", "    app.add(serve_grpc(", "    heartbeat = Heartbeat()")
TOKENS = {
    "README.md": "Call the owner at night.",
    "src/order_service/app.py": 'app.health.add("ours", ours)',
    "pyproject.toml": "tomli-w>=1",
    "src/order_service/ours.py": "tomli_w.dumps",
    "tests/unit/test_ours.py": "def test_ours",
    CRLF: "# Our own stage.\r\n",
    RENAMED[1]: "Our own design.",
}


@dataclasses.dataclass(frozen=True)
class Owner:
    """An owner who works on a service; `here` tells where a file of the old release is in it."""

    service: Path
    here: Callable[[str], str]
    declared: Iterable[Declaration]

    def do_everything(self) -> None:
        """Do all that an owner may do to a service, so that no edit touches another."""
        self.write_prose()
        self.change_the_composition_root()
        self.add_a_dependency()
        self.add_files()
        (self.service / DELETED).unlink()
        self.rename_a_file()
        self.take_line_ends_of_windows()
        self.edit_what_later_releases_move()

    def write_prose(self) -> None:
        append(self.service / "README.md", f"\n## Our own section\n\n{TOKENS['README.md']}\n")

    def change_the_composition_root(self) -> None:
        app = self.service / "src/order_service/app.py"
        middle = next(line for line in MIDDLE if line in app.read_text())
        replace(app, middle, f"    {TOKENS['src/order_service/app.py']}\n{middle}")
        replace(app, "def create_app", 'async def ours() -> None:\n    """Always fine."""\n\n\ndef create_app')

    def add_a_dependency(self) -> None:
        replace(self.service / "pyproject.toml", "dependencies = [\n", 'dependencies = [\n  "tomli-w>=1",\n')

    def add_files(self) -> None:
        package, unit = self.service / "src/order_service", self.service / "tests/unit"
        (package / "ours.py").write_text('"""Our own."""\n\nimport tomli_w\n\nTEXT = tomli_w.dumps({"ours": 1})\n')
        (unit / "test_ours.py").write_text(
            '"""Our own test."""\n\nfrom order_service.ours import TEXT\n\n\n'
            'def test_ours() -> None:\n    assert TEXT == "ours = 1\\n"\n'
        )

    def rename_a_file(self) -> None:
        old, new = (self.service / name for name in RENAMED)
        append(old, f"\n{TOKENS[RENAMED[1]]}\n")
        new.parent.mkdir()
        old.rename(new)

    def take_line_ends_of_windows(self) -> None:
        file = self.service / CRLF
        append(file, "# Our own stage.\n")
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))

    def edit_what_later_releases_move(self) -> None:
        for path in (each.old if isinstance(each, Rename) else each.path for each in self.moved()):
            folder = self.service / self.here(path.format(package=PACKAGE))
            for file in [folder] if folder.is_file() else sorted(folder.rglob("*")):
                if file.is_file():
                    append(file, MARK)
            if folder.is_dir():
                (folder / "ours.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: ours\n")

    def moved(self) -> list[Rename | Drop]:
        return [each for each in self.declared if isinstance(each, Rename | Drop)]


def append(file: Path, text: str) -> None:
    file.write_bytes(file.read_bytes() + text.encode())


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text, f"{file} has no {old!r} to edit"
    file.write_text(text.replace(old, new, 1))
