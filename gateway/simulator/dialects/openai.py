"""``/v1/chat/completions`` and ``/v1/completions``."""

import time
from typing import Any

from gateway.simulator.dialects import EVENTS, GIN_JSON, JSON, Dialect
from gateway.simulator.dialects.common import number_id, openai_error, openai_fields, texts
from gateway.simulator.dialects.native import tool_names
from gateway.simulator.gojson import Fields, NotReadable, encode
from gateway.simulator.http import Headers
from gateway.simulator.params import (
    Completion,
    Final,
    GenerateParams,
    Logprob,
    Message,
    Piece,
    Refusal,
    ToolCall,
)
from gateway.simulator.versions import Wire

_DONE = b"data: [DONE]\n\n"
_Choice = dict[str, Any]


def _event(value: object) -> bytes:
    return b"data: %b\n\n" % encode(value)


def _early(error: NotReadable) -> Refusal:
    return Refusal(400, str(error), early=True)


def _content(value: Any, *, has_calls: bool) -> tuple[str, int]:
    """Return the text of a message and its number of images; raise ``Refusal``."""
    if isinstance(value, str):
        return value, 0
    if isinstance(value, list):
        parts = [Fields.of("openai.ContentPart", part) for part in value]
        text = "".join(part.text("text") for part in parts if part.text("type") == "text")
        return text, sum(part.text("type") == "image_url" for part in parts)
    if has_calls:
        return "", 0
    kind = "<nil>" if value is None else type(value).__name__
    raise Refusal(400, f"invalid message content type: {kind}", early=True)


def _message(value: Any) -> Message:
    fields = Fields.of("openai.Message", value)
    calls = fields.items("tool_calls", "[]openai.ToolCall")
    text, images = _content(fields.any("content"), has_calls=bool(calls))
    return Message(fields.text("role"), text, images)


def _format(fields: Fields) -> Any:
    wanted = fields.fields("response_format", "openai.ResponseFormat")
    if wanted.text("type") == "json_object":
        return "json"
    return wanted.fields("json_schema", "openai.JsonSchema").any("schema")


def _thinks(fields: Fields) -> bool | None:
    effort = fields.text("reasoning_effort")
    effort = effort or fields.fields("reasoning", "openai.Reasoning").text("effort")
    return None if not effort else effort != "none"


def _logprobs(fields: Fields) -> int | None:
    return (fields.integer("top_logprobs") or 0) if fields.flag("logprobs") else None


def _usage_wanted(fields: Fields) -> bool:
    options = fields.fields("stream_options", "openai.StreamOptions")
    return options.flag("include_usage") is True


def _parse_chat(body: bytes) -> GenerateParams:
    fields = openai_fields(body, "openai.ChatCompletionRequest")
    try:
        messages = tuple(_message(m) for m in fields.items("messages", "[]openai.Message"))
        if not messages:
            raise Refusal(400, "[] is too short - 'messages'", early=True)
        return GenerateParams(
            model=fields.text("model"),
            messages=messages,
            stream=fields.flag("stream") is True,
            max_tokens=fields.integer("max_tokens"),
            stop=texts(fields.any("stop")),
            tools=tool_names(fields.items("tools", "[]api.Tool")),
            think=_thinks(fields),
            format=_format(fields),
            logprobs=_logprobs(fields),
            include_usage=_usage_wanted(fields),
        )
    except NotReadable as error:
        raise _early(error) from None


def _parse_completion(body: bytes) -> GenerateParams:
    fields = openai_fields(body, "openai.CompletionRequest")
    try:
        prompt = fields.text("prompt")
        return GenerateParams(
            model=fields.text("model"),
            messages=(Message("user", prompt),) if prompt else (),
            task="generate",
            stream=fields.flag("stream") is True,
            max_tokens=fields.integer("max_tokens"),
            stop=texts(fields.any("stop")),
            suffix=bool(fields.text("suffix")),
            include_usage=_usage_wanted(fields),
        )
    except NotReadable as error:
        raise _early(error) from None


def _call(index: int, call: ToolCall) -> dict[str, Any]:
    arguments = encode(call.arguments).decode()
    return {
        "id": call.id,
        "index": index,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def _calls(calls: tuple[ToolCall, ...]) -> list[dict[str, Any]]:
    return [_call(index, call) for index, call in enumerate(calls)]


def _likelihood(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def _logprob(entry: Logprob) -> dict[str, Any]:
    written = _likelihood(entry.token, entry.logprob)
    if entry.alternatives:
        written["top_logprobs"] = [_likelihood(*pair) for pair in entry.alternatives]
    return written


def _with_logprobs(choice: _Choice, entries: tuple[Logprob, ...]) -> _Choice:
    return {**choice, "logprobs": {"content": list(map(_logprob, entries))}} if entries else choice


def usage(final: Final | None) -> dict[str, int]:
    """Return the usage; zeros for a generation that broke off, as in Ollama."""
    prompt, tokens = (final.prompt_tokens, final.tokens) if final else (0, 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": tokens,
        "total_tokens": prompt + tokens,
    }


class ChatEncoder:
    """Chunks of ``chat.completion.chunk``; the last one has everything after the text."""

    stream_headers: Headers = EVENTS
    complete_headers: Headers = JSON

    def __init__(self, params: GenerateParams, wire: Wire) -> None:
        self._params = params
        self._wire = wire
        self._id = number_id("chatcmpl-", 999)
        self._created = int(time.time())
        self._role_sent = False
        self._called = False

    def piece(self, piece: Piece, /) -> list[bytes]:
        delta: dict[str, Any] = self._role() | {"content": piece.content}
        if piece.thinking:
            delta["reasoning"] = piece.thinking
        if piece.tool_calls:
            delta["tool_calls"] = _calls(piece.tool_calls)
            self._called = True
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        return [_event(self._chunk([_with_logprobs(choice, piece.logprobs)]))]

    def final(self, final: Final, /) -> list[bytes]:
        delta = {"role": "assistant", "content": ""} if self._wire.role_in_every_delta else {}
        reason = "tool_calls" if self._called else final.reason
        end = _event(self._chunk([{"index": 0, "delta": delta, "finish_reason": reason}]))
        if self._params.include_usage:
            end += _event(self._chunk([]) | {"usage": usage(final)})
        return [end + _DONE]

    def broken(self, message: str, /) -> list[bytes]:
        del message  # the error becomes an empty response
        choice = {"index": 0, "delta": self._role() | {"content": ""}, "finish_reason": None}
        return [_event(self._chunk([choice]) | {"model": ""})]

    def complete(self, completion: Completion, /) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": completion.content}
        if completion.thinking:
            message["reasoning"] = completion.thinking
        if completion.tool_calls:
            message["tool_calls"] = _calls(completion.tool_calls)
        reason = completion.final.reason if completion.final else None
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": "tool_calls" if completion.tool_calls else reason,
        }
        body = {
            **self._frame("chat.completion"),
            "choices": [_with_logprobs(choice, completion.logprobs)],
            "usage": usage(completion.final),
        }
        return encode(body) + b"\n"

    def _role(self) -> dict[str, Any]:
        if self._role_sent and not self._wire.role_in_every_delta:
            return {}
        self._role_sent = True
        return {"role": "assistant"}

    def _frame(self, kind: str) -> dict[str, Any]:
        created = self._created if self._wire.one_created else int(time.time())
        return {
            "id": self._id,
            "object": kind,
            "created": created,
            "model": self._params.model,
            "system_fingerprint": "fp_ollama",
        }

    def _chunk(self, choices: list[_Choice]) -> dict[str, Any]:
        return {**self._frame("chat.completion.chunk"), "choices": choices}


class CompletionEncoder:
    """Chunks of ``text_completion``, each with a usage of zeros if the request wants usage."""

    stream_headers: Headers = EVENTS
    complete_headers: Headers = JSON

    def __init__(self, params: GenerateParams, wire: Wire) -> None:
        self._params = params
        self._wire = wire
        self._id = number_id("cmpl-", 999)
        self._created = int(time.time())

    def piece(self, piece: Piece, /) -> list[bytes]:
        return [_event(self._chunk([self._choice(piece.content)]))]

    def final(self, final: Final, /) -> list[bytes]:
        end = _event(self._chunk([self._choice("", final.reason)]))
        if self._params.include_usage:
            end += _event(self._chunk([]) | {"usage": usage(final)})
        return [end + _DONE]

    def broken(self, message: str, /) -> list[bytes]:
        del message  # as above
        return [_event(self._chunk([self._choice("")]) | {"model": ""})]

    def complete(self, completion: Completion, /) -> bytes:
        reason = completion.final.reason if completion.final else None
        body = {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._params.model,
            "system_fingerprint": "fp_ollama",
            "choices": [self._choice(completion.content, reason)],
            "usage": usage(completion.final),
        }
        return encode(body) + b"\n"

    def _choice(self, text: str, reason: str | None = None) -> _Choice:
        return {"text": text, "index": 0, "finish_reason": reason}

    def _chunk(self, choices: list[_Choice]) -> dict[str, Any]:
        chunk = {
            "id": self._id,
            "object": "text_completion",
            "created": self._created if self._wire.one_created else int(time.time()),
            "choices": choices,
            "model": self._params.model,
            "system_fingerprint": "fp_ollama",
        }
        return chunk | {"usage": usage(None)} if self._params.include_usage else chunk


def openai_refusal(refusal: Refusal, stream: bool) -> tuple[Headers, bytes]:  # noqa: FBT001  - Dialect.error
    del stream
    return (GIN_JSON if refusal.early else JSON), openai_error(refusal)


CHAT_COMPLETIONS = Dialect(_parse_chat, ChatEncoder, openai_refusal)
COMPLETIONS = Dialect(_parse_completion, CompletionEncoder, openai_refusal)
