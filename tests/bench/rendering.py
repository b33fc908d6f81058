"""How long `copier copy` takes, as a whole process, next to Copier's own floor: a template of one file."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

from .environment import ANSWERS, commit, copy

# The same questions in number, and the same packages of Jinja extensions, but none of our own.
FLOOR = """\
_jinja_extensions: [jinja2_time.TimeExtension, copier_template_extensions.TemplateExtensionLoader]
"""
QUESTION = "answer_{number}: {{type: str, default: text}}\n"


class Times(NamedTuple):
    """Seconds of each run, in the order in which they were made by turns."""

    service: list[float]
    floor: list[float]

    def row(self) -> str:
        """Return the times as a sentence."""
        return (
            f"Rendering took {median(self.service):.2f} s ({min(self.service):.2f} to {max(self.service):.2f}), "
            f"of which Copier's floor is {median(self.floor):.2f} s ({min(self.floor):.2f} to {max(self.floor):.2f})."
        )


def measure(template: Path, folder: Path, *, runs: int) -> Times:
    """Render the template and the floor by turns, after one run that is not counted."""
    trivial = floor(folder / "floor", template)
    times = Times([], [])
    for number in range(runs + 1):
        times.service.append(timed(template, folder / f"service-{number}", ANSWERS))
        times.floor.append(timed(trivial, folder / f"floor-{number}", {}))
    return Times(times.service[1:], times.floor[1:])


def floor(folder: Path, template: Path) -> Path:
    """Make the trivial template, with as many questions as `template` has."""
    questions = len(re.findall(r"^[a-z]\w*:$", (template / "copier.yml").read_text(), re.MULTILINE))
    folder.mkdir()
    text = FLOOR + "".join(QUESTION.format(number=number) for number in range(questions))
    (folder / "copier.yml").write_text(text)
    (folder / "{{ _copier_conf.answers_file }}.jinja").write_text("{{ _copier_answers | to_nice_yaml }}")
    commit(folder)
    return folder


def timed(template: Path, target: Path, answers: Mapping[str, str]) -> float:
    """Return the seconds that it takes to render."""
    began = time.perf_counter()
    copy(template, target, answers)
    return time.perf_counter() - began
