"""Reading Ollama's JSON without ever failing: what cannot be read is None.

Only the fields that a verdict needs are decoded, each on its own, so that a field of another type
in the next version of Ollama costs that field and not the verdict.
"""

from typing import TypeVar

import msgspec
from msgspec import Raw

from gateway.dialects.dialect import Usage

MAX_FAILURE_CHARS = 300

T = TypeVar("T")

NOTHING = Raw(b"")
"""Of a field that is not there."""

_EMPTY = frozenset({b"", b'""', b"null", b"[]", b"{}"})
_NS_PER_SECOND = 1e9
_MOST_TOKENS = 1_000_000_000_000
"""Of one answer; more digits than that nobody has counted, and sums of them overflow."""


class _Detail(msgspec.Struct):
    message: str


class _Counts(msgspec.Struct):
    """Under OpenAI's older names, or its newer ones, which are Anthropic's too."""

    prompt_tokens: Raw = NOTHING
    completion_tokens: Raw = NOTHING
    input_tokens: Raw = NOTHING
    output_tokens: Raw = NOTHING


_detail = msgspec.json.Decoder(_Detail)
_counts = msgspec.json.Decoder(_Counts)
_text = msgspec.json.Decoder(str)
_count = msgspec.json.Decoder(int)
_number = msgspec.json.Decoder(float)


def decode(decoder: msgspec.json.Decoder[T], document: bytes | Raw) -> T | None:
    """The document, if it is JSON of the decoder's type and nothing follows it."""
    try:
        return decoder.decode(document)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, another type; nested too deeply
        return None


def filled(value: Raw) -> bool:
    """The value is there, and is no null and no empty string, list or object."""
    return bytes(value) not in _EMPTY


def tokens(value: Raw) -> int | None:
    """A count of tokens. Ollama writes 0 where it does not know, so that 0 is nothing."""
    count = decode(_count, value)
    return count if count is not None and 0 < count <= _MOST_TOKENS else None


def usage_of(usage: Raw) -> Usage:
    """What stands under ``usage`` on every ``/v1`` route."""
    counts = decode(_counts, usage) or _Counts()
    return Usage(
        tokens(counts.prompt_tokens) or tokens(counts.input_tokens),
        tokens(counts.completion_tokens) or tokens(counts.output_tokens),
    )


def lost_count(usage: Raw) -> bool:
    """Ollama reports that no token came out, as it does of an answer that it gave up on."""
    counts = decode(_counts, usage) or _Counts()
    came_out = (counts.completion_tokens, counts.output_tokens)
    return any(map(filled, came_out)) and not any(map(tokens, came_out))


def seconds(value: Raw) -> float | None:
    """A duration, which Ollama writes in nanoseconds."""
    nanoseconds = decode(_number, value)
    return None if nanoseconds is None else nanoseconds / _NS_PER_SECOND


def failure_text(error: Raw) -> str | None:
    """The words of an ``error`` field, which is ``{"message": …}``, or a text on ``/api``."""
    if not filled(error):
        return None
    detail = decode(_detail, error)
    text = detail.message if detail is not None else decode(_text, error)
    if text is None:
        text = bytes(error).decode("utf-8", "replace")
    return text[:MAX_FAILURE_CHARS]


def printable(text: str) -> str:
    """The text, encodable: a name that a caller sent may hold half a surrogate pair."""
    return text.encode("utf-8", "replace").decode()


def encode(value: object) -> bytes:
    """JSON of our own, in one line: a control character in a text is escaped."""
    return msgspec.json.encode(value)


def rest_of_object(tail: bytes, key: bytes, *, within: bytes = b"{") -> bytes:
    """The end of a long JSON document, from its last ``key`` on, as a document of its own.

    ``within`` opens what the key stands in. The result is only JSON if the key stood at just that
    depth: an unescaped quote before a name can only open a string, and every bracket opened since
    must be closed, with none left over. So what decodes is certain, and the rest is unknown.
    """
    start = tail.rfind(b'"' + key + b'":')
    return within + tail[start:] if start > 0 and tail[start - 1] in b"{," else b""
