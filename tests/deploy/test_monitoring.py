"""Dashboard and alerts ask only for what the gateway tells."""

import re
from typing import Any

import pytest

from gateway import errors
from gateway.settings import load
from gateway.telemetry.metrics import Gauges, Metrics
from gateway.telemetry.record import RequestRecord
from tests.deploy.paths import DEPLOY, from_json, from_yaml, text

BOARD = from_json(DEPLOY / "grafana" / "dashboard.json")
PANELS: list[dict[str, Any]] = BOARD["panels"]
ALERTS: list[dict[str, Any]] = [
    rule
    for group in from_yaml(DEPLOY / "prometheus" / "alerts.yml")["groups"]
    for rule in group["rules"]
]
(JOB,) = from_yaml(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]] + [
    rule["expr"] for rule in ALERTS
]
_WORDS = frozenset(
    ("sum", "min", "max", "rate", "increase", "by", "vector", "or", "histogram_quantile", "le")
) | {"up", "job"}


def _metrics() -> Metrics:
    return Metrics(snapshot=lambda: Gauges(catalog_age=1.0), version="test")


def _series() -> set[str]:
    """The names under which a scrape finds something."""
    page = _metrics().exposition("")[0].decode()
    kinds = re.findall(r"^# TYPE (\w+) (\w+)$", page, re.MULTILINE)
    parts = ("_bucket", "_sum", "_count")
    histograms = {f"{name}{part}" for name, kind in kinds if kind == "histogram" for part in parts}
    return {name for name, kind in kinds if kind != "histogram"} | histograms


def _labels() -> set[str]:
    """The labels of a page after a request of every kind."""
    metrics = _metrics()
    record = RequestRecord(
        request_id="req_1",
        method="POST",
        started=0.0,
        outcome=errors.ClientDisconnected.code,
        tokens_in=1,
        prompt_truncated=True,
        heartbeats=1,
        replayed=True,
    )
    metrics.observe(record.finish(1.0))
    metrics.auth_failed("missing")
    page = metrics.exposition("")[0].decode()
    return {"model", "job", *re.findall(r"[{,](\w+)=", page)}


def _outcomes() -> set[str]:
    classes = [errors.GatewayError]
    for each in classes:
        classes += each.__subclasses__()
    return {each.code for each in classes} | {"ok", "upstream_4xx", "upstream_5xx"}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_uses_what_the_gateway_exposes(expression: str) -> None:
    """A name or a label that does not exist shows an empty panel, and never an error."""
    bare = re.sub(r'"[^"]*"|\[[^]]*\]', "", expression)
    words = set(re.findall(r"[a-z_][a-z_0-9]*", bare)) - _WORDS
    series = {word for word in words if word.startswith("gateway_")}

    assert series or bare.startswith("up")
    assert series <= _series()
    assert words - series <= _labels()


@pytest.mark.parametrize("expression", [each for each in EXPRESSIONS if "outcome" in each])
def test_outcomes_in_expressions_exist(expression: str) -> None:
    """Each alternative is, or matches, a code of the error table."""
    for pattern in re.findall(r'outcome!?=~?"([^"]*)"', expression):
        for alternative in pattern.split("|"):
            assert any(re.fullmatch(alternative, outcome) for outcome in _outcomes()), alternative


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_happened_and_what_to_do(rule: dict[str, Any]) -> None:
    """A person on call needs both."""
    assert rule["annotations"].keys() == {"summary", "action"}
    assert all(note.strip().endswith(".") for note in rule["annotations"].values())
    assert rule["labels"]["severity"] in {"critical", "warning"}


def test_alert_names_are_unique() -> None:
    """Two of one name would be taken for one."""
    names = [rule["alert"] for rule in ALERTS]

    assert len(set(names)) == len(names)


def test_prometheus_uses_an_accepted_host_name() -> None:
    """With a key from a file that git does not take."""
    compose = from_yaml(DEPLOY / "compose.yaml")
    environ = {"XDG_CONFIG_HOME": "/nowhere"}
    environ["GATEWAY_LISTEN__ADMIN_HOSTS"] = compose["services"]["gateway"]["environment"][
        "GATEWAY_LISTEN__ADMIN_HOSTS"
    ]
    listen = load(environ=environ).settings.listen
    ((target,),) = [each["targets"] for each in JOB["static_configs"]]
    host, _, port = target.partition(":")

    assert host in listen.admin_hosts
    assert host in compose["services"]
    assert int(port) == listen.admin.port
    assert JOB["authorization"]["credentials_file"] in text(DEPLOY / ".gitignore").splitlines()


def test_prometheus_reads_the_alerts() -> None:
    """The file is there, and speaks of the job by its name."""
    (file,) = from_yaml(DEPLOY / "prometheus" / "prometheus.yml")["rule_files"]

    assert (DEPLOY / "prometheus" / file).is_file()
    assert any(f'job="{JOB["job_name"]}"' in rule["expr"] for rule in ALERTS)


def test_panels_do_not_cover_each_other() -> None:
    """Within 24 columns, each place is taken once, and each panel says what it shows."""
    grid_cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in PANELS)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]

    assert len(set(grid_cells)) == len(grid_cells)
    assert max(x for x, _ in grid_cells) < 24
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert all(panel["title"] and panel["description"] for panel in PANELS)


def test_the_dashboard_asks_whichever_prometheus_is_chosen() -> None:
    """So it can be imported anywhere, and in compose finds the one that is there."""
    (variable,) = BOARD["templating"]["list"]
    (source,) = from_yaml(DEPLOY / "grafana" / "datasource.yaml")["datasources"]
    services = from_yaml(DEPLOY / "compose.yaml")["services"]

    assert {panel["datasource"]["uid"] for panel in PANELS} == {f"${{{variable['name']}}}"}
    assert source["type"] == variable["query"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in services["grafana"]["depends_on"]


def test_grafana_finds_the_dashboard_where_it_looks() -> None:
    """The folder of the provider is the one that compose mounts it in."""
    (provider,) = from_yaml(DEPLOY / "grafana" / "dashboards.yaml")["providers"]
    mounts = from_yaml(DEPLOY / "compose.yaml")["services"]["grafana"]["volumes"]

    assert f"./grafana/dashboard.json:{provider['options']['path']}/gateway.json:ro" in mounts
