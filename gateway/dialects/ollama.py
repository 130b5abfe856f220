"""``/api/chat``, ``/api/generate``, ``/api/embed``, ``/api/embeddings``: Ollama's own dialect."""

from dataclasses import dataclass

import msgspec
from msgspec import Raw

from gateway.dialects.body import UNREADABLE, Reading, WholeBody
from gateway.dialects.dialect import Body, Scanner, Timings, Usage
from gateway.dialects.ndjson import STREAM_TYPE, line_scanner
from gateway.dialects.payload import (
    NOTHING,
    decode,
    encode,
    failure_text,
    filled,
    printable,
    rest_of_object,
    seconds,
    tokens,
)
from gateway.dialects.scanner import Findings
from gateway.errors import GatewayError

# Inside a text every quote would have a backslash before it, so these stand where they seem to.
# A line with such an end is not the final one; if it is of `chat`, the last text of its message
# is not empty unless it ends like those.
_NOT_DONE = b',"done":false}'
_PIECE_END = b'"},"done":false}'
_NO_PIECE_ENDS = (b'""},"done":false}', b'"role":"assistant"},"done":false}')


class _Message(msgspec.Struct):
    content: Raw = NOTHING
    thinking: Raw = NOTHING
    tool_calls: Raw = NOTHING


class _Reply(msgspec.Struct):
    """A line of a stream, a whole answer, or the body of an error."""

    done: Raw = NOTHING
    error: Raw = NOTHING
    message: Raw = NOTHING
    response: Raw = NOTHING
    thinking: Raw = NOTHING
    tool_calls: Raw = NOTHING
    total_duration: Raw = NOTHING
    load_duration: Raw = NOTHING
    prompt_eval_count: Raw = NOTHING
    prompt_eval_duration: Raw = NOTHING
    eval_count: Raw = NOTHING
    eval_duration: Raw = NOTHING


_reply = msgspec.json.Decoder(_Reply)
_message = msgspec.json.Decoder(_Message)


@dataclass(frozen=True, slots=True)
class Native:
    name: str = "native"
    stream_type: str = STREAM_TYPE

    def streams(self, stream: bytes | None) -> bool:
        """Ollama streams here unless told not to."""
        return stream is None or stream.strip() in {b"true", b"null"}

    def error_body(self, error: GatewayError, request_id: str) -> bytes:  # noqa: ARG002  - a header's
        return encode({"error": printable(error.message)})

    def late_error(self, error: GatewayError, request_id: str) -> bytes:
        return self.error_body(error, request_id) + b"\n"

    def whole_in_stream(self, body: bytes) -> bytes | None:
        """Ollama says in one piece that a model was loaded, also to one who asked for a stream."""
        return body.rstrip(b"\n") + b"\n"

    def heartbeat(self, *, streaming: bool, note: str = "") -> bytes:  # noqa: ARG002  - no room for it
        """A space also in a stream, where it begins the next line: clients fail on empty lines."""
        return b" "

    def scanner(self) -> Scanner:
        return line_scanner(read=_read_line, read_tail=_read_line_tail)

    def body(self) -> Body:
        return WholeBody(read=_read_document, read_tail=_read_tail)


def _read_line(found: Findings, line: bytes) -> None:
    if line.endswith(_NOT_DONE) and _plainly_carries(line) and b'"error"' not in line:
        found.pieces += 1
        return
    reply = decode(_reply, line)
    if reply is None:
        return
    found.pieces += _carries(reply)
    found.failure = found.failure or failure_text(reply.error)
    if bytes(reply.done) == b"true" or filled(reply.error):
        _conclude(found, reply)


def _plainly_carries(line: bytes) -> bool:
    """Told without decoding, in nearly every line; False is not yet a no."""
    if b'"response":"' in line:
        return b'"response":""' not in line
    return line.endswith(_PIECE_END) and not line.endswith(_NO_PIECE_ENDS)


def _conclude(found: Findings, reply: _Reply) -> None:
    found.complete = True
    found.timings = _read_timings(reply)
    found.report(_read_usage(reply))


def _carries(reply: _Reply) -> bool:
    message = decode(_message, reply.message) or _Message()
    return any(
        map(
            filled,
            (
                message.content,
                message.thinking,
                message.tool_calls,
                reply.response,
                reply.thinking,
                reply.tool_calls,
            ),
        )
    )


def _read_line_tail(found: Findings, tail: bytes) -> None:
    """An overlong line: the last one of ``generate`` holds the whole context as numbers."""
    reply = _last_fields(tail)
    if reply is not None and bytes(reply.done) != b"false":
        _conclude(found, reply)


def _last_fields(tail: bytes) -> _Reply | None:
    """What follows the text or the context; only a line that is done has durations."""
    return decode(_reply, rest_of_object(tail, b"done")) or decode(
        _reply, rest_of_object(tail, b"total_duration")
    )


def _read_document(document: bytes) -> Reading:
    reply = decode(_reply, document)
    if reply is None:
        return UNREADABLE
    return _read_reply(reply)


def _read_tail(tail: bytes) -> Reading:
    reply = _last_fields(tail)
    return UNREADABLE if reply is None else _read_reply(reply)


def _read_reply(reply: _Reply) -> Reading:
    return Reading(
        usage=_read_usage(reply),
        broke_off=bytes(reply.done) == b"false",
        failure=failure_text(reply.error),
        timings=_read_timings(reply),
    )


def _read_usage(reply: _Reply) -> Usage:
    return Usage(tokens(reply.prompt_eval_count), tokens(reply.eval_count))


def _read_timings(reply: _Reply) -> Timings | None:
    timings = Timings(
        total_duration=seconds(reply.total_duration),
        load_duration=seconds(reply.load_duration),
        prompt_eval_count=tokens(reply.prompt_eval_count),
        prompt_eval_duration=seconds(reply.prompt_eval_duration),
        eval_count=tokens(reply.eval_count),
        eval_duration=seconds(reply.eval_duration),
    )
    return None if timings == Timings() else timings
