"""How a gateway may stand, for tests of what is told about it."""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import msgspec

from gateway.admin.snapshot import Keys, Ollama, Standing
from gateway.auth.keys import Key
from gateway.estimate import Estimate
from gateway.models.list_cache import CachedList
from gateway.models.listing import Listing, parse_listing
from gateway.models.residency import Residency
from gateway.models.statistics import ModelStats
from gateway.proxy.pipeline import RequestPolicy
from gateway.scheduler import Snapshot
from gateway.scheduler.snapshot import LaneState
from gateway.telemetry.recent import Recent
from gateway.telemetry.record import FinishedRequest, Phase
from gateway.timeouts import ModelOverride, TimeoutSettings
from tests.auth.fakes import NOW, a_key
from tests.models.fakes import tags_of

URL = "http://127.0.0.1:11434"


def listing(*names: str) -> Listing:
    return parse_listing(tags_of(*names), fetched_at=0.0)


def served(*names: str, age: float = 12.0, stale: bool = False) -> CachedList:
    return CachedList(listing(*names), age, stale)


def terms(*overrides: ModelOverride, total_timeout: float | None = None) -> RequestPolicy:
    timeouts = TimeoutSettings(
        queue_timeout=300.0,
        connect_timeout=5.0,
        first_byte_timeout=None,
        idle_timeout=None,
        total_timeout=total_timeout,
        stream_total_timeout=1800.0,
        ceiling=1800.0,
        write_timeout=30.0,
    )
    return RequestPolicy(
        timeouts=timeouts, overrides=overrides, max_active_per_model=1, answer_bytes=1 << 20
    )


def queue(*, max_queued: int = 64, **counts: dict[str, int]) -> Snapshot:
    """``active`` and ``queued`` are by model; all who wait have the same key."""
    queued = counts.get("queued", {})
    return Snapshot(
        max_active=1,
        max_queued=max_queued,
        active=counts.get("active", {}),
        lanes=tuple(LaneState("laptop", model, count, 0.0) for model, count in queued.items()),
    )


def figures(
    *, load: float = 8.0, first_byte: float = 0.5, service: float = 6.0, count: int = 9
) -> ModelStats:
    """Of a model that was called ``count`` times, always with the same times but for a tenth."""

    def seen(mean: float) -> Estimate:
        return Estimate(mean, mean / 10, count)

    return ModelStats(
        load=seen(load),
        first_byte=seen(first_byte),
        service=seen(service),
        generation_rate=seen(48.0),
    )


def memory(*confirmed: str, loading: Collection[str] = ()) -> Residency:
    """These are loaded, and those may be, or will be."""
    return Residency(resident=frozenset({*confirmed, *loading}), confirmed=frozenset(confirmed))


def a_standing(**changes: Any) -> Standing:
    """All is well, with one model and one key, unless ``changes`` say otherwise."""
    well = Standing(
        now=NOW,
        started_at=NOW - timedelta(hours=2),
        version="1.2.3",
        draining=False,
        ollama=Ollama(url=URL, up=True, served=served("llama3.1:8b")),
        queue=queue(),
        queue_text="<Admission 0/1 active, 0/64 queued>",
        keys=the_keys(a_key("laptop")),
        terms=terms(),
        residency_tracker=Residency(),
        statistics={},
        recent=recent(),
    )
    return replace(well, **changes)


def the_keys(*keys: Key, broken: str | None = None) -> Keys:
    return Keys(all=keys, broken=broken)


def recent(*facts: FinishedRequest, at: datetime = NOW) -> dict[str, Any]:
    sink = Recent(wall_clock=at.timestamp)
    for each in facts:
        sink.observe(each)
    return sink.snapshot()


def failed(error: str, **changes: Any) -> FinishedRequest:
    facts = FinishedRequest(
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
        model="llama3.1:8b",
    )
    return msgspec.structs.replace(facts, **changes)
