"""What differs between families of routes, and nothing else.

A dialect is a value without state. What has state is made per reply: a ``Scanner`` for a reply
that streams, a ``Body`` for one that comes whole. Both are fed with Ollama's bytes as they pass,
in whatever pieces the network made of them, hold a bounded part of them, and never raise: what
they cannot read, they do not know.
"""

from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from gateway.errors import GatewayError


class Usage(Struct, frozen=True):
    """Tokens of one reply; None is unknown.

    ``counted``: Ollama reported no ``tokens_out`` (or 0, which is what it says where it does not
    know), so it is the number of events that carried text, thinking or a tool call. Ollama mostly
    sends one token per event, but holds several back while it builds a tool call: a lower bound.
    """

    tokens_in: int | None = None
    tokens_out: int | None = None
    counted: bool = False


@dataclass(frozen=True, slots=True)
class Timings:
    """The model's own account of a native call: durations in seconds, counts in tokens."""

    total_duration: float | None = None
    load_duration: float | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: float | None = None
    eval_count: int | None = None
    eval_duration: float | None = None


class Scanner(Protocol):
    """Reads along while one streamed reply passes."""

    @property
    def at_boundary(self) -> bool:
        """Nothing, or only whole events, have passed: an event of our own may be written here."""

    @property
    def complete(self) -> bool:
        """The dialect's final event has passed. Ollama's end of body proves nothing instead."""

    @property
    def failure(self) -> str | None:
        """Ollama's own words, first 300 characters, if the stream said that it failed."""

    @property
    def usage(self) -> Usage: ...

    @property
    def timings(self) -> Timings | None:
        """None but for the native dialect, and there until its last line."""

    def feed(self, data: bytes) -> None: ...


class Body(Protocol):
    """Reads along while one whole reply passes; its answers hold once all of it was fed."""

    @property
    def broke_off(self) -> bool:
        """Ollama itself says, in an otherwise good answer, that it is not whole."""

    @property
    def failure(self) -> str | None:
        """The message, first 300 characters, of a body that is an error."""

    @property
    def usage(self) -> Usage: ...

    @property
    def timings(self) -> Timings | None: ...

    def feed(self, data: bytes) -> None: ...


class Dialect(Protocol):
    """How one family of routes speaks."""

    @property
    def name(self) -> str: ...

    @property
    def stream_type(self) -> str:
        """What the ``Content-Type`` of a reply begins with if it streams."""

    def streams(self, stream: bytes | None) -> bool:
        """Whether a call streams whose ``stream`` is this raw JSON value; None if it has none."""

    def error_body(self, error: GatewayError, request_id: str) -> bytes:
        """The whole body of an error that is told by its status."""

    def late_error(self, error: GatewayError, request_id: str) -> bytes:
        """The same after the head of a stream has gone: an event or a line, with its end.

        Its place is where ``Scanner.at_boundary`` holds; what must follow is a cut, for no client
        knows from this alone that the stream is over.
        """

    def whole_in_stream(self, body: bytes) -> bytes | None:
        """An answer in one piece, as it stands in a stream that has begun; None if it cannot."""

    def heartbeat(self, *, streaming: bool, note: str = "") -> bytes:
        """Bytes that keep a silent connection open and mean nothing to the client.

        In a stream they may stand where ``Scanner.at_boundary`` holds, in a whole answer only
        before its first byte. ``note`` is shown where the dialect has room for a comment.
        """

    def scanner(self) -> Scanner: ...

    def body(self) -> Body: ...
