"""What is in Ollama's memory, as far as its own words and our calls tell.

Rules:

* A model with a lease is loaded, or is being loaded.
* A model that is called while others are idle drives out as many as it must, the one used longest
  ago first, unless they are known to fit beside it. That is belief; what Ollama lists corrects it.
* Ollama's word holds for the moment it was asked. What happened since, we know better.
* Ollama unloads a model at the time that it announces, or five minutes after its last use.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.models.coresidency import CoResidency

UNUSED_FOR: Final = 300.0
"""Seconds. Ollama's default for ``OLLAMA_KEEP_ALIVE``."""

MOST_LISTED: Final = 64
"""Models that an answer of ``/api/ps`` is believed to name; Ollama loads a handful."""

WELL_BEFORE: Final = 10.0
"""Seconds. A model that was to stay so much longer and is gone was driven out."""


@dataclass(frozen=True, slots=True)
class ResidencyView:
    """What is believed at one moment.

    ``resident`` are the models that are loaded or being loaded; ``proven`` those of them that have
    answered, or that Ollama listed, since anything drove them out as far as is known: a call to
    one of these waits for no load. ``together`` are sets that were in memory at the same time,
    ``max_loaded`` how many the owner says fit; None where only ``together`` tells.
    """

    resident: frozenset[str] = frozenset()
    proven: frozenset[str] = frozenset()
    together: frozenset[frozenset[str]] = frozenset()
    max_loaded: int | None = None


@dataclass(slots=True)
class _Held:
    """One model in memory. ``listed_at`` and ``until`` are what Ollama last said of it."""

    used_at: float
    leases: int = 0
    proven: bool = False
    listed_at: float = -math.inf
    until: float | None = None

    def expires_at(self) -> float:
        if self.leases:
            return math.inf
        unused = self.used_at + UNUSED_FOR
        if self.until is None:
            return unused
        return max(self.until, unused) if self.used_at > self.listed_at else self.until


class ResidencyTracker:
    """Keeps track; all of it synchronous. ``now`` is a monotonic clock, all times are its seconds.

    ``max_loaded`` is how many models the owner says fit at once; None leaves it to experience.
    """

    def __init__(self, *, max_loaded: int | None, now: Callable[[], float]) -> None:
        self._max_loaded = max_loaded
        self._now = now
        # All mutable state. ``_gone``: when we believed a model driven out, until Ollama was asked
        # later than that. ``_listed``: its last answer, as times of expiry. ``_doubts``: the first
        # and the last moment since then after which only Ollama can tell what stayed.
        self._held: dict[str, _Held] = {}
        self._gone: dict[str, float] = {}
        self._listed: dict[str, float | None] = {}
        self._listed_at = -math.inf
        self._together = CoResidency()
        self._doubts: tuple[float, float] | None = None
        self._view: ResidencyView | None = None
        self._view_until = -math.inf

    def __repr__(self) -> str:
        names = ", ".join(
            f"{name}{f' ({held.leases} at work)' if held.leases else ''}"
            f"{'' if held.proven else '?'}"
            for name, held in sorted(self._held.items())
        )
        return f"<Residents {names or 'nothing'}, {len(self._together.sets)} sets together>"

    @property
    def doubtful_since(self) -> float | None:
        """Since when a look at Ollama would tell what a load has driven out, None if none would."""
        return None if self._doubts is None else self._doubts[0]

    def view(self) -> ResidencyView:
        """What is believed now; the same object for as long as it says the same."""
        now = self._now()
        if self._view is None or now >= self._view_until:
            self._view = self._renewed(now)
        return self._view

    def began(self, model: str) -> bool:
        """A lease on ``model`` was granted. Returns whether it is proven to be loaded already."""
        now = self._now()
        self._expire(now)
        held = self._held.get(model)
        if held is None:
            self._make_room(model, now)
            held = self._held[model] = _Held(used_at=now)
            self._changed()
        held.leases += 1
        held.used_at = now
        return held.proven

    def ended(self, model: str, *, answered: bool) -> None:
        """A lease has ended. ``answered``: the model has sent something, so it surely is loaded.

        One that did not answer may be loading for nobody: a load that has begun goes on.
        """
        held = self._held.get(model)
        if held is None:
            return
        now = self._now()
        if not held.proven:
            self._doubts = (now if self._doubts is None else self._doubts[0], now)
            held.proven = answered
            self._changed()
        held.leases = max(0, held.leases - 1)
        held.used_at = now
        self._view_until = min(self._view_until, held.expires_at())

    def seen(self, loaded: Mapping[str, float | None], at: float) -> None:
        """What Ollama listed when it was asked at ``at``: names, with the seconds that each stays.

        Infinity is for ever, None is unknown. An answer older than the last one is ignored.
        """
        if at < self._listed_at:
            return
        names = frozenset(list(loaded)[:MOST_LISTED])
        self._learn_from_absence(names, at)
        self._together.saw(names)
        for name in [name for name in self._held if name not in names]:
            self._missed(name, at)
        for name in names:
            if self._gone.get(name, -math.inf) <= at:
                self._found(name, loaded[name], at)
        self._gone = {name: when for name, when in self._gone.items() if when > at}
        self._listed = {name: _later(at, loaded[name]) for name in names}
        self._listed_at = at
        if self._doubts is not None:
            self._doubts = None if self._doubts[1] <= at else (self._doubts[1], self._doubts[1])
        self._changed()

    def forget(self) -> None:
        """Ollama was out of reach and may have been started anew: only leases are believed."""
        self._held = {name: held for name, held in self._held.items() if held.leases}
        for held in self._held.values():
            held.proven = False
        self._listed = {}
        self._changed()

    # Inside.

    def _changed(self) -> None:
        self._view_until = -math.inf

    def _renewed(self, now: float) -> ResidencyView:
        self._expire(now)
        ends = (held.expires_at() for held in self._held.values())
        self._view_until = min(ends, default=math.inf)
        view = ResidencyView(
            resident=frozenset(self._held),
            proven=frozenset(name for name, held in self._held.items() if held.proven),
            together=self._together.sets,
            max_loaded=self._max_loaded,
        )
        return self._view if self._view is not None and view == self._view else view

    def _expire(self, now: float) -> None:
        for name in [name for name, held in self._held.items() if held.expires_at() <= now]:
            del self._held[name]

    def _make_room(self, model: str, now: float) -> None:
        staying = {*self._held, model}
        for name in self._idle_first():
            if self._fit(frozenset(staying)):
                return
            staying.discard(name)
            del self._held[name]
            self._gone[name] = now

    def _idle_first(self) -> Iterable[str]:
        idle = [name for name, held in self._held.items() if not held.leases]
        return sorted(idle, key=lambda name: self._held[name].used_at)

    def _fit(self, models: frozenset[str]) -> bool:
        if self._max_loaded is not None:
            return len(models) <= self._max_loaded
        return self._together.fit(models)

    def _missed(self, name: str, at: float) -> None:
        """Ollama did not list it: it is gone, or is still being loaded for a lease of ours."""
        held = self._held[name]
        if held.used_at > at:
            return
        if held.leases:
            held.proven = False
        else:
            del self._held[name]

    def _found(self, name: str, seconds: float | None, at: float) -> None:
        held = self._held.setdefault(name, _Held(used_at=at))
        # Ollama lists a model while it is still loading. What loads for us has not answered yet;
        # what loads for somebody else is not worth the doubt.
        held.proven = held.proven or not held.leases
        held.listed_at = at
        held.until = _later(at, seconds)

    def _learn_from_absence(self, names: frozenset[str], at: float) -> None:
        """What was listed before, was to stay and is gone had to go for what came since."""
        before = self._listed.keys()
        loading = {name for name, held in self._held.items() if held.leases and not held.proven}
        came = (names | loading) - before
        if not came:
            return
        for name, until in self._listed.items():
            if name not in names and until is not None and until - at > WELL_BEFORE:
                self._together.refuted(names | came | {name})


def _later(at: float, seconds: float | None) -> float | None:
    return None if seconds is None else at + seconds
