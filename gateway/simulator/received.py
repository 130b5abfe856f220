"""The requests that arrived, for tests to look at."""

from collections import deque
from dataclasses import dataclass

from gateway.simulator.http import Headers


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived: target as sent, header names as sent, body without chunking."""

    method: str
    path: str
    headers: Headers
    body: bytes

    def header(self, name: str) -> str | None:
        """The first header of this name, whatever its case."""
        for known, value in self.headers:
            if known.lower() == name.lower():
                return value
        return None


class Inbox:
    """The latest requests: at most ``limit`` of them, with bodies of at most ``limit_bytes``.

    The very latest is always kept, unless the limit is 0.
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
        while len(self.received) > self._limit or self._is_too_much():
            self._bytes -= len(self.received.popleft().body)

    def _is_too_much(self) -> bool:
        return self._bytes > self._limit_bytes and len(self.received) > 1
