"""What one run has shown, from the two counts at its end: the callers' and the GPU's."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bench.goodput.engramia import Call, Journal, Refusal
from bench.goodput.world import TOKENS, Model, Spec

LATE: Final = 1.0
"""Seconds after which a rejection is late, in addition to what the machine itself was late by."""


COUNTED: Final = (
    "tokens_delivered",
    "tokens_abandoned",
    "generating_seconds",
    "loading_seconds",
    "loads",
)
"""The GPU's counters that are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PerModel:
    """Logical calls to one model. ``open`` ones had neither an answer nor failed at the end."""

    name: str
    calls: int
    completed: int
    failed: int
    open: int

    @property
    def rate(self) -> float:
        """The share of its calls that was answered while the caller was there."""
        return self.completed / self.calls if self.calls else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """How often, how often late, and how many seconds after the request."""

    count: int
    late: int
    median: float
    worst: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Shares are of the GPU's time, seconds simulated ones.

    ``useful`` went into answers that reached a caller, ``loading`` into models, ``wasted`` into
    responses that reached no client. ``goodput`` is the share of all tokens computed that reached a
    caller. ``median`` and ``worst`` are from the first request of a logical call to its answer.
    ``refusals`` are the requests that ended with an error status or a cut, by their code.
    """

    spec: Spec
    useful: float
    loading: float
    wasted: float
    goodput: float
    wasted_tokens: int
    per_second: float
    models: tuple[PerModel, ...]
    median: float
    worst: float
    refusals: dict[str, Refused]
    requests: int
    unreachable: int
    loads: int
    lag: float
    """The 99th percentile of how late the callers' loop was: what the machine adds to a time."""
    worst_lag: float

    @property
    def idle(self) -> float:
        return max(0.0, 1 - self.useful - self.loading - self.wasted)

    @property
    def refused(self) -> int:
        return sum(one.count for one in self.refusals.values())

    @property
    def late(self) -> float:
        """The part of the rejected requests that was rejected late."""
        return sum(one.late for one in self.refusals.values()) / max(1, self.refused)

    @property
    def failed(self) -> int:
        return sum(one.failed for one in self.models)

    @property
    def open(self) -> int:
        return sum(one.open for one in self.models)


def result(
    spec: Spec, journal: Journal, gpu: Mapping[str, Any], *, seconds: float, lags: list[float]
) -> Result:
    """Bring both counts together; the run took ``seconds`` of simulated time."""
    completed = [call for call in journal.calls if call.tokens]
    waits = [call.ended_at - call.began_at for call in completed if call.ended_at is not None]
    delivered = sum(call.tokens for call in completed)
    lag = sorted(lags)[int(len(lags) * 0.99)] if lags else 0.0
    # A response under way at the end is in neither count.
    computed = gpu["tokens_delivered"] + gpu["tokens_abandoned"]
    useful = sum(call.model.answer_seconds * call.tokens / TOKENS for call in completed)
    return Result(
        spec=spec,
        useful=useful / seconds,
        loading=gpu["loading_seconds"] / seconds,
        wasted=max(0.0, gpu["generating_seconds"] - useful) / seconds,
        goodput=delivered / computed if computed else 0.0,
        wasted_tokens=computed - delivered,
        per_second=len(completed) / seconds,
        models=tuple(_per_model(model, journal.calls) for model in spec.models),
        median=statistics.median(waits) if waits else 0.0,
        worst=max(waits, default=0.0),
        refusals=_by_code(journal.refusals, late=LATE + lag),
        requests=journal.requests,
        unreachable=journal.unreachable,
        loads=gpu["loads"],
        lag=lag,
        worst_lag=max(lags, default=0.0),
    )


def _by_code(refusals: Iterable[Refusal], *, late: float) -> dict[str, Refused]:
    after: dict[str, list[float]] = {}
    for refusal in refusals:
        after.setdefault(refusal.code, []).append(refusal.after)
    return {
        code: Refused(
            count=len(times),
            late=sum(time > late for time in times),
            median=statistics.median(times),
            worst=max(times),
        )
        for code, times in sorted(after.items())
    }


def _per_model(model: Model, calls: Iterable[Call]) -> PerModel:
    own = [call for call in calls if call.model == model]
    return PerModel(
        name=model.name,
        calls=len(own),
        completed=sum(call.tokens > 0 for call in own),
        failed=sum(call.ended_at is not None and not call.tokens for call in own),
        open=sum(call.ended_at is None for call in own),
    )
