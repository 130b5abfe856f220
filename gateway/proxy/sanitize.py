"""What a key may ask of the host: pure rules over one body.

A key uses models, it does not run the host, and nothing leaves the machine, unless the key says so.
"""

import re
from typing import TypeVar

import msgspec
from msgspec import Struct

from gateway.auth.principal import Principal
from gateway.errors import CloudNotAllowed, InvalidRequestBody, TuningNotAllowed
from gateway.proxy.fields import Fields

RELOADING_OPTIONS = frozenset(
    {"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"}
)
"""Options of Ollama's runner: another value of one of them reloads the model."""

T = TypeVar("T")

_PROMPTS = {
    "/api/generate": "prompt",
    "/api/chat": "messages",
    "/api/embed": "input",
    "/api/embeddings": "prompt",
}
_NOTHING = re.compile(rb'\s*(?:null|""|\[\s*\])\s*')
_OPTIONS = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
_TOOLS = msgspec.json.Decoder(list[dict[str, msgspec.Raw] | None] | None)
_TEXT = msgspec.json.Decoder()

_MAX_READ = 2 * 1024 * 1024
"""Bytes of a field that is taken apart. Made of nothing but small objects, 32 MiB would become a
gigabyte, and nobody else would be served meanwhile."""


class Ruled(Struct, frozen=True):
    """The fields that may go on, and the names of those that may not."""

    fields: Fields
    dropped: tuple[str, ...]


def apply(fields: Fields, principal: Principal, path: str) -> Ruled:
    """``fields`` as this key may send them to Ollama's ``path``.

    Raises:
        TuningNotAllowed: a native call without a prompt, which loads or unloads a model.
        CloudNotAllowed: a tool with which Ollama itself would query ollama.com as the owner.
        InvalidRequestBody: ``options`` or ``tools`` of a shape that Ollama would not read either,
            or far too long.
    """
    fields = _without_web_search(fields, principal)
    if principal.tune:
        return Ruled(fields, ())
    _refuse_without_prompt(fields, path)
    return _without_tuning(fields)


def _without_web_search(fields: Fields, principal: Principal) -> Fields:
    """``fields`` with its tools rebuilt from what was read.

    Of ``{"type": "web_search", "type": null}`` we see null, but to Go null changes nothing: Ollama
    must be given each key once.
    """
    raw = fields.get("tools")
    if raw is None or principal.may_reach_cloud("web_search"):
        return fields
    tools = _decoded(_TOOLS, raw, "tools", "a list of objects")
    if any(map(_searches_web, tools or ())):
        raise CloudNotAllowed(
            "Web search tools make Ollama query ollama.com as the owner of this machine, "
            "which this key may not. Leave the tool out, or ask the owner for a key made "
            "with `--cloud web_search`.",
            param="tools",
        )
    return {**fields, "tools": msgspec.Raw(msgspec.json.encode(tools))}


def _searches_web(tool: dict[str, msgspec.Raw] | None) -> bool:
    # Ollama's decoder matches `TYPE` too, so every spelling of the key is looked at.
    kinds = [value for key, value in (tool or {}).items() if key.casefold() == "type"]
    return any(_text(kind).strip().casefold().startswith("web_search") for kind in kinds)


def _refuse_without_prompt(fields: Fields, path: str) -> None:
    prompt = _PROMPTS.get(path)
    if prompt is not None and _is_empty(fields.get(prompt)):
        raise TuningNotAllowed(
            f"A call without `{prompt}` loads or unloads the model, which this key may not. "
            f"Send `{prompt}`; models are loaded when they are used.",
            param=prompt,
        )


def _is_empty(raw: msgspec.Raw | None) -> bool:
    """Whether Ollama would see nothing here: absent, null, an empty text or list.

    A prompt may be megabytes of pictures, or of brackets: it is matched, never decoded.
    """
    return raw is None or _NOTHING.fullmatch(memoryview(raw)) is not None


def _without_tuning(fields: Fields) -> Ruled:
    dropped = []
    kept = fields
    if "keep_alive" in fields:
        kept = {key: value for key, value in kept.items() if key != "keep_alive"}
        dropped.append("keep_alive")
    raw = fields.get("options")
    options = None if raw is None else _decoded(_OPTIONS, raw, "options", "an object")
    reloading = [key for key in options or () if key.casefold() in RELOADING_OPTIONS]
    if options and reloading:
        left = {key: value for key, value in options.items() if key not in reloading}
        kept = {**kept, "options": msgspec.Raw(msgspec.json.encode(left))}
        # In how many spellings it came is nothing that a header should grow with.
        dropped.extend(dict.fromkeys(f"options.{key.casefold()}" for key in reloading))
    return Ruled(kept, tuple(dropped))


def _decoded(decoder: msgspec.json.Decoder[T], raw: msgspec.Raw, key: str, shape: str) -> T:
    if memoryview(raw).nbytes > _MAX_READ:
        raise InvalidRequestBody(f"`{key}` is longer than {_MAX_READ} bytes.", param=key)
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise InvalidRequestBody(f"`{key}` must be {shape}.", param=key) from None


def _text(raw: msgspec.Raw) -> str:
    try:
        value = _TEXT.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        # Ollama would repair what is not UTF-8, and then read it.
        raise InvalidRequestBody("The `type` of a tool must be a text.", param="tools") from None
    return value if isinstance(value, str) else ""
