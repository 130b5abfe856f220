"""How the gateway stands, as plain JSON values: pure, from snapshots that are handed in.

Times of day are RFC 3339 in UTC, spans are seconds, sizes bytes.
"""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from gateway.admin import formatting as wording
from gateway.admin.models import models_of
from gateway.admin.problems import problems_of
from gateway.admin.snapshot import Keys, Ollama, Standing
from gateway.auth.keys import Key
from gateway.auth.principal import Scope
from gateway.models.residency import Residency
from gateway.public.context import UnderWay
from gateway.scheduler import Snapshot
from gateway.scheduler.snapshot import LaneState


def not_ready(
    *, draining: bool, up: bool, ollama_url: str, keys: Keys, now: datetime
) -> str | None:
    """Why no call can be served now, on one line; None if one can.

    A broken key file alone is no reason: the keys before it still hold.
    """
    if draining:
        return "draining: the gateway is shutting down"
    if not keys.active(now):
        return f"no valid key: {keys.broken or 'make one with `ollama-gateway keys create NAME`'}"
    if not up:
        return f"upstream_unreachable: Ollama does not answer at {ollama_url}"
    return None


def status_of(standing: Standing) -> dict[str, Any]:
    """The content of ``/status.json``, and all that the status page shows."""
    reason = not_ready(
        draining=standing.draining,
        up=standing.ollama.up,
        ollama_url=standing.ollama.url,
        keys=standing.keys,
        now=standing.now,
    )
    return {
        "version": standing.version,
        "now": wording.iso(standing.now),
        "started_at": wording.iso(standing.started_at),
        "uptime": max(0.0, round((standing.now - standing.started_at).total_seconds(), 1)),
        "ready": reason is None,
        "reason": reason,
        "problems": [asdict(each) for each in problems_of(standing)],
        "ollama": _ollama(standing.ollama, standing.residency_tracker),
        "queue": {
            "text": standing.queue_text,
            **_queue(standing.queue),
            "draining": standing.draining,
        },
        "under_way": [_under_way(each) for each in standing.under_way],
        "models": models_of(standing),
        "keys": [_key(key, standing) for key in standing.keys.all],
        "keys_broken": standing.keys.broken,
        "requests": standing.recent["requests"],
        "outcomes": standing.recent["outcomes"],
        "failures": standing.recent["failures"],
        "last": standing.recent["last"],
    }


def _ollama(ollama: Ollama, residency_tracker: Residency) -> dict[str, Any]:
    served = ollama.served
    return {
        "url": ollama.url,
        "up": ollama.up,
        "error": ollama.trouble,
        "models": None if served is None else len(served.listing.models),
        "list_age": None if served is None else round(served.age, 1),
        "stale": served is None or served.stale or not ollama.up,
        "loaded": sorted(residency_tracker.resident),
        "max_loaded": residency_tracker.max_loaded,
        "loaded_together": sorted(map(sorted, residency_tracker.coresident)),
    }


def _queue(queue: Snapshot) -> dict[str, Any]:
    """``lanes`` begins with the one that has waited longest."""
    lanes = sorted(queue.lanes, key=lambda lane: (-lane.oldest_wait, lane.key, lane.model))
    return {
        "active": sum(queue.active.values()),
        "max_active": queue.max_active,
        "queued": sum(queue.queued.values()),
        "max_queued": queue.max_queued,
        "oldest_wait": round(queue.oldest_wait, 1),
        "lanes": [_lane(lane) for lane in lanes],
    }


def _lane(lane: LaneState) -> dict[str, Any]:
    """Who waits and is expected to go at once is one of whom nothing is known, or whose turn should
    have come: ``expected_wait`` then is None.
    """
    return {
        **asdict(lane),
        "oldest_wait": round(lane.oldest_wait, 1),
        "expected_wait": round(lane.expected_wait, 1) or None,
    }


def _under_way(each: UnderWay) -> dict[str, Any]:
    return {**asdict(each), "duration": round(each.duration, 1)}


def _key(key: Key, standing: Standing) -> dict[str, Any]:
    totals = standing.recent["keys"].get(key.name, {})
    return {
        "name": key.name,
        "state": key.state(standing.now).value,
        "scopes": [scope.value for scope in Scope if scope in key.scopes],
        "expires": None if key.expires is None else wording.iso(key.expires),
        "requests": totals.get("requests", 0),
        "failed": totals.get("failed", 0),
        "tokens_in": totals.get("tokens_in", 0),
        "tokens_out": totals.get("tokens_out", 0),
    }
