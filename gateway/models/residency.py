"""Which models are in the memory of one Ollama: the view, the tracker, and the watcher of /api/ps.

Rules:

1. A model that a request is using is resident: it is loaded or being loaded.
2. When a model must be loaded, Ollama evicts idle models, the one unused for longest first, until
   the rest is known to fit. The tracker assumes so at once; the next ``/api/ps`` corrects it.
3. What ``/api/ps`` says holds for the moment when Ollama was asked. Later events count more.
4. Ollama unloads a model at the time it announces, or five minutes after its last use.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Never

from gateway.errors import GatewayError
from gateway.models.listing import decoded_object, named_entries

KEEP_ALIVE: Final = 300.0
"""Seconds. Ollama's default for ``OLLAMA_KEEP_ALIVE``."""

MAX_LISTED: Final = 64
"""Models that one ``/api/ps`` response is taken to name; Ollama loads a handful."""

MAX_SETS: Final = 64
"""Sets of models kept as evidence; enough for every pair of eleven models."""

EARLY: Final = 10.0
"""Seconds. A model gone so much earlier than announced was evicted, it did not expire."""

BUSY_INTERVAL: Final = 5.0
"""Seconds between two requests for ``/api/ps`` while requests are active or queued."""

IDLE_INTERVAL: Final = 60.0
"""Seconds between two requests for ``/api/ps`` while there are no requests."""

DELAY_AFTER_LOAD: Final = 1.0
"""Seconds between the end of a request that may have loaded its model and a look at ``/api/ps``."""

_TICK: Final = 0.5
_FOREVER: Final = timedelta(days=3650)
_MAX_TIME_LENGTH: Final = 64


@dataclass(frozen=True, slots=True)
class Residency:
    """What is in memory at one moment, as far as is known.

    Args:
        resident: models that are loaded or being loaded.
        coresident: sets of models that were in memory at the same time.
        max_loaded: how many models fit at once by the settings, None to go by ``coresident``.
        confirmed: resident models that have responded, or that Ollama listed, and were not evicted
            since as far as is known. A request for one of these waits for no load.
    """

    resident: frozenset[str] = frozenset()
    coresident: frozenset[frozenset[str]] = frozenset()
    max_loaded: int | None = None
    confirmed: frozenset[str] = frozenset()

    def can_coexist(self, models: frozenset[str]) -> bool:
        """Return True if all these models are known to fit in memory at the same time."""
        if len(models) <= 1:  # Ollama loads any one model, into slower memory if it must.
            return True
        if self.max_loaded is not None:
            return len(models) <= self.max_loaded
        return any(models <= seen for seen in self.coresident)

    def fits_without_eviction(self, model: str) -> bool:
        """Return True if a request for ``model`` leaves all resident models in memory."""
        if model in self.resident:
            return True
        if self.max_loaded is not None:
            return len(self.resident) < self.max_loaded or not self.resident
        return self.can_coexist(self.resident | {model})

    def can_load_now(self, model: str, active: AbstractSet[str] | Mapping[str, int]) -> bool:
        """Return True if ``model`` can run now without evicting one of ``active``.

        Sent earlier, its request would occupy a slot while it waits inside Ollama, and the evicted
        model would have to be loaded again for its next request.
        """
        if not active or model in active:
            return True
        in_use = frozenset(active)
        # Resident is not enough: a model in use that has not responded yet may be loading, and
        # evict ``model`` although the last /api/ps still listed it.
        if in_use | {model} <= self.confirmed:
            return True
        return self.can_coexist(in_use | {model})

    def can_coexist_with(
        self, model: str, active: AbstractSet[str] | Mapping[str, int]
    ) -> frozenset[str]:
        """Return as many of the ``active`` models as can stay in memory when ``model`` is loaded.

        The choice depends only on the set: a choice that changed while the others finish would
        never let ``model`` load.
        """
        stay = frozenset[str]()
        for other in sorted(active):
            if self.can_coexist(stay | {other, model}):
                stay |= {other}
        return stay

    def after_load(self, model: str, active: AbstractSet[str] | Mapping[str, int]) -> "Residency":
        """Return the view after ``model`` was loaded, without the idle models that do not fit."""
        stay = frozenset({model, *active})
        for other in sorted(self.resident - stay):
            if self.can_coexist(stay | {other}):
                stay |= {other}
        return Residency(stay, self.coresident, self.max_loaded)


class CoResidency:
    """Sets of models that were in memory at the same time; the newest evidence counts.

    Every subset of such a set was in memory at the same time as well.
    """

    def __init__(self, *, max_sets: int = MAX_SETS) -> None:
        self._max_sets = max_sets
        # All mutable state: the maximal sets; the one seen last comes last.
        self._sets: dict[frozenset[str], None] = {}

    def __repr__(self) -> str:
        return f"<CoResidency {len(self._sets)}/{self._max_sets} sets>"

    @property
    def sets(self) -> frozenset[frozenset[str]]:
        return frozenset(self._sets)

    def confirm(self, models: frozenset[str]) -> None:
        """Note that all these are in memory now."""
        if len(models) <= 1:
            return
        larger = next((seen for seen in self._sets if models <= seen), models)
        for smaller in [seen for seen in self._sets if seen <= larger]:
            del self._sets[smaller]
        self._sets[larger] = None
        while len(self._sets) > self._max_sets:
            del self._sets[next(iter(self._sets))]

    def refute(self, models: frozenset[str]) -> None:
        """Note that one of these was evicted for the others, so they do not fit together."""
        for seen in [seen for seen in self._sets if models <= seen]:
            del self._sets[seen]
            for model in sorted(models):
                self.confirm(seen - {model})


@dataclass(slots=True)
class _Resident:
    """One model in memory. ``listed_at`` and ``until`` are from the last ``/api/ps`` with it."""

    used_at: float
    requests: int = 0
    confirmed: bool = False
    listed_at: float = -math.inf
    until: float | None = None

    def expires_at(self) -> float:
        if self.requests:
            return math.inf
        unused = self.used_at + KEEP_ALIVE
        if self.until is None:
            return unused
        return max(self.until, unused) if self.used_at > self.listed_at else self.until


class ResidencyTracker:
    """Tracks the residency of one Ollama from the gateway's requests and ``/api/ps``.

    All methods are synchronous.

    Args:
        max_loaded: how many models fit at once by the settings, None to learn it.
        now: monotonic clock in seconds; all times are of this clock.
    """

    def __init__(self, *, max_loaded: int | None, now: Callable[[], float]) -> None:
        self._max_loaded = max_loaded
        self._now = now
        # All mutable state.
        self._residents: dict[str, _Resident] = {}
        # When each model was assumed to be evicted, until an /api/ps from after that.
        self._evicted_at: dict[str, float] = {}
        # The last /api/ps: when each model expires.
        self._listed: dict[str, float | None] = {}
        self._listed_at = -math.inf
        self._coresidency = CoResidency()
        # The first and the last moment since then at which a load ended: only /api/ps can tell
        # what was evicted for it.
        self._loads: tuple[float, float] | None = None
        self._view: Residency | None = None
        self._view_until = -math.inf

    def __repr__(self) -> str:
        names = ", ".join(
            f"{name}{f' ({resident.requests} active)' if resident.requests else ''}"
            f"{'' if resident.confirmed else '?'}"
            for name, resident in sorted(self._residents.items())
        )
        sets = len(self._coresidency.sets)
        return f"<ResidencyTracker {names or 'nothing'}, {sets} sets coresident>"

    @property
    def unverified_load_at(self) -> float | None:
        """When the first load ended of which ``/api/ps`` has not yet shown the outcome."""
        return None if self._loads is None else self._loads[0]

    def view(self) -> Residency:
        """Return the current view; the same object for as long as nothing changes."""
        now = self._now()
        if self._view is None or now >= self._view_until:
            self._view = self._renewed(now)
        return self._view

    def acquire(self, model: str) -> bool:
        """Note that a request for ``model`` got its slot.

        Returns:
            True if the model is confirmed to be loaded, so that the request waits for no load.
        """
        now = self._now()
        self._expire(now)
        resident = self._residents.get(model)
        if resident is None:
            self._evict_for(model, now)
            resident = self._residents[model] = _Resident(used_at=now)
            self._changed()
        resident.requests += 1
        resident.used_at = now
        return resident.confirmed

    def release(self, model: str, *, completed: bool) -> None:
        """Note that a request for ``model`` has ended.

        Args:
            model: its name as Ollama lists it.
            completed: the model produced a response, so it is loaded. Without one it may still be
                loading: Ollama finishes a load that has begun.
        """
        resident = self._residents.get(model)
        if resident is None:
            return
        now = self._now()
        if not resident.confirmed:
            self._loads = (now if self._loads is None else self._loads[0], now)
            resident.confirmed = completed
            self._changed()
        resident.requests = max(0, resident.requests - 1)
        resident.used_at = now
        self._view_until = min(self._view_until, resident.expires_at())

    def update(self, loaded: Mapping[str, float | None], at: float) -> None:
        """Take over an ``/api/ps`` response.

        Args:
            loaded: seconds until each model is unloaded; infinity is never, None is unknown.
            at: when Ollama was asked. A response older than the last one is ignored.
        """
        if at < self._listed_at:
            return
        names = frozenset(list(loaded)[:MAX_LISTED])
        self._learn_from_absence(names, at)
        self._coresidency.confirm(names)
        for name in [name for name in self._residents if name not in names]:
            self._apply_unlisted(name, at)
        for name in names:
            if self._evicted_at.get(name, -math.inf) <= at:
                self._apply_listed(name, loaded[name], at)
        self._evicted_at = {name: when for name, when in self._evicted_at.items() if when > at}
        self._listed = {name: _later(at, loaded[name]) for name in names}
        self._listed_at = at
        if self._loads is not None:
            self._loads = None if self._loads[1] <= at else (self._loads[1], self._loads[1])
        self._changed()

    def forget(self) -> None:
        """Forget all models but those in use: Ollama was unreachable and may have restarted."""
        self._residents = {
            name: resident for name, resident in self._residents.items() if resident.requests
        }
        for resident in self._residents.values():
            resident.confirmed = False
        # An empty memory after a restart is no evidence of what fits together.
        self._listed = {}
        self._changed()

    # Inside.

    def _changed(self) -> None:
        self._view_until = -math.inf

    def _renewed(self, now: float) -> Residency:
        self._expire(now)
        ends = (resident.expires_at() for resident in self._residents.values())
        self._view_until = min(ends, default=math.inf)
        view = Residency(
            resident=frozenset(self._residents),
            coresident=self._coresidency.sets,
            max_loaded=self._max_loaded,
            confirmed=frozenset(
                name for name, resident in self._residents.items() if resident.confirmed
            ),
        )
        return self._view if self._view is not None and view == self._view else view

    def _expire(self, now: float) -> None:
        residents = self._residents
        for name in [name for name in residents if residents[name].expires_at() <= now]:
            del residents[name]

    def _evict_for(self, model: str, now: float) -> None:
        limits = Residency(coresident=self._coresidency.sets, max_loaded=self._max_loaded)
        staying = {*self._residents, model}
        for name in self._idle_longest_first():
            if limits.can_coexist(frozenset(staying)):
                return
            staying.discard(name)
            del self._residents[name]
            self._evicted_at[name] = now

    def _idle_longest_first(self) -> Iterable[str]:
        idle = [name for name, resident in self._residents.items() if not resident.requests]
        return sorted(idle, key=lambda name: self._residents[name].used_at)

    def _apply_unlisted(self, name: str, at: float) -> None:
        """Handle a resident model that Ollama did not list: it is gone or is being loaded."""
        resident = self._residents[name]
        if resident.used_at > at:
            return
        if resident.requests:
            resident.confirmed = False
        else:
            del self._residents[name]

    def _apply_listed(self, name: str, seconds: float | None, at: float) -> None:
        resident = self._residents.setdefault(name, _Resident(used_at=at))
        # Ollama lists a model while it is still loading. A model that loads for a request of ours
        # has not responded yet; that it loads for another client is too rare to matter.
        resident.confirmed = resident.confirmed or not resident.requests
        resident.listed_at = at
        resident.until = _later(at, seconds)

    def _learn_from_absence(self, names: frozenset[str], at: float) -> None:
        """A model that was to stay and is gone was evicted for what was loaded since."""
        before = self._listed.keys()
        loading = {
            name
            for name, resident in self._residents.items()
            if resident.requests and not resident.confirmed
        }
        loaded_since = (names | loading) - before
        if not loaded_since:
            return
        for name, until in self._listed.items():
            if name not in names and until is not None and until - at > EARLY:
                self._coresidency.refute(names | loaded_since | {name})


def _later(at: float, seconds: float | None) -> float | None:
    return None if seconds is None else at + seconds


class ResidencyWatcher:
    """Keeps a tracker up to date with ``/api/ps`` for as long as ``run`` runs.

    Args:
        fetch: returns a body of ``/api/ps`` that is at most ``max_age`` seconds old.
        busy: returns True while requests are active or queued.
        on_update: called after each successful response.
        now: the clock of the tracker; ``now_utc`` is the time of day, an aware datetime.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[bytes]],
        tracker: ResidencyTracker,
        *,
        busy: Callable[[], bool],
        on_update: Callable[[], None] = lambda: None,
        now: Callable[[], float],
        now_utc: Callable[[], datetime] = lambda: datetime.now(UTC),
        max_age: float = 1.0,
    ) -> None:
        self._fetch = fetch
        self._tracker = tracker
        self._busy = busy
        self._on_update = on_update
        self._now = now
        self._now_utc = now_utc
        self._max_age = max_age
        # All mutable state: when Ollama was last asked, with or without success.
        self._fetched_at = -math.inf

    def __repr__(self) -> str:
        return f"<ResidencyWatcher {'busy' if self._busy() else 'idle'}, {self._tracker!r}>"

    async def run(self) -> Never:
        """Ask Ollama whenever it is due; a failure changes nothing."""
        while True:
            if self._is_due():
                await self._update()
            await asyncio.sleep(_TICK)

    def _is_due(self) -> bool:
        now = self._now()
        if now - self._fetched_at >= (BUSY_INTERVAL if self._busy() else IDLE_INTERVAL):
            return True
        # After a load, ask once for what was evicted for it.
        load_at = self._tracker.unverified_load_at
        return load_at is not None and self._fetched_at < load_at + DELAY_AFTER_LOAD <= now

    async def _update(self) -> None:
        fetched_at = self._fetched_at = self._now()
        try:
            loaded = parse_ps(await self._fetch(), self._now_utc())
        except GatewayError:
            return
        self._tracker.update(loaded, fetched_at - self._max_age)
        self._on_update()


def parse_ps(body: bytes, now_utc: datetime) -> Mapping[str, float | None]:
    """Return the loaded models of an ``/api/ps`` body with the seconds until each is unloaded.

    Infinity is a model that stays (``keep_alive: -1``, which Ollama writes as a date 292 years
    away); None is a time that is missing or nonsense (the year 1 is Go's zero time). Seconds are
    negative for a model that is being unloaded.

    Args:
        body: Ollama's response.
        now_utc: an aware datetime, by the clock of Ollama's machine.

    Raises:
        UpstreamProtocolError: ``body`` is not Ollama's.
    """
    entries = named_entries(decoded_object(body, "/api/ps"), "/api/ps")
    return {name: _seconds_left(entry.get("expires_at"), now_utc) for name, entry in entries}


def _seconds_left(text: object, now_utc: datetime) -> float | None:
    if not isinstance(text, str) or len(text) > _MAX_TIME_LENGTH:
        return None
    try:
        # RFC 3339 with any offset; digits beyond microseconds are dropped.
        expires = datetime.fromisoformat(text)
    except ValueError:
        return None
    if expires.tzinfo is None or expires.year <= 1:
        return None
    left = expires - now_utc
    return math.inf if left > _FOREVER else left.total_seconds()
