"""`docs/log-and-metrics.md` tells of every field and metric, and of none that is not there."""

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


def test_every_field_of_the_log_is_told() -> None:
    """Whoever reads a line can look up what stands in it."""
    assert first_column("field") == set(FinishedRequest.__struct_fields__)


def test_every_phase_is_told() -> None:
    """A phase says what somebody was waiting for."""
    assert first_column("`phase` | it waited for, or was at") == {phase.value for phase in Phase}


def test_every_metric_is_told() -> None:
    """By the name under which Prometheus knows it."""
    metrics = Metrics(snapshot=_nothing, version="1")
    page, _ = metrics.exposition("")
    names = re.findall(r"^# TYPE (gateway_\w+) ", page.decode(), re.MULTILINE)

    # The library shows when each series was made, beside it.
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
