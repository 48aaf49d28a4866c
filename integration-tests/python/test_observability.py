"""The alert rules and the dashboard: that they say what they should, by
Prometheus's own tools, and of metrics that there are."""

import json
import pathlib
import re
import subprocess
import time

import pytest
import yaml
from discovery import DeltaStream
from fairway import ROOT
from helm import CHART

PROMTOOL = ROOT / ".cache/bin/promtool"
ALERTS = CHART / "files/alerts.yaml"
#: What Istio's dashboards ask for.
ISTIO = pathlib.Path(__file__).parent / "istio-dashboards.txt"
CASES = pathlib.Path(__file__).parent / "alerts_test.yaml"
DASHBOARD = CHART / "dashboards/fairway.json"

#: Not exposed before they have something to count.
LATE = {"citadel_server_csr_sign_err_count"}
#: Of the kubelet.
FOREIGN = {"container_cpu_usage_seconds_total", "container_memory_working_set_bytes"}

needs_promtool = pytest.mark.skipif(not PROMTOOL.exists(), reason="no promtool: it comes from Debian's package prometheus")


def promtool(*arguments, cwd=None):
    done = subprocess.run(
        [PROMTOOL, *arguments], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, cwd=cwd,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def alerts():
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels():
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        yield panel
        yield from panel.get("panels", [])


def expressions():
    """What the dashboard asks Prometheus for, with its variables filled in."""
    for panel in panels():
        for target in panel.get("targets", []):
            text = target["expr"].replace("$__rate_interval", "5m")
            yield panel["title"], re.sub(r"\$(namespace|pod)\b", ".*", text)


@needs_promtool
def test_prometheus_can_load_the_alerts():
    assert f"{len(alerts())} rules found" in promtool("check", "rules", ALERTS)


@needs_promtool
def test_alerts_fire_when_they_should_and_only_then(tmp_path):
    # Who is told matters here, not the wording.
    groups = yaml.safe_load(ALERTS.read_text())
    for rule in alerts():
        assert rule["annotations"]["summary"] and rule["annotations"]["description"]
    for group in groups["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(groups))
    (tmp_path / "cases.yaml").write_text(CASES.read_text())
    promtool("test", "rules", "cases.yaml", cwd=tmp_path)


def test_every_alert_is_seen_firing_and_silent():
    fire, silent = set(), set()
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        for one in case["alert_rule_test"]:
            (fire if one.get("exp_alerts") else silent).add(one["alertname"])
    assert fire == silent == {rule["alert"] for rule in alerts()}


@needs_promtool
def test_prometheus_understands_the_dashboard(tmp_path):
    rules = [{"record": f"panel:{number}", "expr": text} for number, (_, text) in enumerate(expressions())]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", file)


def test_the_metrics_exist(fairway):
    """Of alerts and of the dashboard, with a proxy connected."""
    with fairway.plaintext() as channel, DeltaStream(channel) as stream:
        stream.subscribe_all()
        _, _, body = fairway.get(fairway.monitoring, "/metrics")
    exposed = set(re.findall(r"^([a-z_]+)[{ ]", body, re.M)) - {"#"}
    source = "".join(file.read_text() for file in (ROOT / "src").rglob("*.rs"))
    assert all(f'"{name}"' in source for name in LATE)
    assert not LATE & exposed, "then it need not be an exception"
    wanted = {}
    for where, text in [*((rule["alert"], rule["expr"]) for rule in alerts()), *expressions()]:
        for name in names(text):
            wanted.setdefault(name, where)
    assert len(wanted) > 25
    missing = {name: where for name, where in wanted.items() if name not in exposed | LATE | FOREIGN}
    assert missing == {}


def test_istios_dashboards_have_something_to_show(fairway):
    """A panel that asks for a metric or a label that is not there is empty, and so
    is a rate of what appears with its first event."""
    with fairway.plaintext() as channel, DeltaStream(channel) as stream:
        stream.subscribe_all()
        _, _, body = fairway.get(fairway.monitoring, "/metrics")
    exposed = [
        (name, dict(re.findall(r'([a-z]+)="([^"]*)"', labels)))
        for name, labels in re.findall(r"^([a-z_0-9]+)(?:\{(.*)\})? ", body, re.M)
    ]
    wanted = [line.split() for line in ISTIO.read_text().splitlines() if not line.startswith("#")]
    assert len(wanted) > 10

    def there(name, labels):
        pairs = [label.partition("=") for label in labels]
        return any(
            name == found and all(key in has and value in ("", has[key]) for key, _, value in pairs)
            for found, has in exposed
        )

    assert [line for line in wanted if not there(line[0], line[1:])] == []
    # And what was read is counted.
    pods = re.search(r'^pilot_k8s_reg_events\{type="Pods",event="add"\} (\d+)$', body, re.M)
    assert int(pods[1]) > 0
    pushes = re.search(r'^pilot_push_triggers\{type="ambient"\} (\d+)$', body, re.M)
    assert int(pushes[1]) >= int(pods[1])
    resident, reserved = (
        float(re.search(rf"^process_{name}_memory_bytes (\S+)$", body, re.M)[1]) for name in ("resident", "virtual")
    )
    assert 1e6 < resident < reserved
    cpu, start, files, most = (
        float(re.search(rf"^process_{name} (\S+)$", body, re.M)[1])
        for name in ("cpu_seconds_total", "start_time_seconds", "open_fds", "max_fds")
    )
    assert 0 < cpu < 3600 and abs(time.time() - start) < 3600 and 3 < files < most


def names(expression):
    """The names of the metrics in an expression."""
    for pattern in re.findall(r'__name__=~"([^"]*)"', expression):
        yield from ("citadel_server_" + part + "_expiry_timestamp" for part in re.findall(r"root_cert|cert_chain", pattern))
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]', "", expression)
    bare = re.sub(r"\b(by|on|without|ignoring|group_left|group_right) *\([^)]*\)", "", bare)
    functions = {"or", "and", "unless", "by", "bool"}
    for word, call in re.findall(r"\b([a-z_][a-z0-9_]*)\b( *\()?", bare):
        if not call and word not in functions:
            yield word


def test_the_dashboard_can_be_imported():
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["uid"] == "fairway" and dashboard["title"] == "Fairway"
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert variables == {"datasource", "namespace", "pod"}
    drawn = [panel for panel in panels() if panel["type"] != "row"]
    assert len(drawn) >= 20
    for panel in drawn:
        assert panel["description"] and panel["datasource"]["uid"] == "$datasource", panel["title"]
        assert all("$namespace" in target["expr"] for target in panel["targets"]), panel["title"]
    # Nothing overlaps: Grafana would move it.
    taken = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
