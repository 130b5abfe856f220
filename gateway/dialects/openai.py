"""``/v1/chat/completions``, ``/v1/completions`` and ``/v1/embeddings``: OpenAI's dialect."""

from typing import Final

import msgspec
from msgspec import Raw, Struct

from gateway.dialects.body import (
    NOTHING,
    UNREADABLE,
    Body,
    BodyFindings,
    decode,
    failure_text,
    filled,
    read_usage_tail,
    usage_of,
)
from gateway.dialects.dialect import Dialect
from gateway.dialects.framing import EventScanner, Scanner
from gateway.errors import GatewayError

_DONE: Final = b"[DONE]"
"""The data of the final event, exactly. A chunk whose text is "[DONE]" is JSON, never this."""

# A chunk with this end, and none of those, has a delta whose last text is not empty: a content
# event with nothing else worth decoding. Inside a text every quote has a backslash before it, so no
# text can look like these ends.
_CONTENT_END: Final = b'"},"finish_reason":null}]}'
_EMPTY_ENDS: Final = (
    b'""},"finish_reason":null}]}',
    b'"role":"assistant"},"finish_reason":null}]}',
)


class _Delta(Struct):
    content: Raw = NOTHING
    reasoning: Raw = NOTHING
    tool_calls: Raw = NOTHING


class _Choice(Struct):
    delta: Raw = NOTHING
    text: Raw = NOTHING
    finish_reason: Raw = NOTHING


class _Reply(Struct):
    """A chunk of a stream, a complete response, or the body of an error."""

    choices: Raw = NOTHING
    usage: Raw = NOTHING
    error: Raw = NOTHING


_reply: Final = msgspec.json.Decoder(_Reply)
_choices: Final = msgspec.json.Decoder(list[_Choice])
_delta: Final = msgspec.json.Decoder(_Delta)


class OpenAi(Dialect):
    __slots__ = ()

    name = "openai"

    def late_error(self, error: GatewayError, request_id: str) -> bytes:
        return b"data: " + self.error_body(error, request_id) + b"\n\n"

    def scanner(self) -> Scanner:
        return EventScanner(_read_event)

    def body(self) -> Body:
        return Body(read=_read_document, read_tail=read_usage_tail)


def _read_event(scanner: Scanner, _name: bytes, data: bytes) -> None:
    # (1) The final event.
    if data == _DONE:
        scanner.complete = True
        return
    # (2) Text and nothing else, recognised without decoding: nearly every event of a stream.
    if (
        data.endswith(_CONTENT_END)
        and not data.endswith(_EMPTY_ENDS)
        and b'"usage"' not in data
        and b'"error"' not in data
    ):
        scanner.content_events += 1
        return
    # (3) Everything else: role, tool calls, the finish reason, usage, an error.
    chunk = decode(_reply, data)
    if chunk is None:
        return
    scanner.failure = scanner.failure or failure_text(chunk.error)
    scanner.report(usage_of(chunk.usage))
    for choice in decode(_choices, chunk.choices) or ():
        delta = decode(_delta, choice.delta) or _Delta()
        if any(map(filled, (choice.text, delta.content, delta.reasoning, delta.tool_calls))):
            scanner.content_events += 1
            break


def _read_document(document: bytes) -> BodyFindings:
    reply = decode(_reply, document)
    if reply is None:
        return UNREADABLE
    choices = decode(_choices, reply.choices) or ()
    return BodyFindings(
        usage=usage_of(reply.usage),
        # Ollama leaves the reason out when it gives up, e.g. at its repeat limit.
        incomplete=any(not filled(choice.finish_reason) for choice in choices),
        failure=failure_text(reply.error),
    )
