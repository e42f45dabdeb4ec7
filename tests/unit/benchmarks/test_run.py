"""`make bench`: every script of benchmarks/ keeps the convention, and its tables have a place in the page."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "benchmarks"
NAMES = sorted(p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("_") and p.stem != "run")
PAGES = ("benchmarks.md", "explanation/bulk-without-being-felt.md")
PAGE = "".join((ROOT / "docs" / page).read_text() for page in PAGES)

FACTS = {"date": "2026-11-24", "machine": "2 cores, some processor"}
SCRIPT = '''
"""Measure something."""
import json, sys
QUICK = ("--quick-run",)
TABLES = ("one",)
def tables(report):
    return {"one": f"| way | {report['argv']} |"}
if __name__ == "__main__":
    if "--fail" in sys.argv:
        sys.exit(3)
    print(json.dumps({"date": "2026-11-24", "machine": "here", "argv": sys.argv[1:]}))
'''


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`benchmarks/run.py`, as it finds its neighbours when it is run as a script."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("run")


@pytest.fixture
def own(run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The same with a folder, a page and reports of the test's own."""
    (tmp_path / "measured.py").write_text(SCRIPT)
    (tmp_path / "page.md").write_text(
        "before\n<!-- figures: one -->\nold\n<!-- end of figures -->\nafter\n"
        "<!-- figures: two -->\nkept\n<!-- end of figures -->\n"
    )
    (tmp_path / "further.md").write_text("<!-- figures: other -->\nold\n<!-- end of figures -->\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(run, "FURTHER", (tmp_path / "further.md",))
    monkeypatch.setattr(run, "REPORTS", tmp_path / "reports")
    yield run
    sys.modules.pop("measured", None)


def options(**given) -> argparse.Namespace:
    return argparse.Namespace(
        **({"quick": False, "from_reports": False, "arguments": [], "only": None} | given)
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_keeps_the_convention(run: ModuleType, name: str) -> None:
    module = run.load(name)
    assert all(isinstance(word, str) for word in module.QUICK)
    assert module.__doc__


def test_every_table_has_its_place_and_every_place_its_table(run: ModuleType) -> None:
    marks = run.re.findall(r"<!-- figures: ([a-z0-9-]+) -->", PAGE)
    assert sorted(marks) == sorted(table for name in NAMES for table in run.load(name).TABLES)
    assert len(set(marks)) == len(marks) == PAGE.count("<!-- end of figures -->")
    for name in marks:
        assert name in run.put(PAGE, name, "fresh\n")


def test_a_run_replaces_its_tables_and_nothing_else(own: ModuleType) -> None:
    assert own.run_all(["measured"], options()) == []
    page = own.PAGE.read_text()
    assert page.startswith("before\n<!-- figures: one -->\n\n2026-11-24; here.\n\n| way | [] |\n\n<!-- end")
    assert "old" not in page
    assert page.endswith("after\n<!-- figures: two -->\nkept\n<!-- end of figures -->\n")
    assert own.run_all(["measured"], options(from_reports=True)) == []
    assert own.PAGE.read_text() == page


def test_a_table_is_put_into_the_page_that_has_its_place(own: ModuleType) -> None:
    script = (own.HERE / "measured.py").read_text()
    (own.HERE / "measured.py").write_text(script.replace('{"one": f"| way', '{"one": "", "other": f"| way'))
    assert own.run_all(["measured"], options()) == []
    assert "| way | [] |" in own.FURTHER[0].read_text()
    assert "| way |" not in own.PAGE.read_text()


def test_quick_prints_and_leaves_the_page(own: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    before = own.PAGE.read_text()
    assert own.run_all(["measured"], options(quick=True)) == []
    assert "| way | ['--quick-run'] |" in capsys.readouterr().out
    assert own.PAGE.read_text() == before
    assert not own.REPORTS.exists()


def test_one_that_fails_leaves_its_tables(own: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    before = own.PAGE.read_text()
    assert own.run_all(["measured"], options(arguments=["--fail"])) == ["measured"]
    assert own.run_all(["measured"], options(from_reports=True)) == ["measured"]
    assert own.PAGE.read_text() == before
    assert "status 3" in capsys.readouterr().err


def test_a_report_of_another_shape_costs_no_other_benchmark_its_tables(
    own: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    own.REPORTS.mkdir()
    (own.REPORTS / "measured.json").write_text("{}")
    before = own.PAGE.read_text()
    assert own.run_all(["measured", "measured"], options(from_reports=True)) == ["measured"] * 2
    assert own.PAGE.read_text() == before
    assert "KeyError: 'argv'" in capsys.readouterr().err


def test_one_that_this_machine_cannot_run_is_left_out(
    own: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert own.run_all(["measured"], options()) == []
    with (own.HERE / "measured.py").open("a") as script:
        script.write("def unavailable():\n    return 'there is no such device here'\n")
    sys.modules.pop("measured")
    before = own.PAGE.read_text()
    assert own.run_all(["measured"], options()) == []
    assert "measured is left out: there is no such device here" in capsys.readouterr().err
    assert own.run_all(["measured"], options(only=["measured"])) == ["measured"]
    assert "measured cannot run: there is no such device here" in capsys.readouterr().err
    assert own.PAGE.read_text() == before
    assert own.run_all(["measured"], options(from_reports=True)) == []


def test_a_table_without_a_place_is_an_error(own: ModuleType) -> None:
    with pytest.raises(own.BenchmarkError, match="figures: three"):
        own.put(own.PAGE.read_text(), "three", "x")


def test_reports_become_tables(run: ModuleType) -> None:
    rows = [
        {"way": "synchronous", "jobs": 9, "jobs_per_s": 1234.5, "mean_ms": 5.0, "p50_ms": 4.0, "p99_ms": 9.0},
        {"way": "submit, then poll", "jobs": 9, "jobs_per_s": 1000.0, "accepted_per_s": 3649.0},
    ]
    report = json.loads(json.dumps({"rows": rows, "concurrency": 4, "task_events": True} | FACTS))
    text = run.load("control_plane").tables(report)["control-plane"]
    assert "| synchronous | 1234 | 5.0 ms | 9.0 ms |\n| submit, then poll | 1000 | - | - |" in text
    assert "3,649" in text
