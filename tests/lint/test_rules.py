"""Recording and alert rules: promtool takes them, and each alert has its cases and its runbook."""

from __future__ import annotations

import re

import yaml

from tests.prometheus import (
    ALERT_CASES,
    MONITORING,
    ROOT,
    RULES,
    alerts,
    known_names,
    metric_names,
    promtool,
    recorded,
    selectors,
    shared_metrics,
)

BY_ALERT = {rule["alert"]: rule for rule in alerts()}
EXPRESSIONS = {
    rule.get("alert") or rule["record"]: rule["expr"]
    for path in RULES.glob("*.yml")
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
}


def test_promtool_takes_configuration_and_rules() -> None:
    done = promtool("check", "config", MONITORING / "prometheus" / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    cases = yaml.safe_load(ALERT_CASES.read_text())["tests"]
    for alert in BY_ALERT:
        fires = {True: 0, False: 0}
        for case in cases:
            for one in case["promql_expr_test"]:
                if f'alertname="{alert}"' in one["expr"]:
                    fires[bool(one["exp_samples"])] += 1
                    assert case["name"].startswith(f"{alert} {'fires' if one['exp_samples'] else 'is quiet'}")
        assert all(fires.values()), f"{alert}: {fires}"


def test_an_alert_says_what_it_is_and_where_its_runbook_is() -> None:
    runbooks = (ROOT / "docs" / "operate" / "runbooks.md").read_text()
    for alert, rule in BY_ALERT.items():
        assert re.fullmatch(r"Penstock([A-Z][a-z]+)+", alert)
        assert rule["labels"]["severity"] in {"critical", "warning"}, alert
        notes = rule["annotations"]
        assert set(notes) == {"summary", "description", "runbook"}, alert
        assert notes["runbook"] == f"docs/operate/runbooks.md#{alert.lower()}"
        assert f"\n## {alert}\n" in runbooks


def test_every_runbook_has_its_alert() -> None:
    text = (ROOT / "docs" / "operate" / "runbooks.md").read_text()
    assert set(re.findall(r"^## (\w+)$", text, re.MULTILINE)) == set(BY_ALERT)


def test_rules_read_metrics_that_there_are() -> None:
    for name, expression in EXPRESSIONS.items():
        unknown = metric_names(expression) - known_names()
        assert not unknown, name


def test_what_every_api_process_sees_is_never_summed_over_them() -> None:
    for name, expression in EXPRESSIONS.items():
        for metric, aggregation in selectors(expression):
            assert metric not in shared_metrics() or aggregation in {"max", "min"}, f"{name}: {metric}"


def test_recorded_names_say_level_metric_and_operation() -> None:
    for name in recorded():
        assert re.fullmatch(r"penstock:[a-z_]+:[a-z0-9_]+", name), name
