"""``/v1/embeddings``, ``/api/embed`` and the older ``/api/embeddings``."""

import base64
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gateway.simulator.dialects import GIN_JSON, JSON
from gateway.simulator.dialects.common import (
    native_error,
    native_fields,
    openai_error,
    openai_fields,
)
from gateway.simulator.dialects.native import seconds, wrong_option
from gateway.simulator.gojson import Fields, NotReadable, encode
from gateway.simulator.http import Headers
from gateway.simulator.params import Refusal
from gateway.simulator.text import renormalised, shortest

Vectors = list[list[float]]
_FORMATS = ("float", "base64")


@dataclass(frozen=True, slots=True)
class EmbedParams:
    """Texts to turn into vectors."""

    model: str
    inputs: tuple[str, ...]
    truncate: bool = True
    dimensions: int = 0
    encoding: str = ""
    num_ctx: int | None = None
    keep_alive: float | None = None
    wrong_option: str = ""


@dataclass(frozen=True, slots=True)
class Embedded:
    """The result; durations are nanoseconds."""

    vectors: Vectors
    tokens: int
    total_duration: int
    load_duration: int


@dataclass(frozen=True, slots=True)
class EmbedDialect:
    parse: Callable[[bytes], EmbedParams]
    write: Callable[[EmbedParams, Embedded], bytes]
    headers: Headers
    error: Callable[[Refusal], tuple[Headers, bytes]]


def _inputs(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise Refusal(400, "invalid input type")


def _parse_openai(body: bytes) -> EmbedParams:
    fields = openai_fields(body, "openai.EmbedRequest")
    try:
        encoding, model = fields.text("encoding_format"), fields.text("model")
        dimensions = fields.integer("dimensions") or 0
    except NotReadable as error:
        raise Refusal(400, str(error), early=True) from None
    if encoding and encoding.lower() not in _FORMATS:
        raise Refusal(
            400,
            f"Invalid value for 'encoding_format' = {encoding}. "
            "Supported values: ['float', 'base64'].",
            early=True,
        )
    given = fields.any("input")
    if given is None or given == []:
        raise Refusal(400, "invalid input", early=True)
    return EmbedParams(
        model=model, inputs=_inputs(given), dimensions=dimensions, encoding=encoding.lower()
    )


def _common(fields: Fields) -> dict[str, Any]:
    options = fields.mapping("options")
    num_ctx = options.get("num_ctx")
    return {
        "model": fields.text("model"),
        "truncate": fields.flag("truncate") is not False,
        "num_ctx": num_ctx if isinstance(num_ctx, int) else None,
        "keep_alive": seconds(fields.any("keep_alive")),
        "wrong_option": wrong_option(options),
    }


def _parse_embed(body: bytes) -> EmbedParams:
    fields = native_fields(body, "api.EmbedRequest")
    try:
        given = fields.any("input")
        return EmbedParams(
            inputs=() if given is None or given == "" else _inputs(given),
            dimensions=fields.integer("dimensions") or 0,
            **_common(fields),
        )
    except NotReadable as error:
        raise Refusal(400, str(error)) from None


def _parse_legacy(body: bytes) -> EmbedParams:
    fields = native_fields(body, "api.EmbeddingRequest")
    try:
        prompt = fields.text("prompt")
        return EmbedParams(inputs=(prompt,) if prompt else (), **_common(fields))
    except NotReadable as error:
        raise Refusal(400, str(error)) from None


def _written(vector: list[float], params: EmbedParams) -> list[float] | str:
    vector = renormalised(vector, params.dimensions)
    if params.encoding == "base64":
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return [shortest(value) for value in vector]


def _write_openai(params: EmbedParams, result: Embedded) -> bytes:
    data = [
        {"object": "embedding", "embedding": _written(vector, params), "index": index}
        for index, vector in enumerate(result.vectors)
    ]
    usage = {"prompt_tokens": result.tokens, "total_tokens": result.tokens}
    return encode({"object": "list", "data": data, "model": params.model, "usage": usage}) + b"\n"


def _write_embed(params: EmbedParams, result: Embedded) -> bytes:
    body: dict[str, Any] = {
        "model": params.model,
        "embeddings": [_written(vector, params) for vector in result.vectors],
    }
    if result.vectors:
        body |= {
            "total_duration": result.total_duration,
            "load_duration": result.load_duration,
            "prompt_eval_count": result.tokens,
        }
    return encode(body)


def _write_legacy(params: EmbedParams, result: Embedded) -> bytes:
    del params
    return encode({"embedding": result.vectors[0] if result.vectors else []})


def _openai_error(refusal: Refusal) -> tuple[Headers, bytes]:
    return (GIN_JSON if refusal.early else JSON), openai_error(refusal)


def _native_error(refusal: Refusal) -> tuple[Headers, bytes]:
    return GIN_JSON, native_error(refusal.message)


V1_EMBEDDINGS = EmbedDialect(_parse_openai, _write_openai, JSON, _openai_error)
EMBED = EmbedDialect(_parse_embed, _write_embed, GIN_JSON, _native_error)
EMBEDDINGS = EmbedDialect(_parse_legacy, _write_legacy, GIN_JSON, _native_error)
