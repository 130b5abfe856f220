"""How each family of routes reads requests and writes responses. Pure: no I/O."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.simulator.http import Headers
from gateway.simulator.params import Completion, Final, GenerateParams, Piece, Refusal
from gateway.simulator.versions import Wire

JSON = (("Content-Type", "application/json"),)
GIN_JSON = (("Content-Type", "application/json; charset=utf-8"),)
"""As the web framework writes it; the OpenAI and Anthropic layers write the shorter one."""
EVENTS = (("Content-Type", "text/event-stream"),)


class Encoder(Protocol):
    """Writes one response. Each item of a list is one chunk on the wire."""

    stream_headers: Headers
    complete_headers: Headers

    def piece(self, piece: Piece, /) -> list[bytes]: ...

    def final(self, final: Final, /) -> list[bytes]: ...

    def broken(self, message: str, /) -> list[bytes]:
        """Return the last chunks of a stream whose runner died, before it ends properly."""
        ...

    def complete(self, completion: Completion, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """One inference route."""

    parse: Callable[[bytes], GenerateParams]
    """Raises ``Refusal`` if the body cannot be read."""
    encoder: Callable[[GenerateParams, Wire], Encoder]
    error: Callable[[Refusal, bool], tuple[Headers, bytes]]
    """Returns headers and body of an error; the flag is True for a streaming request."""
