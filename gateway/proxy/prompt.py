"""How long a prompt is, as far as its bytes tell: pure.

What is counted is text as the model gets it: in UTF-8, without the JSON around it and without the
escapes in it. Pictures are not, for nobody can tell from their bytes how many tokens they become.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec
from msgspec import Raw, Struct

from gateway.proxy.fields import Fields

MESSAGE_BYTES: Final = 16
"""Bytes of text that a chat template puts around each message, or about as many tokens as that."""

_EMBEDS: Final = frozenset({"/v1/embeddings", "/api/embed", "/api/embeddings"})
_CUTS_UNLESS_TOLD: Final = frozenset({"/api/chat", "/api/generate", "/api/embed"})

_TEXTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
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

_MOST_OBJECTS: Final = 20_000
"""Messages and parts of one body that are taken apart; each costs about 150 bytes meanwhile."""

_MOST_READ: Final = 2 * 1024 * 1024
"""Bytes of a list of texts that is taken apart, which may hold nothing but empty ones; and of JSON
that is written anew."""

_DEEPEST: Final = 3
_LARGEST_CONTEXT: Final = 100_000_000

_NOTHING: Final = Raw(b"")
_EMPTY: Final = frozenset({b"", b"null", b'""', b"[]", b"{}"})
_TEXT_TYPES: Final = frozenset(
    {
        *("text", "input_text", "output_text", "message"),
        *("tool_use", "tool_result", "function_call", "function_call_output"),
    }
)
_THOUGHT_TYPES: Final = frozenset({"thinking", "redacted_thinking", "reasoning"})
"""What the model thought before, which templates leave out."""


class _Item(Struct):
    """A message, or a part of one, in any dialect."""

    type: Raw = _NOTHING
    content: Raw = _NOTHING
    text: Raw = _NOTHING
    arguments: Raw = _NOTHING
    output: Raw = _NOTHING
    input: Raw = _NOTHING
    tool_calls: Raw = _NOTHING
    images: Raw = _NOTHING


_items: Final = msgspec.json.Decoder(list[_Item])
_texts: Final = msgspec.json.Decoder(list[str])
_word: Final = msgspec.json.Decoder(str)
_options: Final = msgspec.json.Decoder(dict[str, Raw])
_number: Final = msgspec.json.Decoder(int)

_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)


class Prompt(Struct, frozen=True, kw_only=True):
    """What is known of a prompt before any model has read it.

    ``text_bytes`` are the bytes of its text, ``longest_bytes`` those of the longest of its
    ``inputs``: the texts of an embedding are each cut on their own. ``counted``: that is all of it;
    else there is more, a picture say. ``turns`` are its messages, of which Ollama leaves out the
    oldest first. ``num_ctx`` is the context that the call itself asks for, ``truncate`` what it
    says about being cut; None, it says nothing.
    """

    text_bytes: int = 0
    longest_bytes: int = 0
    inputs: int = 1
    turns: int = 1
    counted: bool = False
    embeds: bool = False
    num_ctx: int | None = None
    truncate: bool | None = None


UNKNOWN: Final = Prompt()


def prompt_of(fields: Fields, path: str, *, objects: int) -> Prompt:
    """The prompt of a body for Ollama's ``path``; ``objects``: at most so many are in the body.

    What cannot be read is not counted: whether it is wrong is Ollama's to say.
    """
    tally = _Tally(whole=objects <= _MOST_OBJECTS)
    for name in _TEXTS.get(path, ()):
        tally.add(fields.get(name, _NOTHING))
    if path in _TEXTS and path not in _EMBEDS:
        tally.add_json(fields.get("tools", _NOTHING))
    for name in ("images", "context"):
        tally.whole = tally.whole and not _filled(fields.get(name, _NOTHING))
    native = path in _CUTS_UNLESS_TOLD
    return Prompt(
        text_bytes=tally.size,
        longest_bytes=tally.size if tally.longest is None else tally.longest,
        inputs=tally.inputs,
        turns=max(1, tally.turns),
        counted=tally.whole,
        embeds=path in _EMBEDS,
        num_ctx=_num_ctx(fields.get("options", _NOTHING)) if path.startswith("/api/") else None,
        truncate=_flag(fields.get("truncate", _NOTHING)) if native else None,
    )


def refuses_to_be_cut(fields: Fields, path: str) -> Fields:
    """``fields`` with ``"truncate": false``, where Ollama knows it and the caller says nothing."""
    if path not in _CUTS_UNLESS_TOLD or _flag(fields.get("truncate", _NOTHING)) is not None:
        return fields
    return {**fields, "truncate": Raw(b"false")}


def most_objects(data: bytes | bytearray) -> int:
    """How many objects a body can hold. One in a text shows a backslash before what follows it."""
    return data.count(b"{") - data.count(b"{\\")


class _Tally:
    """Adds up. All mutable state: what was counted so far, and whether that is everything."""

    def __init__(self, *, whole: bool) -> None:
        self.whole = whole
        self.size = 0
        self.turns = 0
        self.inputs = 1
        self.longest: int | None = None
        self._readable = whole

    def add(self, raw: Raw) -> None:
        """A text, a list of texts, or a list of messages."""
        match _first(raw):
            case b"[":
                self._add_list(raw)
            case b'"':
                self.size += text_bytes(raw)
            case b"":
                pass
            case _:
                self.whole = self.whole and not _filled(raw)

    def add_json(self, raw: Raw) -> None:
        """What reaches the model as JSON: in one line, however the caller wrote it."""
        if not _filled(raw):
            return
        size = json_bytes(raw)
        self.whole = self.whole and size is not None
        self.size += size or 0

    def _add_list(self, raw: Raw) -> None:
        if not self._readable:
            return
        try:
            items = _items.decode(raw)
        except _UNREADABLE:
            self._add_texts(raw)
            return
        self.turns += len(items)
        for item in items:
            self.size += MESSAGE_BYTES
            self._add_item(item, depth=0)

    def _add_texts(self, raw: Raw) -> None:
        if not _is_short(raw):
            self.whole = False
            return
        try:
            texts = _texts.decode(raw)
        except _UNREADABLE:
            self.whole = False
            return
        self.inputs = max(1, len(texts))
        self.longest = _utf8(max(texts, key=len, default=""))
        self.size += _utf8("".join(texts))

    def _add_item(self, item: _Item, *, depth: int) -> None:
        kind = _text(item.type)
        if kind in _THOUGHT_TYPES:
            return
        if kind and kind not in _TEXT_TYPES:
            self.whole = False
            return
        self.whole = self.whole and not _filled(item.images)
        if item.tool_calls is not _NOTHING:
            self.add_json(item.tool_calls)
        for raw in (item.content, item.text, item.arguments, item.output, item.input):
            if raw is _NOTHING:
                continue
            match _first(raw):
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
            parts = _items.decode(raw) if depth < _DEEPEST else None
        except _UNREADABLE:
            parts = None
        if parts is None:
            self.whole = False
            return
        for part in parts:
            self._add_item(part, depth=depth + 1)


def text_bytes(raw: Raw) -> int:
    """Bytes in UTF-8 of a JSON text, give or take: an escape by a number counts as two."""
    return max(0, _without_escapes(bytes(raw)) - 2)


def json_bytes(raw: Raw) -> int | None:
    """Bytes of a JSON value in one line, its texts as in ``text_bytes``; None if it is too long."""
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
    return memoryview(raw).nbytes <= _MOST_READ


def _utf8(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _first(raw: Raw) -> bytes:
    """The first byte, which tells what it is."""
    return bytes(memoryview(raw)[:16]).lstrip()[:1]


def _filled(raw: Raw) -> bool:
    if raw is _NOTHING:
        return False
    view = memoryview(raw)
    return view.nbytes > 4 or bytes(view) not in _EMPTY


def _text(raw: Raw) -> str:
    if raw is _NOTHING:
        return ""
    try:
        return _word.decode(raw)
    except _UNREADABLE:
        return ""


def _flag(raw: Raw) -> bool | None:
    return {b"true": True, b"false": False}.get(bytes(memoryview(raw)[:5]).strip())


def _num_ctx(raw: Raw) -> int | None:
    if not _is_short(raw):
        return None
    try:
        asked = [value for key, value in _options.decode(raw).items() if key == "num_ctx"]
        number = _number.decode(asked[0]) if asked else 0
    except _UNREADABLE:
        return None
    return number if 0 < number <= _LARGEST_CONTEXT else None
