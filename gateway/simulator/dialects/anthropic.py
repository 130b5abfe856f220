"""``/v1/messages``."""

from typing import Any

from gateway.simulator.dialects import EVENTS, GIN_JSON, JSON, Dialect
from gateway.simulator.dialects.common import hex_id, openai_fields, texts
from gateway.simulator.gojson import Fields, NotReadable, encode
from gateway.simulator.http import Headers
from gateway.simulator.params import Completion, Final, GenerateParams, Message, Piece, Refusal
from gateway.simulator.versions import Wire

STREAM_PREFACE: Headers = (("Cache-Control", "no-cache"), ("Connection", "keep-alive"))
"""Set before the handler runs, therefore also on errors of streams."""

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens"}
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def _text(content: Any) -> tuple[str, int]:
    if isinstance(content, str):
        return content, 0
    if not isinstance(content, list):
        return "", 0
    blocks = [Fields.of("anthropic.ContentBlock", block) for block in content]
    text = "".join(block.text("text") for block in blocks if block.text("type") == "text")
    return text, sum(block.text("type") == "image" for block in blocks)


def _role(fields: Fields) -> str:
    """A user message with a tool result has the role "tool"."""
    content = fields.any("content")
    blocks = content if isinstance(content, list) else []
    is_result = any(
        Fields.of("anthropic.ContentBlock", block).any("type") == "tool_result" for block in blocks
    )
    return "tool" if is_result else fields.text("role")


def _message(value: Any) -> Message:
    fields = Fields.of("anthropic.MessageParam", value)
    text, images = _text(fields.any("content"))
    return Message(_role(fields), text, images)


def _parse(body: bytes) -> GenerateParams:
    fields = openai_fields(body, "anthropic.MessagesRequest")
    try:
        return _read(fields)
    except NotReadable as error:
        raise Refusal(400, str(error), early=True) from None


def _read(fields: Fields) -> GenerateParams:
    model, limit = fields.text("model"), fields.integer("max_tokens") or 0
    messages = tuple(_message(m) for m in fields.items("messages", "[]anthropic.MessageParam"))
    for wrong, message in (
        (not model, "model is required"),
        (limit <= 0, "max_tokens is required and must be positive"),
        (not messages, "messages is required"),
    ):
        if wrong:
            raise Refusal(400, message, early=True)
    system = _text(fields.any("system"))[0]
    thinking = fields.fields("thinking", "anthropic.ThinkingConfig").text("type")
    tools = fields.items("tools", "[]anthropic.Tool")
    return GenerateParams(
        model=model,
        messages=((Message("system", system),) if system else ()) + messages,
        stream=fields.flag("stream") is True,
        max_tokens=limit,
        stop=texts(fields.any("stop_sequences")),
        tools=tuple(Fields.of("anthropic.Tool", tool).text("name") for tool in tools),
        think=None if not thinking else thinking != "disabled",
    )


def estimated_tokens(params: GenerateParams) -> int:
    """Return the prompt tokens in the first event of a stream, before they are counted."""
    length = sum(len(message.role) + len(message.text) for message in params.messages)
    return max(1, length // 4)


def _stop_reason(reason: str, *, has_calls: bool) -> str:
    return "tool_use" if has_calls else _STOP_REASONS.get(reason, "stop_sequence")


class MessagesEncoder:
    """Named events, each a chunk of its own."""

    stream_headers: Headers = STREAM_PREFACE + EVENTS
    complete_headers: Headers = JSON

    def __init__(self, params: GenerateParams, wire: Wire) -> None:
        del wire  # the same in both versions
        self._params = params
        self._id = hex_id("msg")
        self._begun = False
        self._called = False
        self._open: str | None = None
        self._index = 0

    def piece(self, piece: Piece, /) -> list[bytes]:
        events = self._start()
        if piece.thinking:
            events += self._block("thinking", {"type": "thinking", "thinking": ""})
            events.append(self._delta({"type": "thinking_delta", "thinking": piece.thinking}))
        if piece.content:
            events += self._block("text", {"type": "text", "text": ""})
            events.append(self._delta({"type": "text_delta", "text": piece.content}))
        for call in piece.tool_calls:
            self._called = True
            block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
            events += self._block(call.id, block)
            arguments = encode(call.arguments).decode()
            events.append(self._delta({"type": "input_json_delta", "partial_json": arguments}))
            events += self._close()
        return events

    def final(self, final: Final, /) -> list[bytes]:
        delta = {"stop_reason": _stop_reason(final.reason, has_calls=self._called)}
        usage = {"input_tokens": final.prompt_tokens, "output_tokens": final.tokens}
        return [
            *self._start(),
            *self._close(),
            self._event("message_delta", delta=delta, usage=usage),
            self._event("message_stop"),
        ]

    def broken(self, message: str, /) -> list[bytes]:
        del message  # the stream just ends
        return []

    def complete(self, completion: Completion, /) -> bytes:
        content: list[dict[str, Any]] = []
        if completion.thinking:
            content.append({"type": "thinking", "thinking": completion.thinking})
        if completion.content:
            content.append({"type": "text", "text": completion.content})
        content += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
            for call in completion.tool_calls
        ]
        body = self._message(content or None)
        final = completion.final
        if final is not None:
            body["stop_reason"] = _stop_reason(final.reason, has_calls=bool(completion.tool_calls))
        body["usage"] = {
            "input_tokens": final.prompt_tokens if final else 0,
            "output_tokens": final.tokens if final else 0,
        }
        return encode(body) + b"\n"

    def _message(self, content: list[dict[str, Any]] | None) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._params.model,
            "content": content,
        }

    def _start(self) -> list[bytes]:
        if self._begun:
            return []
        self._begun = True
        usage = {"input_tokens": estimated_tokens(self._params), "output_tokens": 0}
        return [self._event("message_start", message=self._message([]) | {"usage": usage})]

    def _block(self, name: str, block: dict[str, Any]) -> list[bytes]:
        if self._open == name:
            return []
        events = self._close()
        self._open = name
        start = self._event("content_block_start", index=self._index, content_block=block)
        return [*events, start]

    def _close(self) -> list[bytes]:
        if self._open is None:
            return []
        self._open = None
        self._index += 1
        return [self._event("content_block_stop", index=self._index - 1)]

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return self._event("content_block_delta", index=self._index, delta=delta)

    def _event(self, name: str, **data: Any) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (name.encode(), encode({"type": name, **data}))


def _refusal(refusal: Refusal, stream: bool) -> tuple[Headers, bytes]:  # noqa: FBT001  - Dialect.error
    kind = _ERROR_TYPES.get(refusal.status, "api_error")
    body = encode(
        {
            "type": "error",
            "error": {"type": kind, "message": refusal.message},
            "request_id": hex_id("req"),
        }
    )
    if refusal.early:
        return GIN_JSON, body
    return (STREAM_PREFACE + JSON if stream else JSON), body + b"\n"


MESSAGES = Dialect(_parse, MessagesEncoder, _refusal)
