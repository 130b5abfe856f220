"""Reading Ollama's JSON: complete responses, usage, timings and errors.

Nothing here raises. Only the fields that the gateway needs are decoded, each on its own as
``msgspec.Raw``: a field that has another type in the next version of Ollama is unknown, and the
fields beside it still count.
"""

from collections.abc import Callable
from typing import Final, TypeAlias, TypeVar

import msgspec
from msgspec import Raw, Struct

MAX_DOCUMENT_BYTES: Final = 1024 * 1024
"""A response up to this size is read as one document; of a longer one only the end is read."""

TAIL_BYTES: Final = 16 * 1024
"""Bytes kept of the end of a response, or of a frame, above its limit."""

MAX_FAILURE_CHARS: Final = 300

NOTHING: Final = Raw(b"")
"""The value of a field that is not there."""

_EMPTY: Final = frozenset({b"", b'""', b"null", b"[]", b"{}"})
_NS_PER_SECOND: Final = 1e9

_MAX_TOKENS: Final = 1_000_000_000_000
"""Tokens of one response. A larger number is no count, and sums of such numbers would overflow."""

T = TypeVar("T")


class Usage(Struct, frozen=True):
    """Tokens of one response; None is unknown.

    ``counted``: Ollama reported no ``tokens_out`` (or 0, which it reports when it does not know),
    so it is the number of events with text, thinking or a tool call. Ollama mostly sends one token
    per event, but collects several while it builds a tool call: a lower bound.
    """

    tokens_in: int | None = None
    tokens_out: int | None = None
    counted: bool = False


class Timings(Struct, frozen=True):
    """The model's own account of a request to ``/api``: durations in seconds, counts in tokens."""

    total_duration: float | None = None
    load_duration: float | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: float | None = None
    eval_count: int | None = None
    eval_duration: float | None = None


UNKNOWN_USAGE: Final = Usage()
UNKNOWN_TIMINGS: Final = Timings()


class BodyFindings(Struct, frozen=True):
    """What a complete response, or the end of a long one, says.

    ``incomplete``: Ollama itself says, in an otherwise good response, that it gave up on the
    completion. ``failure`` is the message of a body that is an error.
    """

    usage: Usage = UNKNOWN_USAGE
    incomplete: bool = False
    failure: str | None = None
    timings: Timings | None = None


UNREADABLE: Final = BodyFindings()

BodyReader: TypeAlias = Callable[[bytes], BodyFindings]


class Body:
    """Reads along while a non-streaming response passes; its findings hold once all was fed.

    The document is parsed when a finding is first asked for, not while it passes.

    Args:
        read: reads a document of at most ``limit`` bytes.
        read_tail: reads the last ``TAIL_BYTES`` of a longer one. Embeddings can have 20 MB and
            more, with their usage at the very end.
        limit: in bytes.
    """

    # All mutable state: `_kept`, the document so far or only its end (`_is_tail`), and `_findings`,
    # None until they are asked for after a feed.
    __slots__ = ("_findings", "_is_tail", "_kept", "_limit", "_read", "_read_tail")

    def __init__(
        self, *, read: BodyReader, read_tail: BodyReader, limit: int = MAX_DOCUMENT_BYTES
    ) -> None:
        self._read = read
        self._read_tail = read_tail
        self._limit = limit
        self._kept = bytearray()
        self._is_tail = False
        self._findings: BodyFindings | None = None

    def __repr__(self) -> str:
        return f"<Body {len(self._kept)} bytes kept, {'its end' if self._is_tail else 'all of it'}>"

    def feed(self, data: bytes) -> None:
        self._findings = None
        kept = self._kept
        if not self._is_tail and len(kept) + len(data) > self._limit:
            self._is_tail = True
        if not self._is_tail:
            kept += data
            return
        kept += data[-TAIL_BYTES:]
        # Trim when it has doubled, not at every feed: moving the bytes costs more than they do.
        if len(kept) > 2 * TAIL_BYTES:
            del kept[:-TAIL_BYTES]

    @property
    def findings(self) -> BodyFindings:
        if self._findings is None:
            kept = bytes(self._kept)
            self._findings = (
                self._read_tail(kept[-TAIL_BYTES:]) if self._is_tail else self._read(kept)
            )
        return self._findings

    @property
    def usage(self) -> Usage:
        return self.findings.usage

    @property
    def incomplete(self) -> bool:
        return self.findings.incomplete

    @property
    def failure(self) -> str | None:
        """Ollama's own words, at most ``MAX_FAILURE_CHARS`` characters."""
        return self.findings.failure

    @property
    def timings(self) -> Timings | None:
        return self.findings.timings


# JSON, field by field.


class _ErrorDetail(Struct):
    message: str


class _Counts(Struct):
    """``usage`` under OpenAI's older names, or its newer ones, which are Anthropic's too."""

    prompt_tokens: Raw = NOTHING
    completion_tokens: Raw = NOTHING
    input_tokens: Raw = NOTHING
    output_tokens: Raw = NOTHING


class _IntegerCounts(Struct):
    """The same where all of them are integers."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class _UsageField(Struct):
    usage: Raw = NOTHING


_error_detail: Final = msgspec.json.Decoder(_ErrorDetail)
_counts: Final = msgspec.json.Decoder(_Counts)
_integer_counts: Final = msgspec.json.Decoder(_IntegerCounts)
_usage_field: Final = msgspec.json.Decoder(_UsageField)
_text: Final = msgspec.json.Decoder(str)
_integer: Final = msgspec.json.Decoder(int)
_number: Final = msgspec.json.Decoder(float)

encode: Final = msgspec.json.Encoder().encode
"""JSON on one line: a control character in a text is escaped."""


def decode(decoder: msgspec.json.Decoder[T], document: bytes | Raw) -> T | None:
    """Return the document if it is JSON of the decoder's type and nothing follows it."""
    try:
        return decoder.decode(document)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, another type; nested too deeply
        return None


def filled(value: Raw) -> bool:
    """Return True if the field is there and not null, nor an empty string, list or object."""
    return bytes(value) not in _EMPTY


def token_count(value: Raw) -> int | None:
    """Return a count of tokens. Ollama writes 0 where it does not know, so 0 is None."""
    count = decode(_integer, value)
    return count if count is not None and 0 < count <= _MAX_TOKENS else None


def usage_of(usage: Raw) -> Usage:
    """Read the ``usage`` object of any ``/v1`` route."""
    if not filled(usage):
        return UNKNOWN_USAGE
    # As it always is, by one decoding; or field by field, if a field has another type.
    counts = decode(_integer_counts, usage)
    if counts is not None:
        tokens_in = counts.prompt_tokens or counts.input_tokens
        tokens_out = counts.completion_tokens or counts.output_tokens
        if 0 <= tokens_in <= _MAX_TOKENS and 0 <= tokens_out <= _MAX_TOKENS:
            return Usage(tokens_in or None, tokens_out or None)
    fields = decode(_counts, usage) or _Counts()
    return Usage(
        token_count(fields.prompt_tokens) or token_count(fields.input_tokens),
        token_count(fields.completion_tokens) or token_count(fields.output_tokens),
    )


def zero_token_count(usage: Raw) -> bool:
    """Return True if Ollama reports that no token was generated.

    It does so for a completion that it gave up on (its repeat limit): the count is lost.
    """
    counts = decode(_counts, usage) or _Counts()
    generated = (counts.completion_tokens, counts.output_tokens)
    return any(map(filled, generated)) and not any(map(token_count, generated))


def seconds(value: Raw) -> float | None:
    """Return a duration, which Ollama writes in nanoseconds, in seconds."""
    nanoseconds = decode(_number, value)
    return None if nanoseconds is None else nanoseconds / _NS_PER_SECOND


def failure_text(error: Raw) -> str | None:
    """Return the words of an ``error`` field: ``{"message": …}`` on ``/v1``, text on ``/api``."""
    if not filled(error):
        return None
    detail = decode(_error_detail, error)
    text = detail.message if detail is not None else decode(_text, error)
    if text is None:
        text = bytes(error).decode("utf-8", "replace")
    return text[:MAX_FAILURE_CHARS]


def encodable(text: str) -> str:
    """Replace lone surrogates: a model name that a client sent may hold half a pair."""
    return text.encode("utf-8", "replace").decode()


def json_tail(tail: bytes, key: bytes, *, within: bytes = b"{") -> bytes:
    """Make a document of the end of a long JSON document, from its last ``key`` on.

    The result is JSON only if the key stood at the depth that ``within`` opens: an unescaped quote
    before a name can only open a string, and every bracket opened since must be closed with none
    left over. So what decodes is certain, and everything else is unknown.
    """
    start = tail.rfind(b'"' + key + b'":')
    return within + tail[start:] if start > 0 and tail[start - 1] in b"{," else b""


def read_usage_tail(tail: bytes) -> BodyFindings:
    """Read the end of a long ``/v1`` response, where ``usage`` is among the last fields."""
    found = decode(_usage_field, json_tail(tail, b"usage"))
    if found is None:
        return UNREADABLE
    return BodyFindings(usage=usage_of(found.usage), incomplete=zero_token_count(found.usage))
