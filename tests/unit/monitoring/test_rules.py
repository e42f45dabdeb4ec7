"""Each alert fires when it should and is quiet when it should: promtool plays the cases."""

from __future__ import annotations

from tests.prometheus import ALERT_CASES, promtool


def test_every_case_goes_as_it_says() -> None:
    done = promtool("test", "rules", ALERT_CASES)
    assert done.returncode == 0, done.stdout + done.stderr
