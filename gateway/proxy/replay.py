"""Failures that could not be told: kept for a moment, for the retry that follows a cut. Pure."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_KEPT: Final = 60.0
"""Seconds. The OpenAI SDKs come again within 10."""

_UNDECLARED: Final = 10.0
"""Seconds within which an identical call counts as a retry, of a client that does not say."""

_MOST: Final = 1024

MAX_BYTES: Final = 16 * 1024
"""Of one failure. What is larger has to be told in other words."""

MAX_HEADERS: Final = 64
"""Of one failure, likewise."""


@dataclass(frozen=True, slots=True)
class ReplayableFailure:
    """What would have been answered, complete: who comes again gets it as it is.

    ``outcome`` and ``words`` are for the log.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    outcome: str
    words: str

    @property
    def size(self) -> int:
        """Bytes of what would be sent."""
        return len(self.body) + sum(len(name) + len(value) for name, value in self.headers)

    @property
    def is_small(self) -> bool:
        """Whether it may be kept. Headers with nothing in them cost more than they show."""
        return self.size <= MAX_BYTES and len(self.headers) <= MAX_HEADERS


@dataclass(frozen=True, slots=True)
class _Kept:
    fingerprint: bytes
    retry: int | None
    at: float
    failure: ReplayableFailure

    def is_asked_for(self, retry: int | None, now: float) -> bool:
        """Whether a call like this one is its retry.

        A client that says 0, and one that says nothing where this one did, has a call of its own.
        """
        if retry is None:
            return self.retry is None and now - self.at <= _UNDECLARED
        # Older SDKs do not say 0 of a first attempt.
        return retry > (self.retry or 0)


class FailureReplay:
    """What failed late, oldest first: all mutable state. One entry for each call that failed."""

    def __init__(self, *, now: Callable[[], float], most: int = _MOST) -> None:
        self._now = now
        self._kept: deque[_Kept] = deque(maxlen=most)

    def __repr__(self) -> str:
        return f"<LateFailures {len(self._kept)}/{self._kept.maxlen}>"

    def __len__(self) -> int:
        return len(self._kept)

    def remember(
        self, fingerprint: bytes, failure: ReplayableFailure, *, retry: int | None
    ) -> None:
        """The call with this fingerprint failed, and could not be told.

        ``retry`` is what its client said: how often it had tried before; None, it did not say.
        """
        if failure.is_small:
            self._kept.append(_Kept(fingerprint, retry, self._now(), failure))

    def may_concern(self, retry: int | None) -> bool:
        """Return True if some failure waits for a request that says this about retries.

        Only then is it worth hashing the request for ``take``.
        """
        now = self._now()
        return any(kept.is_asked_for(retry, now) for kept in self._kept)

    def take(self, fingerprint: bytes, *, retry: int | None) -> ReplayableFailure | None:
        """What a call that comes now is told instead of being served, once for each failure.

        ``retry`` is as in ``remember``. One that says 0 is a new call, however much it looks like
        another; only one that says nothing can be the retry of one that said nothing.
        """
        now = self._now()
        while self._kept and now - self._kept[0].at > _KEPT:
            self._kept.popleft()
        for kept in self._kept:
            if kept.fingerprint == fingerprint and kept.is_asked_for(retry, now):
                self._kept.remove(kept)
                return kept.failure
        return None
