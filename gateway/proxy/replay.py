"""Failures that could not be reported to the client: kept for the retry that follows. Pure.

A non-streaming response that fails after heartbeats have begun can only be aborted. The SDKs then
send the request again, and the retry gets the failure of the attempt before it.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.proxy.request import Fingerprint

_KEPT_SECONDS: Final = 60.0
"""The OpenAI SDKs retry within 10 seconds."""

_UNDECLARED_SECONDS: Final = 10.0
"""Within these an identical request counts as a retry, of a client that does not say so."""

_MAX_FAILURES: Final = 1024

MAX_BYTES: Final = 16 * 1024
"""Of one failure. A larger one must be reported in other words."""

MAX_HEADERS: Final = 64
"""Of one failure, likewise: headers without a value cost more memory than they have bytes."""


@dataclass(frozen=True, slots=True)
class ReplayableFailure:
    """A complete response that reports a failure.

    ``outcome`` and ``message`` are for the log.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    outcome: str
    message: str

    @property
    def size(self) -> int:
        """Bytes of the response."""
        return len(self.body) + sum(len(name) + len(value) for name, value in self.headers)

    @property
    def is_small(self) -> bool:
        """Return True if it is small enough to be kept."""
        return self.size <= MAX_BYTES and len(self.headers) <= MAX_HEADERS


@dataclass(frozen=True, slots=True)
class _Entry:
    """A failure, and what identifies its retry. It does not keep the body of its request."""

    hash: int
    digest: bytes
    retry: int | None
    at: float
    failure: ReplayableFailure

    def may_be_retried_by(self, retry: int | None, now: float) -> bool:
        """Return True if a request that says ``retry`` can be a retry of the failed one.

        A client that says 0 sends a new request, and so does one that says nothing where the failed
        request said something.
        """
        if retry is None:
            return self.retry is None and now - self.at <= _UNDECLARED_SECONDS
        # Older SDKs do not say 0 with a first attempt.
        return retry > (self.retry or 0)


class FailureReplay:
    """The failures that wait for their retry. Mutable state: their entries, the oldest first."""

    def __init__(self, *, now: Callable[[], float], max_failures: int = _MAX_FAILURES) -> None:
        self._now = now
        self._entries: deque[_Entry] = deque(maxlen=max_failures)

    def __repr__(self) -> str:
        return f"<FailureReplay {len(self._entries)}/{self._entries.maxlen}>"

    def remember(
        self, fingerprint: Fingerprint, failure: ReplayableFailure, *, retry: int | None
    ) -> None:
        """Keep the failure of a request.

        Args:
            retry: how often its client had sent it before, as it said; None if it did not.
        """
        if failure.is_small:
            digest = fingerprint.digest()
            self._entries.append(_Entry(hash(fingerprint), digest, retry, self._now(), failure))

    def take(self, fingerprint: Fingerprint, *, retry: int | None) -> ReplayableFailure | None:
        """Return the failure that this request must get instead of being served, once for each.

        Args:
            retry: as in ``remember``.
        """
        if not self._entries:
            return None
        now = self._now()
        while self._entries and now - self._entries[0].at > _KEPT_SECONDS:
            self._entries.popleft()
        for entry in self._entries:
            # The digest last: it reads all of the body.
            if (
                entry.hash == hash(fingerprint)
                and entry.may_be_retried_by(retry, now)
                and entry.digest == fingerprint.digest()
            ):
                self._entries.remove(entry)
                return entry.failure
        return None
