"""``/api/chat``, ``/api/generate``, ``/api/embed``, ``/api/embeddings``: Ollama's own dialect."""

from typing import Final

import msgspec
from msgspec import Raw, Struct

from gateway.dialects.body import (
    NOTHING,
    UNKNOWN_TIMINGS,
    UNREADABLE,
    Body,
    BodyFindings,
    Timings,
    Usage,
    decode,
    encodable,
    encode,
    failure_text,
    filled,
    json_tail,
    seconds,
    token_count,
)
from gateway.dialects.dialect import Dialect
from gateway.dialects.framing import NDJSON_TYPE, LineScanner, Scanner
from gateway.errors import GatewayError

# A line with the first end is not the final one. A line of `chat` with the second end, and none of
# the third, has a message whose last text is not empty. Inside a text every quote has a backslash
# before it, so no text can look like these ends.
_NOT_DONE: Final = b',"done":false}'
_CONTENT_END: Final = b'"},"done":false}'
_EMPTY_ENDS: Final = (b'""},"done":false}', b'"role":"assistant"},"done":false}')


class _Message(Struct):
    content: Raw = NOTHING
    thinking: Raw = NOTHING
    tool_calls: Raw = NOTHING


class _Reply(Struct):
    """A line of a stream, a complete response, or the body of an error."""

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


_reply: Final = msgspec.json.Decoder(_Reply)
_message: Final = msgspec.json.Decoder(_Message)


class Ollama(Dialect):
    __slots__ = ()

    name = "ollama"
    stream_type = NDJSON_TYPE

    def streams(self, stream: bytes | None) -> bool:
        """Ollama's own API streams unless it is told not to."""
        return stream is None or stream.strip() in {b"true", b"null"}

    def error_body(self, error: GatewayError, request_id: str) -> bytes:  # noqa: ARG002 - a header has it
        return encode({"error": encodable(error.message)})

    def late_error(self, error: GatewayError, request_id: str) -> bytes:
        return self.error_body(error, request_id) + b"\n"

    def complete_in_stream(self, body: bytes) -> bytes | None:
        """Ollama sends one JSON object when it has loaded a model, also where a stream was wanted.

        As a line it is the stream's final one.
        """
        return body.rstrip(b"\n") + b"\n"

    def heartbeat(self, *, streaming: bool, note: str = "") -> bytes:  # noqa: ARG002 - JSON has no comments
        """A space, in a stream as the beginning of the next line: clients fail on empty lines."""
        return b" "

    def scanner(self) -> Scanner:
        return LineScanner(_read_line, _read_line_tail)

    def body(self) -> Body:
        return Body(read=_read_document, read_tail=_read_tail)


def _read_line(scanner: Scanner, line: bytes) -> None:
    # (1) Text and nothing else, recognised without decoding: nearly every line of a stream. The
    # text of `generate` is under "response"; anything unusual goes on to (2).
    if line.endswith(_NOT_DONE) and b'"error"' not in line:
        if b'"response":"' in line:
            plain = b'"response":""' not in line
        else:
            plain = line.endswith(_CONTENT_END) and not line.endswith(_EMPTY_ENDS)
        if plain:
            scanner.content_events += 1
            return
    # (2) Everything else.
    reply = decode(_reply, line)
    if reply is None:
        return
    message = decode(_message, reply.message) or _Message()
    texts = (
        *(message.content, message.thinking, message.tool_calls),
        *(reply.response, reply.thinking, reply.tool_calls),
    )
    scanner.content_events += any(map(filled, texts))
    scanner.failure = scanner.failure or failure_text(reply.error)
    # An error line ends a stream too: it is Ollama's own word for a broken one, at status 200.
    if bytes(reply.done) == b"true" or filled(reply.error):
        _read_final(scanner, reply)


def _read_line_tail(scanner: Scanner, tail: bytes) -> None:
    """Read an oversized line: the last one of ``generate`` has the context as numbers."""
    reply = _last_fields(tail)
    if reply is not None and bytes(reply.done) != b"false":
        _read_final(scanner, reply)


def _read_final(scanner: Scanner, reply: _Reply) -> None:
    scanner.complete = True
    scanner.timings = _timings_of(reply)
    scanner.report(_usage_of(reply))


def _last_fields(tail: bytes) -> _Reply | None:
    """Return what follows the text or the context. Only a line that is done has durations."""
    return decode(_reply, json_tail(tail, b"done")) or decode(
        _reply, json_tail(tail, b"total_duration")
    )


def _read_document(document: bytes) -> BodyFindings:
    reply = decode(_reply, document)
    return UNREADABLE if reply is None else _read_reply(reply)


def _read_tail(tail: bytes) -> BodyFindings:
    reply = _last_fields(tail)
    return UNREADABLE if reply is None else _read_reply(reply)


def _read_reply(reply: _Reply) -> BodyFindings:
    return BodyFindings(
        usage=_usage_of(reply),
        incomplete=bytes(reply.done) == b"false",
        failure=failure_text(reply.error),
        timings=_timings_of(reply),
    )


def _usage_of(reply: _Reply) -> Usage:
    return Usage(token_count(reply.prompt_eval_count), token_count(reply.eval_count))


def _timings_of(reply: _Reply) -> Timings | None:
    timings = Timings(
        total_duration=seconds(reply.total_duration),
        load_duration=seconds(reply.load_duration),
        prompt_eval_count=token_count(reply.prompt_eval_count),
        prompt_eval_duration=seconds(reply.prompt_eval_duration),
        eval_count=token_count(reply.eval_count),
        eval_duration=seconds(reply.eval_duration),
    )
    return None if timings == UNKNOWN_TIMINGS else timings
