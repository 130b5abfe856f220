"""What Ollama says is loaded: reading ``/api/ps``, and asking for it gently."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, Never

from gateway.errors import GatewayError
from gateway.models.list_cache import JUST_NOW
from gateway.models.listing import decoded_object, named_entries
from gateway.models.residency import ResidencyTracker

BUSY_EVERY: Final = 5.0
IDLE_EVERY: Final = 60.0
"""Seconds between two looks, while calls are active or wait, and while none are."""

AFTER_A_LOAD: Final = 1.0
"""Seconds from the end of a call that may have loaded its model to a look at what went for it."""

_TICK: Final = 0.5
_NOBODY_WAITS_SO_LONG: Final = timedelta(days=3650)
_LONGEST_TIME: Final = 64


def parse_ps(body: bytes, now_utc: datetime) -> Mapping[str, float | None]:
    """The loaded models, each with the seconds until Ollama unloads it.

    Infinity is a model that stays (``keep_alive: -1``, which Ollama writes as a date 292 years
    away); None one whose time is not told or is nonsense (the year 1 is Go's zero time). Seconds
    are negative for a model that is being unloaded. ``now_utc`` is aware, by the clock of Ollama's
    machine.

    Raises ``UpstreamProtocolError`` where ``body`` is not Ollama's.
    """
    entries = named_entries(decoded_object(body, "/api/ps"), "/api/ps")
    return {name: _seconds_left(entry.get("expires_at"), now_utc) for name, entry in entries}


def _seconds_left(text: object, now_utc: datetime) -> float | None:
    if not isinstance(text, str) or len(text) > _LONGEST_TIME:
        return None
    try:
        # RFC 3339 with any offset; digits beyond microseconds are cut off.
        expires = datetime.fromisoformat(text)
    except ValueError:
        return None
    if expires.tzinfo is None or expires.year <= 1:
        return None
    left = expires - now_utc
    return math.inf if left > _NOBODY_WAITS_SO_LONG else left.total_seconds()


class PsWatch:
    """Keeps ``residents`` in step with Ollama for as long as ``run`` runs.

    ``ask`` gives a body of ``/api/ps`` that is at most ``oldest`` seconds old; ``busy`` tells
    whether calls are active or wait, and ``looked`` is told of each answer. ``now`` is the clock of
    ``residents``, ``now_utc`` the day's.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[bytes]],
        residency_tracker: ResidencyTracker,
        *,
        busy: Callable[[], bool],
        looked: Callable[[], None] = lambda: None,
        now: Callable[[], float],
        now_utc: Callable[[], datetime] = lambda: datetime.now(UTC),
        oldest: float = JUST_NOW,
    ) -> None:
        self._ask = ask
        self._residents = residency_tracker
        self._busy = busy
        self._looked = looked
        self._now = now
        self._now_utc = now_utc
        self._oldest = oldest
        # All mutable state: when Ollama was last asked, with or without success.
        self._asked_at = -math.inf

    def __repr__(self) -> str:
        return f"<PsWatch {'busy' if self._busy() else 'idle'}, {self._residents!r}>"

    async def run(self) -> Never:
        """Look whenever it is due; a failure is no news."""
        while True:
            if self.due():
                await self._look()
            await asyncio.sleep(_TICK)

    def due(self) -> bool:
        """Whether it is time to ask; what a call left in doubt is a reason once."""
        now = self._now()
        if now - self._asked_at >= (BUSY_EVERY if self._busy() else IDLE_EVERY):
            return True
        doubtful = self._residents.doubtful_since
        return doubtful is not None and self._asked_at < doubtful + AFTER_A_LOAD <= now

    async def _look(self) -> None:
        asked_at = self._asked_at = self._now()
        try:
            loaded = parse_ps(await self._ask(), self._now_utc())
        except GatewayError:
            return
        self._residents.seen(loaded, asked_at - self._oldest)
        self._looked()
