"""The inputs of a status, for tests of what it says."""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import msgspec

from gateway.admin.builder import StatusInputs
from gateway.estimate import Estimate
from gateway.models.catalog import CachedList
from gateway.models.listing import Listing, parse_listing
from gateway.models.residency import Residency
from gateway.models.statistics import ModelStats
from gateway.scheduler import QueueSnapshot, Snapshot
from gateway.settings import ModelRule, Settings, TimeoutsSettings, TunnelSettings
from gateway.telemetry.recent import Recent
from gateway.telemetry.record import FinishedRequest, Phase
from tests.auth.fakes import NOW, a_key
from tests.models.fakes import tags_of

URL = "http://127.0.0.1:11434"
MODEL = "llama3.1:8b"


def status_inputs(**changes: Any) -> StatusInputs:
    """A healthy gateway with one model and one key, unless ``changes`` say otherwise."""
    healthy = StatusInputs(
        now=NOW,
        started_at=NOW - timedelta(hours=2),
        version="1.2.3",
        draining=False,
        ollama_url=URL,
        upstream_up=True,
        model_list=cached_list(MODEL),
        scheduler=scheduler_snapshot(),
        keys=(a_key("laptop"),),
        key_file_error=None,
        settings=settings(),
        residency=Residency(),
        statistics={},
        recent=recent(),
    )
    return replace(healthy, **changes)


def listing(*names: str) -> Listing:
    return parse_listing(tags_of(*names), fetched_at=0.0)


def cached_list(*names: str, age: float = 12.0, stale: bool = False) -> CachedList:
    return CachedList(listing(*names), age, stale)


def settings(*rules: ModelRule, total_timeout: float | None = None) -> Settings:
    """Settings of a gateway that does not extend deadlines by heartbeats."""
    return Settings(
        models=rules,
        timeouts=TimeoutsSettings(total_timeout=total_timeout),
        tunnel=TunnelSettings(client_timeout="respect"),
    )


def scheduler_snapshot(*, max_queued: int = 64, **counts: dict[str, int]) -> Snapshot:
    """``active`` and ``queued`` are by model; all queued requests have the same key."""
    queued = counts.get("queued", {})
    return Snapshot(
        max_active=1,
        max_queued=max_queued,
        active=counts.get("active", {}),
        queues=tuple(QueueSnapshot("laptop", model, count, 0.0) for model, count in queued.items()),
    )


def model_stats(
    *, load: float = 8.0, first_byte: float = 0.5, service: float = 6.0, count: int = 9
) -> ModelStats:
    """Statistics over ``count`` requests, with a deviation of a tenth."""

    def estimate(mean: float) -> Estimate:
        return Estimate(mean, mean / 10, count)

    return ModelStats(
        load=estimate(load),
        first_byte=estimate(first_byte),
        service=estimate(service),
        generation_rate=estimate(48.0),
    )


def residency(*loaded: str, loading: Collection[str] = ()) -> Residency:
    """Models that are known to be loaded, and others that are being loaded."""
    return Residency(resident=frozenset({*loaded, *loading}), confirmed=frozenset(loaded))


def recent(*requests: FinishedRequest, at: datetime = NOW) -> dict[str, Any]:
    """The snapshot of these requests, which all ended at the same moment."""
    sink = Recent(wall_clock=at.timestamp)
    for request in requests:
        sink.observe(request)
    return sink.snapshot()


def failed_request(error: str = "", **changes: Any) -> FinishedRequest:
    """A request that Ollama did not complete, unless ``changes`` say otherwise."""
    request = FinishedRequest(
        request_id="req_1",
        method="POST",
        route="/v1/chat/completions",
        outcome="upstream_incomplete",
        phase=Phase.RELAY,
        streaming=False,
        duration=0.5,
        bytes_in=0,
        bytes_out=0,
        error=error,
        key="laptop",
        model=MODEL,
    )
    return msgspec.structs.replace(request, **changes)
