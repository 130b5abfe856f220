"""A log, a metric or a status page that fails: the request succeeds, and the failure is seen."""

import httpx
import pytest

from gateway.telemetry import FinishedRequest
from gateway.telemetry.log import RequestLog
from gateway.telemetry.recent import Recent
from tests.harness import Running


@pytest.mark.parametrize(("sink", "name"), [(RequestLog, "log"), (Recent, "recent")])
async def test_a_failing_sink_is_logged_and_counted_but_fails_no_request(
    gateway: Running, monkeypatch: pytest.MonkeyPatch, sink: type, name: str
) -> None:
    """Two requests, one report with the traceback, two errors in the metrics."""

    def fail(_self: object, finished: FinishedRequest) -> None:
        raise ZeroDivisionError(finished.route)

    monkeypatch.setattr(sink, "observe", fail)
    async with httpx.AsyncClient(headers=gateway.bearer) as client:
        for _ in range(2):
            assert (await client.get(f"{gateway.url}/v1/models")).status_code == 200
        metrics = (await client.get(f"{gateway.admin_url}/metrics")).text

    (line,) = gateway.log("telemetry.failed")
    assert (line["level"], line["sink"], line["errors"]) == ("error", name, 1)
    assert line["exception"].endswith("ZeroDivisionError: /v1/models")
    assert f'gateway_telemetry_errors_total{{sink="{name}"}} 2.0' in metrics
