import io
from collections.abc import Callable
from typing import Any

from gateway.telemetry import FinishedRequest, Phase, RequestRecord, Telemetry
from gateway.telemetry.log import Lines, RequestLog, make_logger
from gateway.telemetry.metrics import Gauges, Metrics
from gateway.telemetry.recent import Recent
from tests.telemetry.conftest import MakeFacts


class Failing:
    def observe(self, facts: FinishedRequest) -> None:
        raise RuntimeError(facts.request_id)


class Noting:
    def __init__(self) -> None:
        self.seen: list[FinishedRequest] = []

    def observe(self, facts: FinishedRequest) -> None:
        self.seen.append(facts)


def test_all_sinks_see_the_same_facts(facts: MakeFacts) -> None:
    """One frozen value, emitted once."""
    one, other = Noting(), Noting()
    ended = facts()

    Telemetry(one, other).finished(ended)

    assert one.seen[0] is other.seen[0] is ended


def test_a_sink_that_fails_harms_nobody(facts: MakeFacts) -> None:
    """Neither the sinks behind it nor the request; but it is counted."""
    noting = Noting()
    telemetry = Telemetry(Failing(), noting)

    telemetry.finished(facts())
    telemetry.finished(facts())

    assert len(noting.seen) == 2
    assert telemetry.failures == {"Failing": 2}
    assert repr(telemetry) == "<Telemetry Failing, Noting; 2 failures>"


def test_one_exchange_reaches_log_metrics_and_memory(
    buffer: io.BytesIO, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    """The real sinks, wired as the service wires them."""
    metrics, recent = Metrics(snapshot=Gauges, version="1"), Recent()
    log = RequestLog(make_logger(Lines(buffer), level="info", log_format="json"))
    telemetry = Telemetry(log, metrics, recent)
    record = RequestRecord(request_id="r-7", method="GET", started=10.0, route="/v1/models")
    record.phase, record.status = Phase.DONE, 200

    telemetry.finished(record.finish(10.002))

    assert [line["request_id"] for line in lines()] == ["r-7"]
    assert b'gateway_requests_total{key="none",model="",outcome="ok"' in metrics.exposition("")[0]
    assert recent.snapshot()["requests"] == 1
    assert not telemetry.failures
