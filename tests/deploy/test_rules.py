"""The alert rules and the Grafana dashboard: Prometheus understands them, and each alert fires when it should."""

from itertools import combinations
from pathlib import Path

import pytest
import yaml

from tests.deploy.promql import RULES, RULES_TEST, alerts, dashboard, expressions, panels, promtool, recorded

ALERTS = [rule["alert"] for rule in alerts()]


def test_prometheus_accepts_the_rules() -> None:
    done = promtool("check", "rules", str(RULES))
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    done = promtool("test", "rules", str(RULES_TEST))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_of_each_alert_both_is_tried(alert: str) -> None:
    tests = yaml.safe_load(RULES_TEST.read_text())["tests"]
    tried = [
        bool(case["exp_alerts"]) for test in tests for case in test["alert_rule_test"] if case["alertname"] == alert
    ]
    assert set(tried) == {True, False}


def test_the_test_of_the_rules_can_fail(tmp_path: Path) -> None:
    broken = RULES_TEST.read_text().replace("../../charts/modelferry/files/rules.yaml", str(RULES))
    assert "exp_alerts: []" in broken
    (tmp_path / "rules_test.yaml").write_text(broken.replace("severity: critical", "severity: none"))
    assert promtool("test", "rules", str(tmp_path / "rules_test.yaml")).returncode != 0


def test_each_alert_says_what_is_wrong_and_how_badly() -> None:
    assert len(set(ALERTS)) == len(ALERTS)
    for rule in alerts():
        assert rule["labels"]["severity"] in {"warning", "critical"}, rule
        assert rule["annotations"].keys() == {"summary", "description"}, rule
        assert rule["for"], rule


def test_prometheus_can_be_asked_all_that_is_asked(tmp_path: Path) -> None:
    told = expressions()
    asked = [{"record": f"asked:{number}", "expr": expression} for number, expression in enumerate(told.values())]
    file = tmp_path / "asked.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": asked}]}))
    done = promtool("check", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(recorded()) < len(told)


def test_the_dashboard_is_one_that_grafana_can_import() -> None:
    whole = dashboard()
    assert whole["schemaVersion"] >= 39
    assert (whole["uid"], whole["title"]) == ("modelferry", "Modelferry")
    assert "id" not in whole, "Grafana gives it one of its own"
    variables = {variable["name"]: variable for variable in whole["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    ids = [panel["id"] for panel in whole["panels"]]
    assert len(set(ids)) == len(ids)
    rows = [panel["title"] for panel in whole["panels"] if panel["type"] == "row"]
    assert rows == ["Overview", "Queues", "Hubs", "Conversion", "API", "Volume and messages"]


def test_no_two_panels_of_the_dashboard_overlap() -> None:
    places = [(panel["title"], panel["gridPos"]) for panel in dashboard()["panels"]]
    for title, place in places:
        assert place["x"] >= 0, title
        assert place["x"] + place["w"] <= 24, title
        assert min(place["w"], place["h"]) >= 1, title
    for (one, a), (other, b) in combinations(places, 2):
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, f"{one} and {other}"


def test_each_panel_says_what_it_shows_in_which_unit_and_from_where() -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels():
        assert panel["description"], panel["title"]
        assert panel["datasource"] == source, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == source, panel["title"]
            assert 'namespace=~"$namespace"' in target["expr"], panel["title"]
        names = [target["refId"] for target in panel["targets"]]
        assert len(set(names)) == len(names), panel["title"]
