import io
from collections.abc import Callable
from typing import Any

from gateway.telemetry import (
    REPORT_EVERY,
    FinishedRequest,
    Phase,
    RequestRecord,
    Sink,
    Telemetry,
)
from gateway.telemetry.log import LineWriter, RequestLog
from gateway.telemetry.metrics import Gauges, Metrics
from gateway.telemetry.recent import Recent
from tests.telemetry.conftest import MakeFacts


class Failing:
    def observe(self, finished: FinishedRequest) -> None:
        raise RuntimeError(finished.request_id)


class Noting:
    def __init__(self) -> None:
        self.seen: list[FinishedRequest] = []

    def observe(self, finished: FinishedRequest) -> None:
        self.seen.append(finished)


class Reports:
    """Remembers what was reported, at a time that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.seen: list[tuple[str, int, str]] = []

    def report(self, sink: str, errors: int, error: Exception) -> None:
        self.seen.append((sink, errors, str(error)))

    def telemetry(self, **sinks: Sink) -> Telemetry:
        return Telemetry(report=self.report, now=lambda: self.now, **sinks)


def test_all_sinks_see_the_same_facts(facts: MakeFacts) -> None:
    """One frozen value, emitted once."""
    one, other = Noting(), Noting()
    ended = facts()

    Reports().telemetry(one=one, other=other).finished(ended)

    assert one.seen[0] is other.seen[0] is ended


def test_a_failing_sink_harms_neither_the_others_nor_the_request(facts: MakeFacts) -> None:
    """Its errors are counted by its name."""
    noting = Noting()
    telemetry = Reports().telemetry(log=Failing(), recent=noting)

    telemetry.finished(facts())
    telemetry.finished(facts())

    assert len(noting.seen) == 2
    assert telemetry.errors == {"log": 2}
    assert repr(telemetry) == "<Telemetry log, recent; 2 errors>"


def test_a_failing_sink_is_reported_at_once_and_then_once_per_period(facts: MakeFacts) -> None:
    """Each report says how many errors there were since the last one."""
    reports = Reports()
    telemetry = reports.telemetry(log=Failing())

    for now in (0.0, 0.1, REPORT_EVERY - 0.1, REPORT_EVERY, REPORT_EVERY + 1, 5 * REPORT_EVERY):
        reports.now = now
        telemetry.finished(facts())

    assert reports.seen == [("log", 1, "r-1"), ("log", 3, "r-1"), ("log", 2, "r-1")]
    assert telemetry.errors == {"log": 6}


def test_a_report_that_fails_is_counted(facts: MakeFacts) -> None:
    """Where the log itself fails, the metric still shows it."""

    def report(sink: str, errors: int, error: Exception) -> None:
        raise OSError(sink, errors, error)

    telemetry = Telemetry(report=report, now=lambda: 0.0, log=Failing())

    telemetry.finished(facts())

    assert telemetry.errors == {"log": 1, "report": 1}


def test_one_request_reaches_log_metrics_and_status_page(
    buffer: io.BytesIO, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    """The real sinks, wired as the service wires them."""
    metrics, recent = Metrics(snapshot=Gauges, version="1"), Recent()
    log = RequestLog(LineWriter(buffer), level="info", log_format="json")
    telemetry = Reports().telemetry(log=log, metrics=metrics, recent=recent)
    record = RequestRecord(request_id="r-7", method="GET", started=10.0, route="/v1/models")
    record.phase, record.status = Phase.DONE, 200

    telemetry.finished(record.finish(10.002))

    assert [line["request_id"] for line in lines()] == ["r-7"]
    assert b'gateway_requests_total{key="none",model="",outcome="ok"' in metrics.exposition("")[0]
    assert recent.snapshot()["requests"] == 1
    assert not telemetry.errors
