"""`docs/log-and-metrics.md` lists every field, phase and metric, and no others."""

import re
from pathlib import Path

from gateway.telemetry.metrics import Gauges, Metrics
from gateway.telemetry.record import FinishedRequest, Phase

PAGE = (Path(__file__).parents[2] / "docs" / "log-and-metrics.md").read_text(encoding="utf-8")


def first_column(heading: str) -> set[str]:
    """The names in the first column of the table under a row of headings."""
    table = PAGE[PAGE.index(f"| {heading} |") :].partition("\n\n")[0].partition("\n")[2]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    return set(re.findall(r"`([a-z_]+)", " ".join(rows)))


def test_every_log_field_is_documented() -> None:
    assert first_column("field") == set(FinishedRequest.__struct_fields__)


def test_every_phase_is_documented() -> None:
    phases = {phase.value for phase in Phase}

    assert first_column("`phase` | the request waited for, or was at") == phases


def test_every_metric_is_documented() -> None:
    metrics = Metrics(snapshot=_nothing, version="1")
    page, _ = metrics.exposition("")
    names = re.findall(r"^# TYPE (gateway_\w+) ", page.decode(), re.MULTILINE)

    # The library adds the creation time of each series.
    assert first_column("metric") == {name for name in names if not name.endswith("_created")}


def _nothing() -> Gauges:
    return Gauges(
        active={},
        queued={},
        upstream_up=True,
        catalog_age=1.0,
        keys_broken=False,
        log_lines_lost=0,
    )
