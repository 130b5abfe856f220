"""Build the status from the gateway's parts: pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from gateway.admin.problems import context_remedy, explain_outcome, find_problems
from gateway.admin.status import (
    ContextStatus,
    FailedRequest,
    KeyStatus,
    ModelStatus,
    ModelTimeouts,
    OllamaStatus,
    QueueStatus,
    RecentRequest,
    RequestInFlight,
    SchedulerStatus,
    Status,
    Timeout,
    Totals,
)
from gateway.auth.keys import Key, KeyState, Scope
from gateway.models.catalog import CachedList
from gateway.models.context_window import ContextWindows
from gateway.models.listing import Model
from gateway.models.residency import Residency
from gateway.models.statistics import ModelStats
from gateway.public.context import ActiveRequest
from gateway.public.heartbeat import deadlines_extended, heartbeat_schedule
from gateway.scheduler import Snapshot
from gateway.settings import Settings
from gateway.timeouts import Deadlines, deadlines_for, rule_for

_DIGITS: Final = 3
"""Of a second; no estimate is more exact than a millisecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusInputs:
    """The gateway's parts as they are at the moment ``now``.

    Attributes:
        now, started_at: Aware datetimes.
        upstream_up: The last request for the model list got a response.
        model_list: The list by which requests are decided; None without one.
        model_list_error: Why there is no list.
        key_file_error: Why the key file cannot be read; the keys are then the last valid ones.
        recent: The content of ``Recent.snapshot()``.
    """

    now: datetime
    started_at: datetime
    version: str
    draining: bool
    ollama_url: str
    upstream_up: bool
    model_list: CachedList | None
    model_list_error: str | None = None
    scheduler: Snapshot
    keys: tuple[Key, ...]
    key_file_error: str | None
    settings: Settings
    residency: Residency
    statistics: Mapping[str, ModelStats]
    context_windows: ContextWindows = field(default_factory=ContextWindows)
    recent: Mapping[str, Any]
    in_flight: Sequence[ActiveRequest] = ()


def not_ready_reason(
    *,
    draining: bool,
    upstream_up: bool,
    ollama_url: str,
    keys: Sequence[Key],
    key_file_error: str | None,
    now: datetime,
) -> str | None:
    """Return one line that says why no request can be served now, or None if requests can be.

    A broken key file alone is no reason: the last valid keys stay in effect.
    """
    if draining:
        return "draining: the gateway is shutting down"
    if not any(key.state(now) is KeyState.ACTIVE for key in keys):
        advice = "create one with `ollama-gateway keys create NAME`"
        return f"no valid key: {key_file_error or advice}"
    if not upstream_up:
        return f"upstream_unreachable: Ollama does not respond at {ollama_url}"
    return None


def build_status(inputs: StatusInputs) -> Status:
    """Build the content of ``/status.json``."""
    reason = not_ready_reason(
        draining=inputs.draining,
        upstream_up=inputs.upstream_up,
        ollama_url=inputs.ollama_url,
        keys=inputs.keys,
        key_file_error=inputs.key_file_error,
        now=inputs.now,
    )
    ollama = _ollama(inputs)
    scheduler = _scheduler(inputs)
    models = _models(inputs)
    keys = [_key(key, inputs) for key in inputs.keys]
    return Status(
        version=inputs.version,
        now=rfc3339(inputs.now),
        started_at=rfc3339(inputs.started_at),
        uptime=max(0.0, round((inputs.now - inputs.started_at).total_seconds(), 1)),
        ready=reason is None,
        reason=reason,
        problems=find_problems(
            now=inputs.now,
            draining=inputs.draining,
            ollama=ollama,
            scheduler=scheduler,
            models=models,
            keys=keys,
            key_file_error=inputs.key_file_error,
        ),
        ollama=ollama,
        scheduler=scheduler,
        in_flight=[_in_flight(each) for each in inputs.in_flight],
        models=models,
        keys=keys,
        key_file_error=inputs.key_file_error,
        requests=inputs.recent["requests"],
        outcomes=inputs.recent["outcomes"],
        failures=[_failed(fields) for fields in inputs.recent["failures"]],
        recent=[msgspec.convert(fields, RecentRequest) for fields in inputs.recent["last"]],
    )


def rfc3339(moment: datetime) -> str:
    """Format an aware datetime as ``2030-01-31T12:00:00Z``."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _ollama(inputs: StatusInputs) -> OllamaStatus:
    cached, residency = inputs.model_list, inputs.residency
    return OllamaStatus(
        url=inputs.ollama_url,
        up=inputs.upstream_up,
        error=inputs.model_list_error,
        model_count=None if cached is None else len(cached.listing.models),
        list_age=None if cached is None else round(cached.age, 1),
        stale=cached is None or cached.stale or not inputs.upstream_up,
        resident=sorted(residency.resident),
        max_loaded=residency.max_loaded,
        coresident=sorted(map(sorted, residency.coresident)),
    )


def _scheduler(inputs: StatusInputs) -> SchedulerStatus:
    snapshot = inputs.scheduler
    queues = sorted(snapshot.queues, key=lambda queue: (-queue.oldest_wait, queue.key, queue.model))
    return SchedulerStatus(
        active=sum(snapshot.active.values()),
        max_active=snapshot.max_active,
        queued=sum(snapshot.queued.values()),
        max_queued=snapshot.max_queued,
        oldest_wait=round(snapshot.oldest_wait, 1),
        draining=inputs.draining,
        queues=[
            QueueStatus(
                key=queue.key,
                model=queue.model,
                queued=queue.queued,
                oldest_wait=round(queue.oldest_wait, 1),
                # Zero is the estimate of a scheduler that has not seen this model respond yet, or
                # whose estimate has run out: both say nothing.
                expected_wait=round(queue.expected_wait, 1) or None,
            )
            for queue in queues
        ],
    )


def _in_flight(request: ActiveRequest) -> RequestInFlight:
    return RequestInFlight(
        request_id=request.request_id,
        route=request.route,
        key=request.key,
        model=request.model,
        phase=request.phase,
        duration=round(request.duration, 1),
        heartbeats=request.heartbeats,
    )


def _models(inputs: StatusInputs) -> list[ModelStatus]:
    """The listed models, then those that are not listed but loaded, active or queued.

    Without the latter the sums over the models would differ from those of the scheduler.
    """
    cached, scheduler = inputs.model_list, inputs.scheduler
    listed = () if cached is None else cached.listing.models
    in_use = scheduler.active.keys() | scheduler.queued.keys() | inputs.residency.resident
    unlisted = sorted(in_use - {model.name for model in listed})
    return [
        *(_listed_model(model, inputs) for model in listed),
        *(
            ModelStatus(
                name=name,
                listed=False,
                context=ContextStatus(**_prompt_counts(name, inputs)),
                **_common(name, inputs),
            )
            for name in unlisted
        ),
    ]


def _listed_model(model: Model, inputs: StatusInputs) -> ModelStatus:
    name, max_active = model.name, inputs.settings.scheduler.max_active_per_model
    rule = rule_for(name, inputs.settings.models)
    if rule is not None and rule.max_active is not None:
        max_active = rule.max_active
    return ModelStatus(
        name=name,
        listed=True,
        parameter_size=_detail(model, "parameter_size"),
        parameters_billions=model.parameters,
        quantization=_detail(model, "quantization_level"),
        size_bytes=model.size_bytes,
        modified_at=_modified_at(model),
        cloud=model.leaves_the_machine,
        timeouts=_timeouts(model, inputs),
        statistics=inputs.statistics.get(name, ModelStats()),
        context=_context(model, inputs),
        max_active=max_active,
        **_common(name, inputs),
    )


def _common(name: str, inputs: StatusInputs) -> dict[str, Any]:
    """The fields that are known of every model, whether it is listed or not."""
    return {
        "resident": name in inputs.residency.resident,
        "loaded": name in inputs.residency.confirmed,
        "active": inputs.scheduler.active.get(name, 0),
        "queued": inputs.scheduler.queued.get(name, 0),
        "totals": _totals(inputs.recent["models"].get(name, {})),
    }


def _totals(totals: Mapping[str, Any]) -> Totals:
    return msgspec.convert(totals, Totals)


def _detail(model: Model, name: str) -> str | None:
    """Return one of the model's details in Ollama's own words."""
    details = model.raw.get("details")
    value = details.get(name) if isinstance(details, dict) else None
    return value if isinstance(value, str) and value else None


def _modified_at(model: Model) -> str | None:
    if not model.created:
        return None
    try:
        return rfc3339(datetime.fromtimestamp(model.created, UTC))
    except (ValueError, OverflowError, OSError):
        # Ollama's word for it, which may be a year that no calendar has.
        return None


def _timeouts(model: Model, inputs: StatusInputs) -> ModelTimeouts:
    complete = _request_timeouts(model, inputs, streaming=False)
    stream = _request_timeouts(model, inputs, streaming=True)
    return ModelTimeouts(
        total=_timeout(complete.total, complete.reasons.total),
        first_byte=_timeout(stream.first_byte, stream.reasons.first_byte),
        idle=_timeout(stream.idle, stream.reasons.idle),
        stream_total=_timeout(stream.total, stream.reasons.total),
    )


def _timeout(seconds: float, reason: str) -> Timeout:
    return Timeout(round(seconds, _DIGITS), reason)


def _request_timeouts(model: Model, inputs: StatusInputs, *, streaming: bool) -> Deadlines:
    settings = inputs.settings
    deadlines = deadlines_for(
        settings.timeouts,
        rule_for(model.name, settings.models),
        parameters=model.parameters,
        size_bytes=model.size_bytes,
        streaming=streaming,
        extended=deadlines_extended(
            settings.tunnel, None, heartbeat_schedule({}, None, settings.tunnel)
        ),
        measured=inputs.statistics.get(model.name),
    )
    loaded = model.name in inputs.residency.confirmed
    return deadlines.when_loaded() if loaded else deadlines


def _context(model: Model, inputs: StatusInputs) -> ContextStatus:
    windows = inputs.context_windows
    counts = _prompt_counts(model.name, inputs)
    window, max_window = windows.in_force(model), windows.maximum(model)
    longest_prompt = windows.longest_prompt(model)
    remedy = None
    if counts["last_too_long_at"] is not None:
        remedy = context_remedy(
            model.name, window=window, max_window=max_window, longest_prompt=longest_prompt
        )
    return ContextStatus(
        window=window,
        max_window=max_window,
        longest_prompt=longest_prompt,
        remedy=remedy,
        **counts,
    )


def _prompt_counts(name: str, inputs: StatusInputs) -> dict[str, Any]:
    totals = inputs.recent["models"].get(name, {})
    return {
        "prompts_truncated": totals.get("prompts_truncated", 0),
        "prompts_rejected": totals.get("prompts_rejected", 0),
        "last_too_long_at": totals.get("too_long_at"),
    }


def _key(key: Key, inputs: StatusInputs) -> KeyStatus:
    return KeyStatus(
        name=key.name,
        state=key.state(inputs.now).value,
        scopes=[scope.value for scope in Scope if scope in key.scopes],
        expires_at=None if key.expires is None else rfc3339(key.expires),
        totals=_totals(inputs.recent["keys"].get(key.name, {})),
    )


def _failed(fields: Mapping[str, Any]) -> FailedRequest:
    meaning, remedy = explain_outcome(fields["outcome"])
    return msgspec.convert({**fields, "meaning": meaning, "remedy": remedy}, FailedRequest)
