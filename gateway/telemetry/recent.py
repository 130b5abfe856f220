"""The last requests, the last failures, and totals since the start, for the status page."""

import time
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import asdict

from gateway.errors import ContextLengthExceeded
from gateway.telemetry.metrics import BoundedLabels
from gateway.telemetry.record import OK, FinishedRequest
from gateway.telemetry.redaction import sanitize

KEPT: Final = 50
"""Requests that are kept; and as many failures, which successful requests must not push out."""

MAX_NAMES: Final = 200
"""Keys, models and outcomes of which totals are kept."""

NONE: Final = "none"
"""The name for totals of requests without a valid key, or without a model."""


class _Totals(Struct):
    """Sums over the requests of one key or model.

    ``prompts_truncated``: prompts that Ollama truncated to fit a context;
    ``prompts_rejected``: requests rejected because the prompt does not fit;
    ``too_long_at``: when either was last.
    """

    requests: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    prompts_truncated: int = 0
    prompts_rejected: int = 0
    too_long_at: str | None = None

    def add(self, finished: FinishedRequest, ended_at: float) -> None:
        self.requests += 1
        self.failed += finished.outcome != OK
        self.tokens_in += finished.tokens_in or 0
        self.tokens_out += finished.tokens_out or 0
        refused = finished.outcome == ContextLengthExceeded.code
        if refused or finished.prompt_truncated:
            self.prompts_rejected += refused
            self.prompts_truncated += not refused
            self.too_long_at = _iso(ended_at)


class Recent:
    """The sink that remembers the last requests.

    Args:
        kept: how many requests, and how many failures.
        wall_clock: returns seconds since the epoch: readers compare with their own clock.
    """

    __slots__ = ("_failures", "_keys", "_last", "_models", "_names", "_outcomes", "_wall_clock")

    def __init__(self, *, kept: int = KEPT, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        # All mutable state, each with its bound.
        self._last: deque[tuple[float, FinishedRequest]] = deque(maxlen=kept)
        self._failures: deque[tuple[float, FinishedRequest]] = deque(maxlen=kept)
        self._outcomes: Counter[str] = Counter()
        self._keys: dict[str, _Totals] = {}
        self._models: dict[str, _Totals] = {}
        self._names = {
            "key": BoundedLabels(MAX_NAMES),
            "model": BoundedLabels(MAX_NAMES),
            "outcome": BoundedLabels(MAX_NAMES),
        }

    def __repr__(self) -> str:
        return f"<Recent {self._outcomes.total()} requests, {len(self._failures)} failures kept>"

    def observe(self, finished: FinishedRequest) -> None:
        now = self._wall_clock()
        entry = (now, finished)
        self._last.append(entry)
        if finished.outcome != OK:
            self._failures.append(entry)
        self._outcomes[self._names["outcome"].label(finished.outcome)] += 1
        self._total(self._keys, "key", finished.key).add(finished, now)
        self._total(self._models, "model", finished.model).add(finished, now)

    def prompt_truncated(self, model: str, key: str) -> None:
        """Count a truncated prompt that was found after its request had been observed."""
        now = _iso(self._wall_clock())
        by_key = self._total(self._keys, "key", key)
        by_model = self._total(self._models, "model", model)
        for total in (by_key, by_model):
            total.prompts_truncated += 1
            total.too_long_at = now

    def _total(self, totals: dict[str, _Totals], kind: str, name: str | None) -> _Totals:
        shown = NONE if name is None else self._names[kind].label(name)
        total = totals.get(shown)
        if total is None:
            total = totals[shown] = _Totals()
        return total

    def snapshot(self) -> dict[str, Any]:
        """Return values for JSON.

        ``requests`` (how many), ``outcomes``, ``keys`` and ``models`` (totals by name), ``last``
        and ``failures``: newest first, with the fields of the log line and ``ended_at`` (RFC 3339,
        UTC).
        """
        return {
            "requests": self._outcomes.total(),
            "outcomes": dict(self._outcomes.most_common()),
            "keys": {name: asdict(total) for name, total in self._keys.items()},
            "models": {name: asdict(total) for name, total in self._models.items()},
            "last": [_shown(*entry) for entry in reversed(self._last)],
            "failures": [_shown(*entry) for entry in reversed(self._failures)],
        }


def _iso(moment: float) -> str:
    """Format seconds since the epoch as RFC 3339 in UTC."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")


def _shown(ended_at: float, finished: FinishedRequest) -> dict[str, Any]:
    fields = finished.present().items()
    # Sanitized a second time: a page shows these, and here it costs nothing.
    return {"ended_at": _iso(ended_at)} | {
        name: sanitize(value) if isinstance(value, str) else value for name, value in fields
    }
