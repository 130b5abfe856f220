"""What differs between the families of routes, and nothing else."""

from abc import ABC, abstractmethod
from typing import ClassVar

from gateway.dialects.body import Body, encodable, encode
from gateway.dialects.framing import SSE_TYPE, Scanner, sse_comment
from gateway.errors import GatewayError


class Dialect(ABC):
    """How one family of routes writes requests, responses, errors and streams.

    A dialect has no state. What has state is made per response: a ``Scanner`` for one that streams,
    a ``Body`` for one that does not. Both are fed with Ollama's bytes as they pass.

    The defaults are those of ``/v1``.
    """

    __slots__ = ()

    name: ClassVar[str]
    stream_type: ClassVar[str] = SSE_TYPE
    """The beginning of the ``Content-Type`` of a response that streams."""

    def streams(self, stream: bytes | None) -> bool:
        """Return True if a request streams whose ``stream`` is this JSON; None if it has none."""
        return stream is not None and stream.strip() == b"true"

    def error_body(self, error: GatewayError, request_id: str) -> bytes:  # noqa: ARG002 - Anthropic's has it
        """Return the body of a response that is an error; its status tells the same."""
        return encode({"error": error_object(error)})

    @abstractmethod
    def late_error(self, error: GatewayError, request_id: str) -> bytes:
        """Return the error as an event or a line of a stream whose head has been sent.

        It may be written where ``Scanner.at_boundary`` holds. The connection must then be closed
        without the end of the body: no client takes this event alone for the end of the stream.
        """

    def complete_in_stream(self, body: bytes) -> bytes | None:  # noqa: ARG002 - Ollama's uses it
        """Return a non-streaming response as part of a stream that has begun.

        None if the dialect has no place for one.
        """
        return None

    def heartbeat(self, *, streaming: bool, note: str = "") -> bytes:
        """Return bytes that keep a silent connection open and mean nothing to the client.

        In a stream they may be written where ``Scanner.at_boundary`` holds, in a non-streaming
        response only before its first byte: blanks before JSON are JSON. ``note`` is shown where
        the dialect has comments.
        """
        return sse_comment(note) if streaming else b" "

    @abstractmethod
    def scanner(self) -> Scanner:
        """Make a scanner for one streamed response."""

    @abstractmethod
    def body(self) -> Body:
        """Make a reader for one non-streaming response."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


def error_object(error: GatewayError) -> dict[str, str | None]:
    """Return OpenAI's ``error`` object, the same on every ``/v1`` route but ``/v1/messages``."""
    return {
        "message": encodable(error.message),
        "type": error.type,
        "param": error.param and encodable(error.param),
        "code": error.code,
    }
