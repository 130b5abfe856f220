"""A scan of one stream: a framing finds the events, a dialect's reader notes what they mean."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.dialects.dialect import Timings, Usage


@dataclass(slots=True)
class Findings:
    """What has been found so far: the state of one scan, written by a reader event by event.

    ``pieces`` counts the events that carried text, thinking or a tool call.
    """

    complete: bool = False
    failure: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    pieces: int = 0
    timings: Timings | None = None

    @property
    def usage(self) -> Usage:
        if self.tokens_out is None and self.pieces:
            return Usage(self.tokens_in, self.pieces, counted=True)
        return Usage(self.tokens_in, self.tokens_out)

    def report(self, usage: Usage) -> None:
        """Take over what Ollama says; what it does not say later stays."""
        self.tokens_in = usage.tokens_in or self.tokens_in
        self.tokens_out = usage.tokens_out or self.tokens_out


class Framing(Protocol):
    """Finds the events in a stream's bytes and has them read."""

    @property
    def at_boundary(self) -> bool: ...

    def feed(self, data: bytes) -> None: ...


class StreamScanner:
    """A ``Scanner``: the framing and the findings that it writes."""

    __slots__ = ("_findings", "_framing", "feed")

    feed: Callable[[bytes], None]

    def __init__(self, findings: Findings, framing: Framing) -> None:
        self._findings = findings
        self._framing = framing
        # The framing's own method, not one that calls it: it runs for every chunk of every stream.
        self.feed = framing.feed

    def __repr__(self) -> str:
        return f"<StreamScanner {self._findings}, {self._framing}>"

    @property
    def at_boundary(self) -> bool:
        return self._framing.at_boundary

    @property
    def complete(self) -> bool:
        return self._findings.complete

    @property
    def failure(self) -> str | None:
        return self._findings.failure

    @property
    def usage(self) -> Usage:
        return self._findings.usage

    @property
    def timings(self) -> Timings | None:
        return self._findings.timings
