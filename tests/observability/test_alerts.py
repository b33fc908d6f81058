"""Each alert fires where it should and stays quiet where it should not, says what to do, and leads to its runbook.

`alerts/*.yaml` holds the cases. promtool wants each expected alert with all its texts; they are checked here for
themselves, so that a case says only when and with which labels.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.observability.generate import outputs
from tests.conftest import ROOT
from tests.observability.rules import ALERTS, FILES, groups, rules, run

HERE = Path(__file__).parent / "alerts"
CASES: dict[str, dict[str, Any]] = {
    name: case
    for path in sorted(HERE.glob("*.yaml"))
    for name, case in yaml.safe_load(path.read_text(encoding="utf-8")).items()
}
LABEL = re.compile(r"\$labels\.(\w+)")
ALWAYS = {"Watchdog"}
RUNBOOKS = "https://github.com/org/marty/blob/main/docs/runbooks/"


def alert_of(name: str) -> str:
    """Return the alert that a case is about: its name up to a comma."""
    return name.partition(",")[0]


def severity(alert: str) -> str:
    found: str = ALERTS[alert][1]["labels"]["severity"]
    return found


def expected(name: str, case: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what promtool must find at the times of a case."""
    alert = alert_of(name)
    fires = {time: [labels | {"severity": severity(alert)} for labels in each] for time, each in case["fires"].items()}
    times: dict[str, list[dict[str, str]]] = {time: [] for time in case.get("quiet", [])} | fires
    return [
        {"alertname": alert, "eval_time": time, "exp_alerts": [{"exp_labels": labels} for labels in each]}
        for time, each in times.items()
    ]


def without_texts(folder: Path, family: str) -> list[str]:
    """Write a family's rules without annotations, and what they build on; return the files' names."""
    files = [path for path in FILES if path.stem == family or (family == "services" and path.stem == "slo")]
    for path in files:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for group in content["groups"]:
            for rule in group["rules"]:
                rule.pop("annotations", None)
        (folder / path.name).write_text(yaml.safe_dump(content), encoding="utf-8")
    return [path.name for path in files]


def judge(
    folder: Path, files: list[str], interval: str, cases: dict[str, dict[str, Any]]
) -> subprocess.CompletedProcess[str]:
    """Have promtool evaluate the rules, those that record before those that read, and judge the cases."""
    tests = [
        {
            "interval": interval,
            "name": name,
            "input_series": [{"series": key, "values": str(value)} for key, value in case["series"].items()],
            "alert_rule_test": expected(name, case),
        }
        for name, case in cases.items()
    ]
    order = [group["name"] for file in sorted(files, key="slo.yaml".__ne__) for group in groups()[Path(file).stem]]
    content = {"rule_files": files, "evaluation_interval": interval, "group_eval_order": order, "tests": tests}
    (folder / "test.yml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return run("promtool", "test", "rules", "test.yml", cwd=folder)


@pytest.mark.parametrize("family", sorted(groups()))
def test_each_alert_fires_and_stays_quiet(family: str, tmp_path: Path) -> None:
    files = without_texts(tmp_path, family)
    cases = {name: case for name, case in CASES.items() if ALERTS[alert_of(name)][0] == family}
    for interval in {case.get("every", "1m") for case in cases.values()}:
        chosen = {name: case for name, case in cases.items() if case.get("every", "1m") == interval}
        done = judge(tmp_path, files, interval, chosen)
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    assert {alert_of(name) for name, case in CASES.items() if case["fires"]} == ALERTS.keys()
    assert {alert_of(name) for name, case in CASES.items() if case.get("quiet")} == ALERTS.keys() - ALWAYS


def test_a_case_that_expects_nothing_of_an_alert_that_fires_fails(tmp_path: Path) -> None:
    case = {"series": {'redis_up{job="orders"}': "0+0x20"}, "quiet": ["10m"], "fires": {}}
    done = judge(tmp_path, without_texts(tmp_path, "dependencies"), "1m", {"RedisDown": case})
    assert done.returncode == 1
    assert "RedisDown" in done.stdout + done.stderr


def test_promtool_has_nothing_against_the_rules() -> None:
    done = run("promtool", "check", "rules", "--lint=all", "--lint-fatal", *map(str, FILES))
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_name_is_given_twice() -> None:
    assert len(ALERTS) == len(rules("alert"))


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_how_bad_it_is_what_it_means_and_where_to_read_on(alert: str) -> None:
    family, rule = ALERTS[alert]
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ({"none"} if alert in ALWAYS else {"critical", "warning"})
    texts = rule["annotations"]
    assert texts.keys() == {"summary", "description", "runbook_url"}
    assert texts["runbook_url"] == f"{RUNBOOKS}{family}.md#{alert.lower()}"


@pytest.mark.parametrize("alert", ALERTS)
def test_texts_name_only_labels_that_the_alert_has(alert: str) -> None:
    texts = " ".join(ALERTS[alert][1]["annotations"].values())
    # What a text asks after with `with` may be missing.
    wanted = set(LABEL.findall(re.sub(r"{{ with .*?{{ end }}", "", texts)))
    cases = [case for name, case in CASES.items() if alert_of(name) == alert]
    fired = [set(labels) for case in cases for found in case["fires"].values() for labels in found]
    # A service's namespace is on every target; cases leave it out where it adds nothing.
    assert all(wanted - {"namespace"} <= labels for labels in fired)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_its_section_in_its_runbook(alert: str) -> None:
    page = (ROOT / "docs" / "runbooks" / f"{ALERTS[alert][0]}.md").read_text(encoding="utf-8")
    _, _, section = page.partition(f"\n## {alert}\n")
    section = section.partition("\n## ")[0]
    assert [word for word in ("Means", "Look", "Mend") if f"**{word}.**" not in section] == []


def test_a_runbook_has_no_section_without_an_alert() -> None:
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "runbooks").glob("*.md")]
    sections = {name for page in pages for name in re.findall(r"^## (\w+)$", page, re.MULTILINE)}
    assert sections == ALERTS.keys()


@pytest.mark.parametrize("path", outputs(), ids=lambda path: path.name)
def test_what_is_generated_is_what_is_committed(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == outputs()[path], "run: python -m k8s.observability.generate"
