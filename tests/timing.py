"""The table at the end of a run: how long the tests of each folder took."""

from __future__ import annotations

from collections import defaultdict
from pathlib import PurePosixPath

import pytest


def time_by_folder(reports: list[pytest.TestReport]) -> dict[str, tuple[int, float]]:
    """Return how many tests each folder has, and the seconds that they took, set-up and teardown included."""
    tests: defaultdict[str, set[str]] = defaultdict(set)
    seconds: defaultdict[str, float] = defaultdict(float)
    for report in reports:
        folder = str(PurePosixPath(report.nodeid.partition("::")[0]).parent)
        tests[folder].add(report.nodeid)
        seconds[folder] += report.duration
    return {folder: (len(tests[folder]), seconds[folder]) for folder in sorted(tests)}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table. Tests run in several processes, so the sum is more than the time on the clock."""
    reports = [
        report
        for group in terminalreporter.stats.values()
        for report in group
        if isinstance(report, pytest.TestReport)
    ]
    if not reports:
        return
    terminalreporter.section("time by folder", sep="=")
    for folder, (tests, seconds) in time_by_folder(reports).items():
        terminalreporter.write_line(f"{folder:32} {tests:5} tests {seconds:8.1f} s")
