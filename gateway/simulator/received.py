"""The received requests, for tests."""

from collections import deque
from dataclasses import dataclass

from gateway.simulator.http import Headers


@dataclass(frozen=True, slots=True)
class Received:
    """One request: target and header names as sent, body without chunking."""

    method: str
    path: str
    headers: Headers
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the first header of this name; case is ignored."""
        for known, value in self.headers:
            if known.lower() == name.lower():
                return value
        return None


class Inbox:
    """The latest requests: at most ``limit``, with bodies of at most ``limit_bytes`` together.

    The latest request is always kept, unless the limit is 0.
    """

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self.received: deque[Received] = deque()
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._bytes = 0

    def keep(self, received: Received) -> None:
        if not self._limit:
            return
        self.received.append(received)
        self._bytes += len(received.body)
        while len(self.received) > self._limit or self._exceeds_bytes():
            self._bytes -= len(self.received.popleft().body)

    def _exceeds_bytes(self) -> bool:
        return self._bytes > self._limit_bytes and len(self.received) > 1
