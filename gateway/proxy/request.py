"""One inference request: from the bytes of a body to what goes to Ollama. Pure.

Only the top level of the body is parsed; every value stays the bytes that the client sent. Ollama
matches keys without regard to case (by Unicode folding), takes the last of duplicate keys and
ignores what follows the first JSON value. Two readings of one body are how a gateway is fooled: a
body that could be read in two ways is refused, and what goes to Ollama is rebuilt from what was
read here.

A key uses models, it does not run the host, and nothing leaves the machine, unless the key's policy
allows it.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Final, TypeAlias, TypeVar

import msgspec
from msgspec import Raw, Struct

from gateway.auth.keys import Principal
from gateway.dialects import Dialect
from gateway.errors import CloudNotAllowed, InvalidRequestBody, TuningNotAllowed
from gateway.models.listing import Model
from gateway.proxy.prompt import UNKNOWN, Prompt, disable_truncation, max_object_count, measure

T = TypeVar("T")

Fields: TypeAlias = dict[str, Raw]

READ_FIELDS: Final = frozenset(
    {
        "model",
        "name",
        "stream",
        "keep_alive",
        "options",
        "tools",
        "prompt",
        "messages",
        "input",
        "truncate",
        "verbose",
    }
)
"""Every top-level field by which the gateway decides anything."""

MAX_FIELDS: Final = 256
"""Fields of one body. The longest list of parameters that any route knows has some forty."""

MAX_COLONS: Final = 500_000
"""Colons in one body, in texts and between keys and values alike.

Parsing a field costs about 200 bytes and half a microsecond, during which no other request is
served: 32 MiB of nothing but short fields would cost 600 MB and two seconds.
"""

RELOADING_OPTIONS: Final = frozenset(
    {"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"}
)
"""Options of Ollama's runner: another value of one of them reloads the model."""

_MAX_DECODED_BYTES: Final = 2 * 1024 * 1024
"""Bytes of ``tools`` or ``options``, which are decoded. 32 MiB of nothing but small objects would
become a gigabyte, and no other request would be served meanwhile."""

_PROMPT_FIELDS: Final = {
    "/api/generate": "prompt",
    "/api/chat": "messages",
    "/api/embed": "input",
    "/api/embeddings": "prompt",
}
_EMPTY: Final = re.compile(rb'\s*(?:null|""|\[\s*\])\s*')
_BOOLEANS: Final = (b"true", b"false", b"null")

_fields: Final = msgspec.json.Decoder(Fields)
_any: Final = msgspec.json.Decoder()
_options: Final = msgspec.json.Decoder(dict[str, Raw] | None)
_tools: Final = msgspec.json.Decoder(list[dict[str, Raw] | None] | None)

_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Fingerprint:
    """Identifies the attempts of one request: equal exactly if key, path and body are equal.

    A large body is not read completely unless two requests look alike: ``hash`` looks at its
    length and last bytes, ``==`` compares the rest only where these agree. ``digest`` reads all of
    it, for those who remember a request that has ended.
    """

    __slots__ = ("_body", "_digest", "_hash", "_key", "_path")

    def __init__(self, key: str, path: str, body: bytes) -> None:
        self._key = key
        self._path = path
        self._body = body
        # The end differs most often: requests begin with the same system prompt.
        self._hash = hash((key, path, len(body), body[-1024:]))
        self._digest = b""

    def __repr__(self) -> str:
        return f"<Fingerprint {self._key} {self._path}, {len(self._body)} bytes>"

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Fingerprint):
            return NotImplemented
        return (
            self._hash == other._hash
            and self._key == other._key
            and self._path == other._path
            and self._body == other._body
        )

    def digest(self) -> bytes:
        """Return a digest that is the same exactly for equal fingerprints.

        It takes 24 ms for a body of 32 MiB, so it is computed at most once, and only after
        ``hash`` has matched or the request has failed.
        """
        if not self._digest:
            digest = hashlib.sha256(f"{self._key}\n{self._path}\n".encode())
            digest.update(self._body)
            self._digest = digest.digest()
        return self._digest


class InferenceRequest(Struct, frozen=True, kw_only=True):
    """One inference request, as it is queued and sent to Ollama.

    Args:
        path: Ollama's own path, a constant of the route table.
        dialect: how requests and responses of this path look.
        body: what goes to Ollama, built here.
        fingerprint: the same for the attempts of one request.
        prompt: how long its prompt is.
        client_timeout: seconds that the client declares.
        extended: heartbeats restart the client's timeout, so it is no deadline.
    """

    request_id: str
    principal: Principal
    path: str
    dialect: Dialect
    model: Model
    streaming: bool
    body: bytes
    fingerprint: Fingerprint
    prompt: Prompt = UNKNOWN
    client_timeout: float | None = None
    extended: bool = False


class ParsedRequest(Struct, frozen=True):
    """What a body asks for, before the model that its name means is known.

    ``fields`` may go to Ollama; ``dropped`` names what the key's policy removed.
    """

    fields: Fields
    model: str
    streaming: bool
    dropped: tuple[str, ...]
    prompt: Prompt

    def body_for(self, canonical: str) -> bytes:
        """Build the body that goes to Ollama, for the model with this canonical name.

        The name stays as the client wrote it, for Ollama repeats it in its response. A spelling
        that differs by more than case or a missing default tag is replaced, so that Ollama cannot
        read another model out of it than the gateway did.
        """
        sent = self.model.lower()
        if sent in (canonical.lower(), canonical.lower().removesuffix(":latest")):
            return build(self.fields)
        return build({**self.fields, "model": Raw(msgspec.json.encode(canonical))})


def parse_request(
    data: bytes | bytearray,
    *,
    path: str,
    dialect: Dialect,
    principal: Principal,
    can_stream: bool = True,
    forbid_truncation: bool = False,
) -> ParsedRequest:
    """Parse a body for Ollama's ``path`` and apply the policy of the key.

    Args:
        can_stream: whether this path streams at all.
        forbid_truncation: tell Ollama not to truncate the prompt, where it knows how and the
            client does not say anything about it.

    Raises:
        InvalidRequestBody: not one JSON object that can be read in one way only.
        TuningNotAllowed: a native request without a prompt, which loads or unloads a model.
        CloudNotAllowed: a tool with which Ollama would query ollama.com on its owner's account.
    """
    fields = parse(data)
    model = model_name(fields, "model")
    streaming = _streams(fields, dialect) and can_stream

    # Policy: web search leaves the machine, and keep_alive and some options tune the host.
    dropped: tuple[str, ...] = ()
    if "tools" in fields and not principal.may_reach_cloud("web_search"):
        fields = _without_web_search(fields)
    if not principal.tune:
        prompt_field = _PROMPT_FIELDS.get(path)
        if prompt_field is not None and _is_empty(fields.get(prompt_field)):
            raise TuningNotAllowed(
                f"A request without `{prompt_field}` loads or unloads the model, which this key is "
                f"not allowed to do. Send `{prompt_field}`; models are loaded when they are used.",
                param=prompt_field,
            )
        fields, dropped = _without_tuning(fields)

    if forbid_truncation:
        fields = disable_truncation(fields, path)
    prompt = measure(fields, path, max_objects=max_object_count(data))
    return ParsedRequest(fields, model, streaming, dropped, prompt)


# The top level.


def parse(data: bytes | bytearray) -> Fields:
    """Parse the top level of a JSON object.

    Raises:
        InvalidRequestBody: not one JSON object and nothing else, too deeply nested, of too many
            fields, or with a key that Ollama would take for one of ``READ_FIELDS``.
    """
    if not data:
        raise InvalidRequestBody("The request has no body. Send a JSON object.")
    if data.count(b":") > MAX_COLONS:
        raise InvalidRequestBody(
            f"The body has more than {MAX_COLONS} colons, which is more than any model can read. "
            "Send it in parts."
        )
    try:
        fields = _fields.decode(data)
    except RecursionError:
        raise InvalidRequestBody("The JSON body is nested too deeply.") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequestBody(f"The body is not one JSON object: {_reason(error)}.") from None
    if len(fields) > MAX_FIELDS:
        raise InvalidRequestBody(f"The body has more than {MAX_FIELDS} fields.")
    for key in fields:
        if key in READ_FIELDS:
            continue
        folded = key.casefold()
        if folded in READ_FIELDS:
            raise InvalidRequestBody(
                f"A field is spelt like `{folded}` but for case. Ollama would take it for "
                f"`{folded}`; write it as `{folded}`, once.",
                param=folded,
            )
        if folded.startswith("_debug"):
            raise InvalidRequestBody("Fields that begin with `_debug` are not accepted.")
    return fields


def build(fields: Mapping[str, Raw]) -> bytes:
    """Build the body that goes to Ollama: each key once, each value as the client sent it."""
    # Joined by hand: an encoder that grows its buffer holds a large body twice.
    parts: list[bytes | memoryview] = []
    for key, raw in fields.items():
        parts += (b"," if parts else b"{", msgspec.json.encode(key), b":", memoryview(raw))
    return b"".join((*parts, b"}")) if parts else b"{}"


def model_name(fields: Fields, *keys: str) -> str:
    """Return the value of the first of ``keys`` that is there, a non-empty text.

    Raises:
        InvalidRequestBody: none of them is there, or the first is something else.
    """
    for key in keys:
        if key in fields:
            value = value_of(fields, key)
            if isinstance(value, str) and value.strip():
                return value
            raise InvalidRequestBody(f"`{key}` must be the name of a model.", param=key)
    raise InvalidRequestBody(
        f"`{keys[0]}` is missing. Name the model to use; GET /v1/models lists them.", param=keys[0]
    )


def value_of(fields: Fields, key: str) -> object:
    """Decode the value of one field; None if it is absent.

    Raises:
        InvalidRequestBody: the value is broken JSON in a way that the top level did not show.
    """
    raw = fields.get(key)
    if raw is None:
        return None
    try:
        return _any.decode(raw)
    except RecursionError:
        raise InvalidRequestBody(f"`{key}` is nested too deeply.", param=key) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequestBody(
            f"`{key}` is not valid JSON: {_reason(error)}.", param=key
        ) from None


def _streams(fields: Fields, dialect: Dialect) -> bool:
    raw = fields.get("stream")
    if raw is None:
        return dialect.streams(None)
    value = bytes(memoryview(raw)[:6]).strip()
    if value not in _BOOLEANS:
        raise InvalidRequestBody("`stream` must be true or false.", param="stream")
    return dialect.streams(value)


def _reason(error: Exception) -> str:
    """Return the decoder's message: positions and types, never what the client wrote."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return str(error).rstrip(".").removeprefix("JSON is malformed: ")


# The policy of a key.


def _without_web_search(fields: Fields) -> Fields:
    """Refuse web search tools, and rebuild ``tools`` from what was read.

    In ``{"type": "web_search", "type": null}`` this parser sees null, but to Go null changes
    nothing: Ollama must be given each key once.
    """
    tools = _decode(_tools, fields["tools"], "tools", "a list of objects")
    for tool in tools or ():
        for key, kind in (tool or {}).items():
            # Ollama's decoder matches `TYPE` too, so every spelling of the key is looked at.
            if key.casefold() == "type" and _text(kind).strip().casefold().startswith("web_search"):
                raise CloudNotAllowed(
                    "Web search tools make Ollama query ollama.com as the owner of this machine, "
                    "which this key is not allowed to do. Leave the tool out, or ask the owner for "
                    "a key made with `--cloud web_search`.",
                    param="tools",
                )
    return {**fields, "tools": Raw(msgspec.json.encode(tools))}


def _is_empty(raw: Raw | None) -> bool:
    """Return True if Ollama would see no prompt here: absent, null, an empty text or list.

    A prompt may be megabytes of images, or of brackets: it is matched, never decoded.
    """
    return raw is None or _EMPTY.fullmatch(memoryview(raw)) is not None


def _without_tuning(fields: Fields) -> tuple[Fields, tuple[str, ...]]:
    """Remove what tunes the host; return what is left and the names of what was removed."""
    dropped = []
    kept = fields
    if "keep_alive" in fields:
        kept = {key: value for key, value in kept.items() if key != "keep_alive"}
        dropped.append("keep_alive")
    raw = fields.get("options")
    options = None if raw is None else _decode(_options, raw, "options", "an object")
    reloading = [key for key in options or () if key.casefold() in RELOADING_OPTIONS]
    if options and reloading:
        left = {key: value for key, value in options.items() if key not in reloading}
        kept = {**kept, "options": Raw(msgspec.json.encode(left))}
        # Each option once, in whatever spellings it came: a response header lists these.
        dropped.extend(dict.fromkeys(f"options.{key.casefold()}" for key in reloading))
    return kept, tuple(dropped)


def _decode(decoder: msgspec.json.Decoder[T], raw: Raw, key: str, shape: str) -> T:
    if memoryview(raw).nbytes > _MAX_DECODED_BYTES:
        raise InvalidRequestBody(f"`{key}` is longer than {_MAX_DECODED_BYTES} bytes.", param=key)
    try:
        return decoder.decode(raw)
    except _UNREADABLE:
        raise InvalidRequestBody(f"`{key}` must be {shape}.", param=key) from None


def _text(raw: Raw) -> str:
    try:
        value = _any.decode(raw)
    except _UNREADABLE:
        # Ollama would repair what is not UTF-8, and then read it.
        raise InvalidRequestBody("The `type` of a tool must be a text.", param="tools") from None
    return value if isinstance(value, str) else ""
