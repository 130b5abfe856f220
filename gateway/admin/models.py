"""The models of the status: what each is, how fast it is, how long it may take. Pure."""

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from gateway.admin import formatting as wording
from gateway.admin.contexts import context_of, prompts_of
from gateway.admin.snapshot import Standing
from gateway.models.listing import Model
from gateway.models.statistics import ModelStats
from gateway.timeouts import LearnedTimes, RequestTimeouts, max_active_for, timeouts_for

_DIGITS: Final = 3
"""Milliseconds; what was learned is not known more exactly."""


def models_of(standing: Standing) -> list[dict[str, Any]]:
    """The models that there are, then those that are in the list no more, but still called or
    loaded.
    """
    served, queue = standing.ollama.served, standing.queue
    listed = () if served is None else served.listing.models
    names = {model.name for model in listed}
    seen = queue.active.keys() | queue.queued.keys() | standing.residency_tracker.resident
    return [_listed(model, standing) for model in listed] + [
        {
            "name": name,
            "listed": False,
            **_memory(name, standing),
            **_calls(name, standing),
            **prompts_of(name, standing),
        }
        for name in sorted(seen - names)
    ]


def _listed(model: Model, standing: Standing) -> dict[str, Any]:
    terms = standing.terms
    return {
        "name": model.name,
        "listed": True,
        "parameters": _detail(model, "parameter_size"),
        "billions": model.parameters,
        "quantization": _detail(model, "quantization_level"),
        "size_bytes": model.size_bytes,
        "modified_at": None
        if not model.created
        else wording.iso(datetime.fromtimestamp(model.created, UTC)),
        "cloud": model.leaves_the_machine,
        **_memory(model.name, standing),
        "statistics": _learned(standing.statistics.get(model.name)),
        **_timeouts(model, standing),
        "max_active": max_active_for(model.name, terms.overrides, terms.max_active_per_model),
        **_calls(model.name, standing),
        **context_of(model, standing),
    }


def _memory(name: str, standing: Standing) -> dict[str, bool]:
    """``resident`` is loaded or being loaded; ``loaded_for_sure`` has shown that it is loaded."""
    view = standing.residency_tracker
    return {"resident": name in view.resident, "loaded_for_sure": name in view.confirmed}


def _learned(known: ModelStats | None) -> dict[str, dict[str, float] | None] | None:
    """What is not known is None."""
    if known is None:
        return None
    figures = {
        name: {key: round(value, _DIGITS) for key, value in estimate.items()}
        if estimate["count"]
        else None
        for name, estimate in msgspec.to_builtins(known).items()
    }
    return figures if any(figures.values()) else None


def _timeouts(model: Model, standing: Standing) -> dict[str, Any]:
    """The clocks of a call that would be sent now, by a caller who declares no patience.

    ``total_timeout`` is for an answer in one piece, the others are for a stream; ``why`` holds the
    reason of each.
    """
    whole = _timeouts_of(model, standing, streaming=False)
    stream = _timeouts_of(model, standing, streaming=True)
    timeouts = {
        "total_timeout": (whole.total_timeout, whole.why.total),
        "first_byte_timeout": (stream.first_byte_timeout, stream.why.first_byte),
        "idle_timeout": (stream.idle_timeout, stream.why.idle),
        "stream_total_timeout": (stream.total_timeout, stream.why.total),
    }
    return {
        **{name: round(seconds, _DIGITS) for name, (seconds, _) in timeouts.items()},
        "why": {name: why for name, (_, why) in timeouts.items()},
    }


def _timeouts_of(model: Model, standing: Standing, *, streaming: bool) -> RequestTimeouts:
    return timeouts_for(
        model=model.name,
        parameters=model.parameters,
        size_bytes=model.size_bytes,
        streaming=streaming,
        client_timeout=None,
        settings=standing.terms.timeouts,
        overrides=standing.terms.overrides,
        statistics=_times(standing.statistics.get(model.name)),
        resident=model.name in standing.residency_tracker.confirmed,
        held=standing.terms.holds,
    )


def _times(known: ModelStats | None) -> LearnedTimes | None:
    if known is None:
        return None
    return LearnedTimes(load=known.load, first_byte=known.first_byte, total=known.service)


def _calls(name: str, standing: Standing) -> dict[str, int]:
    totals = standing.recent["models"].get(name, {})
    return {
        "active": standing.queue.active.get(name, 0),
        "queued": standing.queue.queued.get(name, 0),
        "requests": totals.get("requests", 0),
        "failed": totals.get("failed", 0),
        "tokens_in": totals.get("tokens_in", 0),
        "tokens_out": totals.get("tokens_out", 0),
    }


def _detail(model: Model, name: str) -> str | None:
    """Ollama's own word for it; None where it has none."""
    details = model.raw.get("details")
    value = details.get(name) if isinstance(details, dict) else None
    return value if isinstance(value, str) and value else None
