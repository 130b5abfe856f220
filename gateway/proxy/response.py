"""What the pipeline needs of the one who writes to the caller."""

from collections.abc import Iterable
from typing import Protocol

from gateway.dialects import Scanner

Headers = Iterable[tuple[str, str]]


class Response(Protocol):
    """What goes back to the caller: pending, committed, then ended or aborted.

    Each method raises ClientDisconnected or ClientWriteTimeout when the caller is gone or takes
    nothing: neither is Ollama's fault.
    """

    def add_header(self, name: str, value: str) -> None:
        """A header of an answer whose head must go before Ollama's is there."""

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        """Commit to an answer that is all there."""

    async def begin_stream(
        self, status: int, headers: Headers, *, length: int | None, scanner: Scanner | None
    ) -> None:
        """Commit to an answer whose bytes follow.

        ``length`` is what Ollama declared, if it did; with a ``scanner`` it is a stream, and the
        scanner tells where an event of our own may stand.
        """

    async def write(self, data: bytes) -> None:
        """Send bytes now. Returns at once until the read-ahead is full, then when there is room."""

    async def end(self) -> None:
        """Everything was written: end the answer properly and see it off."""
