"""How each family of routes reads a request and writes an answer. Pure: no I/O."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.simulator.asked import Ask, Final, Piece, Refusal, Whole
from gateway.simulator.http import Headers
from gateway.simulator.versions import Wire

JSON = (("Content-Type", "application/json"),)
GIN_JSON = (("Content-Type", "application/json; charset=utf-8"),)
"""What the web framework itself writes; the OpenAI and Anthropic layers write the shorter one."""
EVENTS = (("Content-Type", "text/event-stream"),)


class Encoder(Protocol):
    """Writes one answer. Each item of a list is one chunk on the wire."""

    stream_headers: Headers
    whole_headers: Headers

    def piece(self, piece: Piece, /) -> list[bytes]: ...

    def final(self, final: Final, /) -> list[bytes]: ...

    def broken(self, message: str, /) -> list[bytes]:
        """What a stream still says when its runner dies, before it ends properly."""
        ...

    def whole(self, whole: Whole, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """One inference route."""

    parse: Callable[[bytes], Ask]
    """Raises ``Refusal`` for what cannot be read."""
    encoder: Callable[[Ask, Wire], Encoder]
    error: Callable[[Refusal, bool], tuple[Headers, bytes]]
    """The head and body of a refusal; the flag says whether a stream was asked for."""
