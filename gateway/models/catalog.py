"""The catalog: Ollama's model list, model information, version and loaded models, cached.

Filters by key come after the caches, never before: what is kept here is Ollama's own response.

What may be served how long:

* The list: for ``ttl``; while Ollama is down, for ``stale_limit``, marked stale.
* ``/api/show``: for as long as the list shows the same digest, which identifies all of it.
* ``/api/version``: as the list.
* ``/api/ps``: for a second, never longer: an old one would be wrong.

Ages count from when Ollama was asked, so nothing is called younger than what it knows.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, NamedTuple, Never, Protocol, TypeVar
from weakref import WeakValueDictionary

from msgspec import Struct

from gateway.errors import (
    GatewayError,
    ModelNotAllowed,
    ModelNotFound,
    NoModelsPulled,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.models.discovery import shown_fields
from gateway.models.listing import Listing, Model, decoded_object, named_entries, parse_listing
from gateway.models.names import is_cloud_name, likeness, name_key, shown

T = TypeVar("T")

UPSTREAM_DOWN: Final = (UpstreamUnreachable, UpstreamProtocolError)
"""How a question to Ollama fails; a timeout means that Ollama is unreachable."""


@dataclass(frozen=True, slots=True)
class Stamped(Generic[T]):
    """A response and when it was asked for: it knows nothing of what happened after that."""

    value: T
    fetched_at: float


class SingleFlight(Generic[T]):
    """Keeps the newest response of ``fetch``.

    Args:
        fetch: asks Ollama; it is given the time at which it is called.
        now: monotonic clock in seconds.
        timeout: seconds that one caller waits at most.
        on_end: called after every fetch that ended, with None or the reason of its failure.
    """

    def __init__(
        self,
        fetch: Callable[[float], Awaitable[T]],
        *,
        now: Callable[[], float],
        timeout: float,
        on_end: Callable[[GatewayError | None], None] = lambda _: None,
    ) -> None:
        self._fetch = fetch
        self._now = now
        self._timeout = timeout
        self._on_end = on_end
        # All mutable state. ``_failures`` tells a caller whether a fetch failed while it waited.
        self._lock = asyncio.Lock()
        self._stamped: Stamped[T] | None = None
        self._attempted_at = -math.inf
        self._failures = 0
        self._failure: GatewayError = UpstreamUnreachable()

    def __repr__(self) -> str:
        kept = "nothing" if self._stamped is None else f"a response of {self._stamped.fetched_at:g}"
        in_flight = ", in flight" * self.in_flight
        return f"<SingleFlight {kept}, {self._failures} failures{in_flight}>"

    @property
    def stamped(self) -> Stamped[T] | None:
        """The last good response, however old."""
        return self._stamped

    @property
    def in_flight(self) -> bool:
        return self._lock.locked()

    @property
    def attempted_at(self) -> float:
        """When Ollama was last asked, with or without success; minus infinity before that."""
        return self._attempted_at

    async def since(self, moment: float) -> Stamped[T]:
        """Return a response that was asked for at ``moment`` or later, fetching one if needed.

        Raises:
            UpstreamUnreachable: Ollama did not respond, or not in time.
            UpstreamProtocolError: the response is not Ollama's.
        """
        if (kept := self._kept_since(moment)) is not None:
            return kept
        failures = self._failures
        try:
            async with asyncio.timeout(self._timeout), self._lock:
                if (kept := self._kept_since(moment)) is not None:
                    return kept
                if self._failures != failures:
                    # A new error object: two callers must not raise the same one.
                    raise type(self._failure)(self._failure.message)
                return await self._fetch_now()
        except TimeoutError:
            raise self._failed(self._timed_out()) from None

    def _kept_since(self, moment: float) -> Stamped[T] | None:
        kept = self._stamped
        return kept if kept is not None and kept.fetched_at >= moment else None

    async def _fetch_now(self) -> Stamped[T]:
        fetched_at = self._attempted_at = self._now()
        try:
            value = await self._fetch(fetched_at)
        except UpstreamTimeout:
            raise self._failed(self._timed_out()) from None
        except UPSTREAM_DOWN as error:
            self._failed(error)
            raise
        self._stamped = Stamped(value, fetched_at)
        self._on_end(None)
        return self._stamped

    def _failed(self, error: GatewayError) -> GatewayError:
        self._failures += 1
        self._failure = error
        self._on_end(error)
        return error

    def _timed_out(self) -> UpstreamUnreachable:
        return UpstreamUnreachable(
            f"Ollama did not answer within {self._timeout:g} s. "
            "Check on its machine that it runs and is not overloaded."
        )


FRESHNESS: Final = 1.0
"""Seconds within which a response of Ollama's counts as current."""

RETRY_INTERVAL: Final = 2.0
"""Seconds. While Ollama is down, no more than one request in that time waits for it."""

VERSION_TIMEOUT: Final = 1.0
"""Seconds. Ollama answers /api/version in a millisecond unless something is wrong."""

MAX_SHOWN: Final = 256
MAX_SHOWN_BYTES: Final = 32 * 1024 * 1024
"""A verbose response has the complete vocabulary of the model: some megabytes."""

_REFRESH_AT: Final = 0.75
"""Of ``ttl``: the list is renewed before it expires, so that no request waits for it."""

_MIN_PAUSE: Final = 0.5
_MAX_NAMED: Final = 8
_MAX_COMPARED: Final = 1000


class ShowReply(NamedTuple):
    """A complete response of Ollama's to ``/api/show``, whatever its status."""

    status: int
    body: bytes


class Probes(Protocol):
    """The questions that the catalog asks Ollama; ``upstream.Probes``, or a test's fake.

    Each returns a complete body. Each raises ``UpstreamUnreachable``, ``UpstreamTimeout`` or
    ``UpstreamProtocolError``, which includes a status other than 200 except for ``show``.
    """

    async def tags(self) -> bytes: ...
    async def show(self, model: str, /, *, verbose: bool) -> tuple[int, bytes]: ...
    async def version(self) -> bytes: ...
    async def ps(self) -> bytes: ...


class CachedList(Struct, frozen=True):
    """A list with its ``age`` in seconds; ``stale``: Ollama did not respond when asked again."""

    listing: Listing
    age: float
    stale: bool


class Catalog:
    """Ollama's models, its version and what it has loaded, cached; one question at a time each.

    Args:
        probes: asks Ollama.
        ttl: seconds for which a list is served without asking.
        stale_limit: age in seconds up to which a list is served while Ollama is down.
        now: monotonic clock in seconds.
        fetch_timeout: seconds that a request waits for Ollama at most.
        on_change: called when Ollama comes up (True) or goes down (False, reason), and the first
            time that either is known.
    """

    def __init__(
        self,
        probes: Probes,
        *,
        ttl: float,
        stale_limit: float,
        now: Callable[[], float],
        fetch_timeout: float = 2.0,
        on_change: Callable[[bool, str], None] = lambda _up, _reason: None,
    ) -> None:
        self._probes = probes
        self._ttl = ttl
        self._stale_limit = stale_limit
        self._now = now
        self._fetch_timeout = fetch_timeout
        self._on_change = on_change
        # All mutable state. ``_up`` is None before the first response or failure.
        self._up: bool | None = None
        self._suspect = asyncio.Event()
        self._list = SingleFlight(
            self._fetch_list, now=now, timeout=fetch_timeout, on_end=self._list_fetched
        )
        self._version = SingleFlight(self._fetch_version, now=now, timeout=VERSION_TIMEOUT)
        self._ps = SingleFlight(self._fetch_ps, now=now, timeout=fetch_timeout)
        self._shown = ShowCache()
        # A flight lives for as long as a request waits for it.
        self._show_flights: WeakValueDictionary[tuple[str, str, bool], SingleFlight[ShowReply]] = (
            WeakValueDictionary()
        )

    def __repr__(self) -> str:
        listing, age = self._listing, self.age()
        state = "no list"
        if listing is not None and age is not None:
            count = len(listing.models)
            state = f"{count} model{'' if count == 1 else 's'}, {age:.0f} s old"
        return f"<Catalog {state}, {'up' if self.up else 'down'}>"

    # The list.

    @property
    def up(self) -> bool:
        """Whether Ollama responded when it was last asked for its list."""
        return self._up is True

    def age(self) -> float | None:
        """Return the age of the list in seconds, None without one."""
        listing = self._listing
        return None if listing is None else self._age_of(listing)

    async def get(self, *, max_age: float | None = None) -> CachedList:
        """Return the list.

        Args:
            max_age: seconds since Ollama was asked for it, ``FRESHNESS`` for a current list and 0
                to ask now; None for ``ttl``. While Ollama is down an older list is returned, marked
                stale, up to ``stale_limit``.

        Raises:
            UpstreamUnreachable: Ollama is down, and there is no such list.
            UpstreamProtocolError: what responds is not Ollama, and there is no such list.
        """
        if max_age is None:
            # Every inference request comes here, and nearly always finds a list.
            kept, now = self._list.stamped, self._now()
            if kept is not None and now - kept.fetched_at <= self._ttl:
                return CachedList(kept.value, max(0.0, now - kept.fetched_at), stale=False)
            # While Ollama is known to be down, only one request per interval waits for it in vain.
            recent = now - self._list.attempted_at < RETRY_INTERVAL
            if self._up is False and (self._list.in_flight or recent):
                stale = self._stale()
                if stale is not None:
                    return stale
            max_age = self._ttl
        try:
            listing = (await self._list.since(self._now() - max_age)).value
        except UPSTREAM_DOWN:
            if (stale := self._stale()) is not None:
                return stale
            raise
        return CachedList(listing, self._age_of(listing), stale=False)

    async def resolve(self, name: str, may_use: Callable[[str], bool]) -> Model:
        """Return the model that Ollama would run for ``name``, if the key may use it.

        A name that is not in the list is looked up at Ollama once more: the model may have been
        pulled a moment ago. A cloud name that was never pulled is not found. Whether the model may
        leave the machine is not checked here (``Model.leaves_the_machine``).

        Args:
            name: as the client wrote it.
            may_use: tells for a name as Ollama lists it whether the key may use the model.

        Raises:
            ModelNotFound: Ollama has no such model.
            NoModelsPulled: Ollama has no models.
            ModelNotAllowed: the key may not use it.
            UpstreamUnreachable: Ollama is down, and the last list has no such model.
            UpstreamProtocolError: what responds is not Ollama, and there is no list.
        """
        cached = await self.get()
        model = cached.listing.find(name)
        if model is None and name_key(name) is not None:
            # Failed attempts count: a client with a wrong name cannot make us ask more often.
            if self._list.in_flight or self._now() - self._list.attempted_at > FRESHNESS:
                cached = await self.get(max_age=FRESHNESS)
            model = cached.listing.find(name)
        if model is None:
            if not self.up:
                raise unknown_while_down(name)
            raise not_found(name, cached.listing, may_use)
        if not may_use(model.name):
            raise not_allowed(model.name, cached.listing, may_use)
        return model

    # What else is asked.

    async def show(self, model: Model, *, verbose: bool = False) -> ShowReply:
        """Return Ollama's response to ``/api/show``; only those of status 200 are kept.

        Raises:
            UpstreamUnreachable: Ollama did not respond in time.
            UpstreamProtocolError: the response is not Ollama's.
        """
        if (reply := self._shown.find(model, verbose=verbose)) is not None:
            return reply
        fetch = partial(self._fetch_show, model, verbose)
        new = SingleFlight(fetch, now=self._now, timeout=self._fetch_timeout)
        flight = self._show_flights.setdefault((model.name, model.digest, verbose), new)
        return await self._since(flight, self._now() - FRESHNESS)

    async def version(self) -> bytes:
        """Return the body of ``/api/version``, up to ``ttl`` old; older while Ollama is down.

        Raises:
            UpstreamUnreachable: Ollama did not respond in time, and there is none to serve.
            UpstreamProtocolError: the response is not Ollama's, and there is none to serve.
        """
        try:
            return await self._since(self._version, self._now() - self._ttl)
        except UPSTREAM_DOWN:
            kept = self._version.stamped
            if kept is None or self._now() - kept.fetched_at >= self._stale_limit:
                raise
            return kept.value

    async def ps(self, *, max_age: float = FRESHNESS) -> bytes:
        """Return the body of ``/api/ps``, asked for at most ``max_age`` seconds ago.

        Raises:
            UpstreamUnreachable: Ollama did not respond in time.
            UpstreamProtocolError: the response is not Ollama's.
        """
        return await self._since(self._ps, self._now() - max_age)

    # The background task.

    def mark_suspect(self) -> None:
        """Note that a request could not reach Ollama, so that ``run`` looks at once."""
        if self.up:
            self._suspect.set()

    async def run(self) -> Never:
        """Keep the list fresh, and notice within seconds when Ollama comes or goes."""
        misses = 0
        while True:
            try:
                await self._list.since(self._now())
                misses = 0
            except UPSTREAM_DOWN:
                misses += 1
            pause = max(_MIN_PAUSE, self._ttl * _REFRESH_AT)
            if misses:
                pause = min(RETRY_INTERVAL, _MIN_PAUSE * 2.0 ** min(misses - 1, 2))
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._suspect.wait()
            # A list from just before the failure says nothing about it; and many failing requests
            # in one second are one reason to look.
            await asyncio.sleep(max(0.0, FRESHNESS - (self.age() or 0.0)) if self.up else 0.0)
            self._suspect.clear()

    # Inside.

    @property
    def _listing(self) -> Listing | None:
        """The last good list, however old."""
        stamped = self._list.stamped
        return None if stamped is None else stamped.value

    def _age_of(self, listing: Listing) -> float:
        return max(0.0, self._now() - listing.fetched_at)

    def _stale(self) -> CachedList | None:
        listing = self._listing
        if listing is None or self._age_of(listing) >= self._stale_limit:
            return None
        return CachedList(listing, self._age_of(listing), stale=True)

    async def _since(self, flight: SingleFlight[T], moment: float) -> T:
        try:
            return (await flight.since(moment)).value
        except UpstreamUnreachable:
            self.mark_suspect()
            raise

    async def _fetch_list(self, fetched_at: float) -> Listing:
        return parse_listing(await self._probes.tags(), fetched_at=fetched_at)

    def _list_fetched(self, error: GatewayError | None) -> None:
        up = error is None
        if up is not self._up:
            self._up = up
            self._on_change(up, "" if error is None else error.message)

    async def _fetch_show(self, model: Model, verbose: bool, _: float) -> ShowReply:  # noqa: FBT001  - bound by partial
        # A slow response may have come for an earlier request: the digest says that it still holds.
        if (kept := self._shown.find(model, verbose=verbose)) is not None:
            return kept
        reply = ShowReply(*await self._probes.show(model.name, verbose=verbose))
        if reply.status == 200:
            shown_fields(reply.body)
            self._shown.keep(model, reply, verbose=verbose)
        return reply

    async def _fetch_version(self, _: float) -> bytes:
        body = await self._probes.version()
        decoded_object(body, "/api/version")
        return body

    async def _fetch_ps(self, _: float) -> bytes:
        body = await self._probes.ps()
        named_entries(decoded_object(body, "/api/ps"), "/api/ps")
        return body


class ShowCache:
    """Responses to ``/api/show`` by model and ``verbose``, each with the digest it describes.

    Bounded in number and bytes; the least recently used one goes first.
    """

    def __init__(self, *, max_replies: int = MAX_SHOWN, max_bytes: int = MAX_SHOWN_BYTES) -> None:
        self._max_replies = max_replies
        self._max_bytes = max_bytes
        # All mutable state; in the order of the last use.
        self._kept: OrderedDict[tuple[str, bool], tuple[str, ShowReply]] = OrderedDict()
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<ShowCache {len(self._kept)} replies, {self._bytes} bytes>"

    def find(self, model: Model, *, verbose: bool) -> ShowReply | None:
        """Return the response for this digest; one for another digest is dropped."""
        key = (model.name, verbose)
        if key not in self._kept:
            return None
        digest, reply = self._kept[key]
        if digest != model.digest:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return reply

    def keep(self, model: Model, reply: ShowReply, *, verbose: bool) -> None:
        """Keep ``reply``, unless it alone is too large or no digest tells when it is outdated."""
        key = (model.name, verbose)
        self._drop(key)
        if not model.digest or len(reply.body) > self._max_bytes:
            return
        self._kept[key] = (model.digest, reply)
        self._bytes += len(reply.body)
        while len(self._kept) > self._max_replies or self._bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: tuple[str, bool]) -> None:
        if key in self._kept:
            _, reply = self._kept.pop(key)
            self._bytes -= len(reply.body)


# Why a name does not resolve, in messages that name only the models that the key may use.


def not_found(name: str, listing: Listing, may_use: Callable[[str], bool]) -> GatewayError:
    """Return the error for a model that is not in the list."""
    if not listing.models:
        return NoModelsPulled()
    if is_cloud_name(name):
        hint = (
            "It would run on ollama.com; the owner adds it with `ollama pull` on Ollama's machine."
        )
    else:
        hint = "The owner adds one with `ollama pull` on Ollama's machine."
    message = f"There is no model {shown(name)} here. {_choice(name, listing, may_use)} {hint}"
    return ModelNotFound(message, param="model")


def unknown_while_down(name: str) -> UpstreamUnreachable:
    """Return the error for a model that Ollama may have by now, but cannot be asked for."""
    return UpstreamUnreachable(
        f"Ollama does not answer, and its last list has no model {shown(name)}. "
        "Check on its machine that it runs, and try again."
    )


def not_allowed(name: str, listing: Listing, may_use: Callable[[str], bool]) -> ModelNotAllowed:
    """Return the error for a model in the list that the key may not use."""
    message = (
        f"This key may not use the model {shown(name)}. {_choice(name, listing, may_use)} "
        "For another one ask the gateway's owner for a key that may use it."
    )
    return ModelNotAllowed(message, param="model")


def _choice(name: str, listing: Listing, may_use: Callable[[str], bool]) -> str:
    allowed = nearest(name, [model.name for model in listing.models if may_use(model.name)])
    if not allowed:
        return "This key may use none of the models that are here."
    return f"This key may use: {', '.join(allowed)}."


def nearest(name: str, others: list[str]) -> list[str]:
    """Return up to eight of ``others``, the most similar to ``name`` first."""
    compared = others[:_MAX_COMPARED]
    return sorted(compared, key=lambda other: (-likeness(name, other), other))[:_MAX_NAMED]
