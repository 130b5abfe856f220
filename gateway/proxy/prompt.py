"""How long a prompt is, as far as its bytes show: pure.

Counted is the text as the model gets it: in UTF-8, without the JSON around it and without escapes.
Images are not counted: their bytes do not show how many tokens they become.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec
from msgspec import Raw, Struct

MESSAGE_BYTES: Final = 16
"""Bytes of text, about as many as tokens, that a chat template puts around each message."""

_EMBEDDING_PATHS: Final = frozenset({"/v1/embeddings", "/api/embed", "/api/embeddings"})
_PATHS_WITH_TRUNCATE: Final = frozenset({"/api/chat", "/api/generate", "/api/embed"})
"""Paths on which Ollama truncates unless the body says ``"truncate": false``."""

_TEXT_FIELDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "/v1/chat/completions": ("messages",),
        "/v1/completions": ("prompt", "suffix"),
        "/v1/responses": ("instructions", "input"),
        "/v1/messages": ("system", "messages"),
        "/v1/embeddings": ("input",),
        "/api/chat": ("messages",),
        "/api/generate": ("system", "prompt", "suffix"),
        "/api/embed": ("input",),
        "/api/embeddings": ("prompt",),
    }
)

_MAX_OBJECTS: Final = 20_000
"""Messages and parts of one body that are decoded; each takes about 150 bytes meanwhile."""

_MAX_DECODED_BYTES: Final = 2 * 1024 * 1024
"""Bytes of a list of texts that is decoded, which may contain nothing but empty ones; and of JSON
that is formatted anew."""

_MAX_DEPTH: Final = 3
_MAX_CONTEXT: Final = 100_000_000

_ABSENT: Final = Raw(b"")
_EMPTY: Final = frozenset({b"", b"null", b'""', b"[]", b"{}"})
_TEXT_TYPES: Final = frozenset(
    {
        *("text", "input_text", "output_text", "message"),
        *("tool_use", "tool_result", "function_call", "function_call_output"),
    }
)
_THINKING_TYPES: Final = frozenset({"thinking", "redacted_thinking", "reasoning"})
"""The model's earlier thinking, which templates leave out."""


class _Item(Struct):
    """A message, or a part of one, in any dialect."""

    type: Raw = _ABSENT
    content: Raw = _ABSENT
    text: Raw = _ABSENT
    arguments: Raw = _ABSENT
    output: Raw = _ABSENT
    input: Raw = _ABSENT
    tool_calls: Raw = _ABSENT
    images: Raw = _ABSENT


_items: Final = msgspec.json.Decoder(list[_Item])
_texts: Final = msgspec.json.Decoder(list[str])
_string: Final = msgspec.json.Decoder(str)
_options: Final = msgspec.json.Decoder(dict[str, Raw])
_number: Final = msgspec.json.Decoder(int)

_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)


class Prompt(Struct, frozen=True, kw_only=True):
    """What is known about a prompt before any model has read it.

    Args:
        text_bytes: bytes of its text.
        longest_bytes: bytes of the longest of its ``inputs``: Ollama truncates each text of an
            embedding request separately.
        inputs: number of texts to embed; 1 elsewhere.
        messages: number of messages, of which Ollama leaves out the oldest first.
        counted: ``text_bytes`` is all of it; otherwise there is more, such as an image.
        embeds: the request asks for embeddings.
        num_ctx: the context window that the request itself asks for.
        truncate: what the request says about truncation; None if nothing.
    """

    text_bytes: int = 0
    longest_bytes: int = 0
    inputs: int = 1
    messages: int = 1
    counted: bool = False
    embeds: bool = False
    num_ctx: int | None = None
    truncate: bool | None = None


UNKNOWN: Final = Prompt()


def measure(fields: Mapping[str, Raw], path: str, *, max_objects: int) -> Prompt:
    """Measure the prompt of a body for Ollama's ``path``.

    What cannot be read is not counted: Ollama decides whether it is an error.

    Args:
        fields: the top level of the body.
        path: Ollama's path.
        max_objects: upper bound for the number of JSON objects in the body.
    """
    sizer = _PromptSizer(decodable=max_objects <= _MAX_OBJECTS)
    for name in _TEXT_FIELDS.get(path, ()):
        sizer.add(fields.get(name, _ABSENT))
    embeds = path in _EMBEDDING_PATHS
    if path in _TEXT_FIELDS and not embeds:
        sizer.add_json(fields.get("tools", _ABSENT))
    for name in ("images", "context"):
        if _is_filled(fields.get(name, _ABSENT)):
            sizer.counted = False
    return Prompt(
        text_bytes=sizer.size,
        longest_bytes=sizer.size if sizer.longest is None else sizer.longest,
        inputs=sizer.inputs,
        messages=max(1, sizer.messages),
        counted=sizer.counted,
        embeds=embeds,
        num_ctx=_num_ctx(fields.get("options", _ABSENT)) if path.startswith("/api/") else None,
        truncate=(_flag(fields.get("truncate", _ABSENT)) if path in _PATHS_WITH_TRUNCATE else None),
    )


def disable_truncation(fields: dict[str, Raw], path: str) -> dict[str, Raw]:
    """Add ``"truncate": false`` where Ollama knows it and the client says nothing about it."""
    if path not in _PATHS_WITH_TRUNCATE or _flag(fields.get("truncate", _ABSENT)) is not None:
        return fields
    return {**fields, "truncate": Raw(b"false")}


def max_object_count(data: bytes | bytearray) -> int:
    """Return an upper bound for the objects in a body: braces outside of escaped JSON texts."""
    return data.count(b"{") - data.count(b"{\\")


class _PromptSizer:
    """Adds up. All mutable state: what was counted so far, and whether that is everything."""

    def __init__(self, *, decodable: bool) -> None:
        self.counted = decodable
        self.size = 0
        self.messages = 0
        self.inputs = 1
        self.longest: int | None = None
        self._decodable = decodable

    def add(self, raw: Raw) -> None:
        """Add a text, a list of texts, or a list of messages."""
        match _first_byte(raw):
            case b"[":
                self._add_list(raw)
            case b'"':
                self.size += text_bytes(raw)
            case b"":
                pass
            case _:
                self.counted = self.counted and not _is_filled(raw)

    def add_json(self, raw: Raw) -> None:
        """Add a value that reaches the model as JSON: in one line, however it was written."""
        if not _is_filled(raw):
            return
        size = json_bytes(raw)
        self.counted = self.counted and size is not None
        self.size += size or 0

    def _add_list(self, raw: Raw) -> None:
        if not self._decodable:
            return
        try:
            items = _items.decode(raw)
        except _UNREADABLE:
            self._add_texts(raw)
            return
        self.messages += len(items)
        for item in items:
            self.size += MESSAGE_BYTES
            self._add_item(item, depth=0)

    def _add_texts(self, raw: Raw) -> None:
        try:
            texts = _texts.decode(raw) if _is_short(raw) else None
        except _UNREADABLE:
            texts = None
        if texts is None:
            self.counted = False
            return
        self.inputs = max(1, len(texts))
        self.longest = _utf8_length(max(texts, key=len, default=""))
        self.size += _utf8_length("".join(texts))

    def _add_item(self, item: _Item, *, depth: int) -> None:
        kind = _text(item.type)
        if kind in _THINKING_TYPES:
            return
        if kind and kind not in _TEXT_TYPES:
            self.counted = False
            return
        if _is_filled(item.images):
            self.counted = False
        if item.tool_calls is not _ABSENT:
            self.add_json(item.tool_calls)
        for raw in (item.content, item.text, item.arguments, item.output, item.input):
            if raw is _ABSENT:
                continue
            match _first_byte(raw):
                case b'"':
                    self.size += text_bytes(raw)
                case b"[":
                    self._add_parts(raw, depth=depth)
                case b"{":
                    self.add_json(raw)
                case _:
                    pass

    def _add_parts(self, raw: Raw, *, depth: int) -> None:
        try:
            parts = _items.decode(raw) if depth < _MAX_DEPTH else None
        except _UNREADABLE:
            parts = None
        if parts is None:
            self.counted = False
            return
        for part in parts:
            self._add_item(part, depth=depth + 1)


def text_bytes(raw: Raw) -> int:
    """Return the bytes of a JSON text in UTF-8; an escape by a number counts as two."""
    return max(0, _without_escapes(bytes(raw)) - 2)


def json_bytes(raw: Raw) -> int | None:
    """Return the bytes of a JSON value in one line, texts as in ``text_bytes``.

    None if it is too long to be formatted.
    """
    try:
        written = msgspec.json.format(bytes(raw), indent=0) if _is_short(raw) else None
    except _UNREADABLE:
        written = None
    return None if written is None else _without_escapes(written)


def _without_escapes(written: bytes) -> int:
    if b"\\" not in written:
        return len(written)
    escapes = written.count(b"\\") - written.count(b"\\\\")
    numbers = written.count(b"\\u") - written.count(b"\\\\u")
    return len(written) - escapes - 3 * numbers


def _is_short(raw: Raw) -> bool:
    return memoryview(raw).nbytes <= _MAX_DECODED_BYTES


def _utf8_length(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _first_byte(raw: Raw) -> bytes:
    """Return the first byte of a value, which tells its kind."""
    return bytes(memoryview(raw)[:16]).lstrip()[:1]


def _is_filled(raw: Raw) -> bool:
    if raw is _ABSENT:
        return False
    view = memoryview(raw)
    return view.nbytes > 4 or bytes(view) not in _EMPTY


def _text(raw: Raw) -> str:
    if raw is _ABSENT:
        return ""
    try:
        return _string.decode(raw)
    except _UNREADABLE:
        return ""


def _flag(raw: Raw) -> bool | None:
    return {b"true": True, b"false": False}.get(bytes(memoryview(raw)[:5]).strip())


def _num_ctx(raw: Raw) -> int | None:
    if not _is_short(raw):
        return None
    try:
        values = [value for key, value in _options.decode(raw).items() if key == "num_ctx"]
        number = _number.decode(values[0]) if values else 0
    except _UNREADABLE:
        return None
    return number if 0 < number <= _MAX_CONTEXT else None
