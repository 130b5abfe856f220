"""What happened lately and altogether, for the status page."""

import time
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from gateway.errors import ContextLengthExceeded
from gateway.telemetry.labels import Names
from gateway.telemetry.record import OK, FinishedRequest
from gateway.telemetry.redaction import harmless

KEPT: Final = 50
"""Requests that are remembered; and as many that failed, which requests that went well must not
push out."""

MAX_NAMES: Final = 200
"""Keys, and models, of which totals are kept."""

NONE: Final = "none"
"""Totals of requests without a valid key, or without a model, stand under this."""


class _Totals:
    """Sums over the requests of one key or model.

    ``prompts_cut`` by Ollama to fit a context, ``prompts_refused`` because they do not; and when
    either was last.
    """

    __slots__ = (
        "failed",
        "prompts_cut",
        "prompts_refused",
        "requests",
        "tokens_in",
        "tokens_out",
        "too_long_at",
    )

    def __init__(self) -> None:
        self.requests = self.failed = self.tokens_in = self.tokens_out = 0
        self.prompts_cut = self.prompts_refused = 0
        self.too_long_at: str | None = None

    def add(self, facts: FinishedRequest, ended_at: float) -> None:
        self.requests += 1
        self.failed += facts.outcome != OK
        self.tokens_in += facts.tokens_in or 0
        self.tokens_out += facts.tokens_out or 0
        refused = facts.outcome == ContextLengthExceeded.code
        self.prompts_refused += refused
        self.prompts_cut += bool(facts.prompt_truncated) and not refused
        if refused or facts.prompt_truncated:
            self.too_long_at = _iso(ended_at)

    def snapshot(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "failed": self.failed,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "prompts_cut": self.prompts_cut,
            "prompts_refused": self.prompts_refused,
            "too_long_at": self.too_long_at,
        }


class Recent:
    """The sink that remembers: the last requests, the last failures, and totals since the start."""

    __slots__ = ("_failures", "_keys", "_last", "_models", "_names", "_outcomes", "_wall_clock")

    def __init__(self, *, kept: int = KEPT, wall_clock: Callable[[], float] = time.time) -> None:
        """``wall_clock`` gives seconds since the epoch: a reader wants to know when."""
        self._wall_clock = wall_clock
        # All mutable state, each with its bound.
        self._last: deque[tuple[float, FinishedRequest]] = deque(maxlen=kept)
        self._failures: deque[tuple[float, FinishedRequest]] = deque(maxlen=kept)
        self._outcomes: Counter[str] = Counter()
        self._keys: dict[str, _Totals] = {}
        self._models: dict[str, _Totals] = {}
        self._names = {
            "key": Names(MAX_NAMES),
            "model": Names(MAX_NAMES),
            "outcome": Names(MAX_NAMES),
        }

    def observe(self, facts: FinishedRequest) -> None:
        now = self._wall_clock()
        entry = (now, facts)
        self._last.append(entry)
        if facts.outcome != OK:
            self._failures.append(entry)
        self._outcomes[self._names["outcome"].admit(facts.outcome)] += 1
        self._total(self._keys, "key", facts.key).add(facts, now)
        self._total(self._models, "model", facts.model).add(facts, now)

    def _total(self, totals: dict[str, _Totals], kind: str, name: str | None) -> _Totals:
        shown = NONE if name is None else self._names[kind].admit(name)
        total = totals.get(shown)
        if total is None:
            total = totals[shown] = _Totals()
        return total

    def snapshot(self) -> dict[str, Any]:
        """For JSON: ``requests`` (how many), ``outcomes``, ``keys``, ``models``, ``last`` and
        ``failures``.

        The last two hold the newest first, each with the fields of the log line and ``ended_at``
        (RFC 3339, UTC).
        """
        return {
            "requests": self._outcomes.total(),
            "outcomes": dict(self._outcomes.most_common()),
            "keys": {name: total.snapshot() for name, total in self._keys.items()},
            "models": {name: total.snapshot() for name, total in self._models.items()},
            "last": [_shown(*entry) for entry in reversed(self._last)],
            "failures": [_shown(*entry) for entry in reversed(self._failures)],
        }

    def __repr__(self) -> str:
        return f"<Recent {self._outcomes.total()} requests, {len(self._failures)} failures kept>"


def _iso(moment: float) -> str:
    """RFC 3339 in UTC."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")


def _shown(ended_at: float, facts: FinishedRequest) -> dict[str, Any]:
    fields = facts.present().items()
    return {"ended_at": _iso(ended_at)} | {
        name: harmless(value) if isinstance(value, str) else value for name, value in fields
    }
