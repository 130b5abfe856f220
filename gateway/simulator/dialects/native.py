"""``/api/chat`` and ``/api/generate``."""

import re
from collections.abc import Callable
from typing import Any

from gateway.simulator.clock import rfc3339
from gateway.simulator.dialects import GIN_JSON, JSON, Dialect
from gateway.simulator.dialects.common import native_error, native_fields, texts
from gateway.simulator.gojson import Fields, NotReadable, encode
from gateway.simulator.http import Headers
from gateway.simulator.params import (
    Completion,
    Final,
    GenerateParams,
    Message,
    Piece,
    Refusal,
    ToolCall,
)
from gateway.simulator.versions import Wire

NDJSON = (("Content-Type", "application/x-ndjson"),)

_DURATION = re.compile(r"-?(?:\d+(?:\.\d+)?(?:ns|us|ms|s|m|h))+")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_INTEGERS = frozenset(
    (
        "num_ctx",
        "num_predict",
        "num_keep",
        "seed",
        "top_k",
        "num_batch",
        "num_gpu",
        "main_gpu",
        "num_thread",
        "repeat_last_n",
    )
)
_FLOATS = frozenset(
    (
        "temperature",
        "top_p",
        "min_p",
        "typical_p",
        "repeat_penalty",
        "presence_penalty",
        "frequency_penalty",
    )
)


def seconds(value: Any) -> float | None:
    """Read ``keep_alive``: a number of seconds or a Go duration; negative means for ever."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    if not isinstance(value, str) or _DURATION.fullmatch(value) is None:
        if value in ("0", "-1"):
            return float(value)
        raise Refusal(400, f'time: invalid duration "{value}"')
    total = sum(
        float(number) * _SECONDS[unit]
        for number, unit in re.findall(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)", value)
    )
    return -total if value.startswith("-") else total


def wrong_option(options: dict[str, Any]) -> str:
    """Return Ollama's message about the first option of a wrong type; empty if there is none."""
    for name, value in options.items():
        wanted = _wanted(name, value)
        if wanted:
            return f'option "{name}" must be of type {wanted}'
    return ""


def _wanted(name: str, value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in _INTEGERS and not number:
        return "integer"
    if name in _FLOATS and not number:
        return "float32"
    if name == "use_mmap" and not isinstance(value, bool | None):
        return "boolean"
    if name == "stop" and not isinstance(value, list):
        return "array"
    return ""


def _integer(options: dict[str, Any], name: str) -> int | None:
    value = options.get(name)
    return int(value) if isinstance(value, int | float) else None


def _common(fields: Fields) -> dict[str, Any]:
    options = fields.mapping("options")
    wrong = wrong_option(options)
    think = fields.any("think")
    return {
        "model": fields.text("model"),
        "stream": fields.flag("stream") is not False,
        "max_tokens": None if wrong else _integer(options, "num_predict"),
        "num_ctx": None if wrong else _integer(options, "num_ctx"),
        "stop": texts(options.get("stop")),
        "wrong_option": wrong,
        "keep_alive": seconds(fields.any("keep_alive")),
        "think": think if isinstance(think, bool) or think is None else bool(think),
        "format": fields.any("format") or None,
        "truncate": fields.flag("truncate") is not False,
    }


def _message(value: Any) -> Message:
    fields = Fields.of("api.Message", value)
    return Message(
        role=fields.text("role"),
        text=fields.text("content"),
        images=len(fields.items("images", "[]api.ImageData")),
    )


def tool_names(tools: list[Any]) -> tuple[str, ...]:
    """Return the names of tools in the format that OpenAI and Ollama share."""
    functions = (
        Fields.of("api.Tool", tool).fields("function", "api.ToolFunction") for tool in tools
    )
    return tuple(function.text("name") for function in functions)


def _parse_chat(body: bytes) -> GenerateParams:
    fields = native_fields(body, "api.ChatRequest")
    try:
        messages = tuple(_message(m) for m in fields.items("messages", "[]api.Message"))
        tools = tool_names(fields.items("tools", "api.Tools"))
        return GenerateParams(messages=messages, tools=tools, task="chat", **_common(fields))
    except NotReadable as error:
        raise Refusal(400, str(error)) from None


def _parse_generate(body: bytes) -> GenerateParams:
    fields = native_fields(body, "api.GenerateRequest")
    try:
        prompt, system = fields.text("prompt"), fields.text("system")
        images = len(fields.items("images", "[]api.ImageData"))
        user = Message("user", prompt, images)
        messages = (Message("system", system), user) if system else (user,)
        return GenerateParams(
            messages=messages if prompt else (),
            task="generate",
            suffix=bool(fields.text("suffix")),
            **_common(fields),
        )
    except NotReadable as error:
        raise Refusal(400, str(error)) from None


def _call(index: int, call: ToolCall) -> dict[str, Any]:
    function = {"index": index, "name": call.name, "arguments": call.arguments}
    return {"id": call.id, "function": function}


def _chat_part(content: str, thinking: str, calls: tuple[ToolCall, ...]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if thinking:
        message["thinking"] = thinking
    if calls:
        message["tool_calls"] = [_call(index, call) for index, call in enumerate(calls)]
    return {"message": message}


def _generate_part(content: str, thinking: str, calls: tuple[ToolCall, ...]) -> dict[str, Any]:
    del calls  # /api/generate has no tools
    return {"response": content, "thinking": thinking} if thinking else {"response": content}


_Part = Callable[[str, str, tuple[ToolCall, ...]], dict[str, Any]]


def _ending(final: Final, *, with_context: bool) -> dict[str, Any]:
    context = {"context": context_of(final)} if with_context else {}
    return {
        "done": True,
        "done_reason": final.reason,
        **context,
        "total_duration": final.total_duration,
        "load_duration": final.load_duration,
        "prompt_eval_count": final.prompt_tokens,
        "prompt_eval_duration": final.prompt_eval_duration,
        "eval_count": final.tokens,
        "eval_duration": final.eval_duration,
    }


def context_of(final: Final) -> list[int]:
    """Return token numbers for prompt and completion; only their count has a meaning."""
    return [259 + 7 * index % 254 for index in range(final.prompt_tokens + final.tokens)]


class NativeEncoder:
    """NDJSON lines, or one object."""

    stream_headers: Headers = NDJSON
    complete_headers: Headers = GIN_JSON

    def __init__(self, model: str, *, part: _Part, with_context: bool) -> None:
        self._model = model
        self._part = part
        self._with_context = with_context

    def piece(self, piece: Piece, /) -> list[bytes]:
        part = self._part(piece.content, piece.thinking, piece.tool_calls)
        return [self._object(part, {"done": False}) + b"\n"]

    def final(self, final: Final, /) -> list[bytes]:
        ending = _ending(final, with_context=self._with_context)
        return [self._object(self._part("", "", ()), ending) + b"\n"]

    def broken(self, message: str, /) -> list[bytes]:
        return [native_error(message) + b"\n"]

    def complete(self, completion: Completion, /) -> bytes:
        part = self._part(completion.content, completion.thinking, completion.tool_calls)
        if completion.final is None:
            return self._object(part, {"done": False})
        return self._object(part, _ending(completion.final, with_context=self._with_context))

    def idle(self, reason: str) -> bytes:
        """Return the response to a request without a prompt: ``load`` or ``unload``."""
        return self._object(self._part("", "", ()), {"done": True, "done_reason": reason})

    def _object(self, part: dict[str, Any], ending: dict[str, Any]) -> bytes:
        return encode({"model": self._model, "created_at": rfc3339(), **part, **ending})


def native_encoder(params: GenerateParams, wire: Wire) -> NativeEncoder:
    del wire  # the same in both versions
    if params.task == "generate":
        return NativeEncoder(params.model, part=_generate_part, with_context=True)
    return NativeEncoder(params.model, part=_chat_part, with_context=False)


def native_refusal(refusal: Refusal, stream: bool) -> tuple[Headers, bytes]:  # noqa: FBT001  - Dialect.error
    del stream
    return (JSON if refusal.in_stream else GIN_JSON), native_error(refusal.message)


CHAT = Dialect(_parse_chat, native_encoder, native_refusal)
GENERATE = Dialect(_parse_generate, native_encoder, native_refusal)
