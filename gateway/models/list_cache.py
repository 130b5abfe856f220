"""The cached list of models and what may be served of it when.

``fetched_at`` and ages count from when Ollama was asked, so a list is never called younger than
what it knows.
"""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from gateway.errors import GatewayError
from gateway.models.listing import Listing, parse_listing
from gateway.models.single_flight import Latest, UpstreamDown
from gateway.models.source import Source

JUST_NOW: Final = 1.0
"""Seconds within which an answer of Ollama's counts as of this moment."""

RETRY_EVERY: Final = 2.0
"""Seconds. While Ollama is away a call that has a list does not wait for it more often."""


class CachedList(Struct, frozen=True):
    """A list as it is served; ``age`` in seconds; ``stale``: Ollama did not answer for it."""

    listing: Listing
    age: float
    stale: bool


class Lists:
    """One cache of Ollama's list; every fetch, whoever asked for it, updates it.

    ``ttl``, ``stale_limit`` and ``fetch_timeout`` in seconds. ``on_change`` is told whenever
    Ollama's list can be had again or no more, with the reason.
    """

    def __init__(
        self,
        source: Source,
        *,
        ttl: float,
        stale_limit: float,
        now: Callable[[], float],
        fetch_timeout: float,
        on_change: Callable[[bool, str], None],
    ) -> None:
        self._source = source
        self._ttl = ttl
        self._stale_limit = stale_limit
        self._now = now
        self._on_change = on_change
        # All mutable state; ``_up`` is None before the first answer or failure.
        self._latest: Latest[Listing] = Latest(
            self._fetch, now=now, timeout=fetch_timeout, on_end=self._contact
        )
        self._up: bool | None = None

    def __repr__(self) -> str:
        return f"<Lists {self._latest!r}, {'up' if self.up else 'down'}>"

    @property
    def up(self) -> bool:
        """Whether Ollama answered when it was last asked for its list."""
        return self._up is True

    @property
    def latest(self) -> Listing | None:
        """The last good list, however old."""
        stamped = self._latest.stamped
        return None if stamped is None else stamped.value

    def age(self) -> float | None:
        listing = self.latest
        return None if listing is None else self._age_of(listing)

    async def cached(self) -> CachedList:
        """The list at most ``ttl`` old; an older one while Ollama is away."""
        listing = self.latest
        if listing is not None and self._age_of(listing) <= self._ttl:
            return CachedList(listing, self._age_of(listing), stale=False)
        if self._known_away() and (kept := self._kept()) is not None:
            return kept
        return await self.asked(within=self._ttl)

    async def asked(self, *, within: float) -> CachedList:
        """A list that Ollama was asked for at most ``within`` seconds ago, else the last good one.

        Raises ``UpstreamUnreachable`` or ``UpstreamProtocolError`` when Ollama does not answer and
        there is no list younger than ``stale_limit``.
        """
        try:
            listing = await self.fetched(within=within)
        except UpstreamDown:
            if (kept := self._kept()) is not None:
                return kept
            raise
        return CachedList(listing, self._age_of(listing), stale=False)

    async def asked_again(self, had: CachedList) -> CachedList:
        """``had``, or a newer list if Ollama was not asked within the last second.

        Failed attempts count: a caller with a wrong name cannot make us ask more often.
        """
        if self._latest.asking or self._now() - self._latest.attempted_at > JUST_NOW:
            return await self.asked(within=JUST_NOW)
        return had

    async def fetched(self, *, within: float) -> Listing:
        """As ``asked``, but never an older list."""
        return (await self._latest.since(self._now() - within)).value

    def _known_away(self) -> bool:
        """Whether Ollama is away for all we know, and asking once more is not this call's turn."""
        recent = self._now() - self._latest.attempted_at < RETRY_EVERY
        return self._up is False and (self._latest.asking or recent)

    def _kept(self) -> CachedList | None:
        listing = self.latest
        if listing is None or self._age_of(listing) >= self._stale_limit:
            return None
        return CachedList(listing, self._age_of(listing), stale=True)

    def _age_of(self, listing: Listing) -> float:
        return max(0.0, self._now() - listing.fetched_at)

    async def _fetch(self, asked_at: float) -> Listing:
        return parse_listing(await self._source.tags(), fetched_at=asked_at)

    def _contact(self, error: GatewayError | None) -> None:
        up = error is None
        if up is not self._up:
            self._up = up
            self._on_change(up, "" if error is None else error.message)
