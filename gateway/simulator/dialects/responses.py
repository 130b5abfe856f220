"""``/v1/responses``."""

import time
from typing import Any

from gateway.simulator.dialects import EVENTS, GIN_JSON, JSON, Dialect
from gateway.simulator.dialects.anthropic import STREAM_PREFACE
from gateway.simulator.dialects.common import number_id, openai_error, openai_fields
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


def _parse(body: bytes) -> GenerateParams:
    fields = openai_fields(body, "openai.ResponsesRequest")
    try:
        return _read(fields)
    except NotReadable as error:
        raise Refusal(400, str(error), early=True) from None


def _read(fields: Fields) -> GenerateParams:
    instructions = fields.text("instructions")
    system = (Message("system", instructions),) if instructions else ()
    effort = fields.fields("reasoning", "openai.ResponsesReasoning").text("effort")
    tools = fields.items("tools", "[]openai.ResponsesTool")
    text = fields.fields("text", "openai.ResponsesText")
    return GenerateParams(
        model=fields.text("model"),
        messages=system + _messages(fields.any("input")),
        stream=fields.flag("stream") is True,
        max_tokens=fields.integer("max_output_tokens"),
        tools=tuple(Fields.of("openai.ResponsesTool", tool).text("name") for tool in tools),
        think=None if not effort else effort != "none",
        format=text.fields("format", "openai.ResponsesTextFormat").any("schema"),
    )


def _messages(value: Any) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (Message("user", value),)
    items = value if isinstance(value, list) else []
    return tuple(_item(Fields.of("openai.ResponsesInputItem", item)) for item in items)


def _item(fields: Fields) -> Message:
    if fields.text("type") == "function_call_output":
        return Message("tool", str(fields.any("output")))
    content = fields.any("content")
    if isinstance(content, str):
        return Message(fields.text("role"), content)
    parts = [Fields.of("openai.ResponsesContent", part) for part in content or []]
    text = "".join(part.text("text") for part in parts)
    images = sum(part.text("type") == "input_image" for part in parts)
    return Message(fields.text("role"), text, images)


_FIELDS = (
    "id object created_at completed_at type status incomplete_details model previous_response_id "
    "instructions output error tools tool_choice truncation parallel_tool_calls role content "
    "call_id name arguments summary encrypted_content text annotations logprobs top_p "
    "presence_penalty frequency_penalty top_logprobs temperature reasoning usage input_tokens "
    "output_tokens total_tokens input_tokens_details output_tokens_details max_output_tokens "
    "max_tool_calls store background service_tier metadata safety_identifier prompt_cache_key"
)
_STRUCT_ORDER = tuple(_FIELDS.split())
"""Non-streaming responses are structs with this order; events are maps, sorted by key."""


def _as_structs(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_structs(item) for item in value]
    if not isinstance(value, dict):
        return value
    known = {name: _as_structs(value[name]) for name in _STRUCT_ORDER if name in value}
    return known | {name: _as_structs(item) for name, item in value.items() if name not in known}


def _part(text: str) -> dict[str, Any]:
    return {"annotations": [], "logprobs": [], "text": text, "type": "output_text"}


def _usage(final: Final | None) -> dict[str, Any]:
    prompt, tokens = (final.prompt_tokens, final.tokens) if final else (0, 0)
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + tokens,
    }


class ResponsesEncoder:
    """Named, numbered events, each in a chunk of its own; their keys are sorted."""

    stream_headers: Headers = STREAM_PREFACE + EVENTS
    complete_headers: Headers = JSON

    def __init__(self, params: GenerateParams, wire: Wire) -> None:
        del wire  # the same in both versions
        self._params = params
        self._id = number_id("resp_", 999_999)
        self._message_id = number_id("msg_", 999_999)
        self._reasoning_id = number_id("rs_", 999_999)
        self._sequence = 0
        self._text = ""
        self._thinking_text = ""
        self._thinking = False
        self._in_message = False
        self._output: list[dict[str, Any]] = []

    def piece(self, piece: Piece, /) -> list[bytes]:
        events = self._start()
        if piece.thinking:
            events += self._add_thinking(piece.thinking)
        if piece.tool_calls:
            events += self._end_thinking()
            for call in piece.tool_calls:
                events += self._call(call)
        elif piece.content:
            events += self._end_thinking()
            events += self._add_text(piece.content)
        return events

    def final(self, final: Final, /) -> list[bytes]:
        events = self._start() + self._end_thinking() + self._end_message()
        response = self._response("completed", self._output, _usage(final))
        response["completed_at"] = int(time.time())
        return [*events, self._event("response.completed", response=response)]

    def broken(self, message: str, /) -> list[bytes]:
        del message  # the stream just ends
        return []

    def complete(self, completion: Completion, /) -> bytes:
        output: list[dict[str, Any]] = []
        if completion.thinking:
            output.append(self._reasoning_item(f"rs_{self._id}", completion.thinking))
        for index, call in enumerate(completion.tool_calls):
            output.append(self._call_item(f"fc_{self._id}_{index}", call, "completed"))
        if not completion.tool_calls:
            output.append(self._message_item(completion.content))
        response = self._response("completed", output, _usage(completion.final))
        response["completed_at"] = int(time.time())
        return encode(_as_structs(response)) + b"\n"

    def _start(self) -> list[bytes]:
        if self._sequence:
            return []
        names = ("response.created", "response.in_progress")
        return [
            self._event(name, response=self._response("in_progress", [], None)) for name in names
        ]

    def _add_thinking(self, text: str) -> list[bytes]:
        events = []
        at = {"item_id": self._reasoning_id, "output_index": 0}
        if not self._thinking:
            self._thinking = True
            item = {"id": self._reasoning_id, "summary": [], "type": "reasoning"}
            events.append(self._event("response.output_item.added", item=item, output_index=0))
        self._thinking_text += text
        name = "response.reasoning_summary_text.delta"
        return [*events, self._event(name, delta=text, summary_index=0, **at)]

    def _end_thinking(self) -> list[bytes]:
        if not self._thinking:
            return []
        self._thinking = False
        item = self._reasoning_item(self._reasoning_id, self._thinking_text)
        self._output.append(item)
        return [
            self._event(
                "response.reasoning_summary_text.done",
                item_id=self._reasoning_id,
                output_index=0,
                summary_index=0,
                text=self._thinking_text,
            ),
            self._event("response.output_item.done", item=item, output_index=0),
        ]

    def _add_text(self, text: str) -> list[bytes]:
        events = [] if self._in_message else self._begin_message()
        self._text += text
        return [*events, self._at_part("output_text.delta", delta=text, logprobs=[])]

    def _begin_message(self) -> list[bytes]:
        self._in_message = True
        item = {
            "content": [],
            "id": self._message_id,
            "role": "assistant",
            "status": "in_progress",
            "type": "message",
        }
        index = len(self._output)
        return [
            self._event("response.output_item.added", item=item, output_index=index),
            self._at_part("content_part.added", part=_part("")),
        ]

    def _end_message(self) -> list[bytes]:
        if not self._in_message:
            return []
        item, index = self._message_item(self._text), len(self._output)
        events = [
            self._at_part("output_text.done", logprobs=[], text=self._text),
            self._at_part("content_part.done", part=_part(self._text)),
            self._event("response.output_item.done", item=item, output_index=index),
        ]
        self._output.append(item)
        return events

    def _call(self, call: ToolCall) -> list[bytes]:
        index = len(self._output)
        identity = number_id("fc_", 999_999) + f"_{index}"
        arguments = encode(call.arguments).decode()
        item = self._call_item(identity, call, "completed")
        begun = self._call_item(identity, call, "in_progress") | {"arguments": ""}
        self._output.append(item)
        at = {"item_id": identity, "output_index": index}
        return [
            self._event("response.output_item.added", item=begun, output_index=index),
            self._event("response.function_call_arguments.delta", delta=arguments, **at),
            self._event("response.function_call_arguments.done", arguments=arguments, **at),
            self._event("response.output_item.done", item=item, output_index=index),
        ]

    def _message_item(self, text: str) -> dict[str, Any]:
        return {
            "content": [_part(text)],
            "id": self._message_id,
            "role": "assistant",
            "status": "completed",
            "type": "message",
        }

    @staticmethod
    def _reasoning_item(identity: str, text: str) -> dict[str, Any]:
        summary = [{"text": text, "type": "summary_text"}]
        return {"encrypted_content": text, "id": identity, "summary": summary, "type": "reasoning"}

    @staticmethod
    def _call_item(identity: str, call: ToolCall, status: str) -> dict[str, Any]:
        return {
            "arguments": encode(call.arguments).decode(),
            "call_id": call.id,
            "id": identity,
            "name": call.name,
            "status": status,
            "type": "function_call",
        }

    def _at_part(self, name: str, **data: Any) -> bytes:
        return self._event(
            f"response.{name}",
            content_index=0,
            item_id=self._message_id,
            output_index=len(self._output),
            **data,
        )

    def _event(self, name: str, **data: Any) -> bytes:
        data |= {"type": name, "sequence_number": self._sequence}
        self._sequence += 1
        ordered = encode(dict(sorted(data.items())))
        return b"event: %b\ndata: %b\n\n" % (name.encode(), ordered)

    def _response(
        self, status: str, output: list[dict[str, Any]], usage: dict[str, Any] | None
    ) -> dict[str, Any]:
        tools = [{"name": name, "type": "function"} for name in self._params.tools]
        return {
            "background": False,
            "completed_at": None,
            "created_at": int(time.time()),
            "error": None,
            "frequency_penalty": 0,
            "id": self._id,
            "incomplete_details": None,
            "instructions": None,
            "max_output_tokens": self._params.max_tokens,
            "max_tool_calls": None,
            "metadata": {},
            "model": self._params.model,
            "object": "response",
            "output": output,
            "parallel_tool_calls": True,
            "presence_penalty": 0,
            "previous_response_id": None,
            "prompt_cache_key": None,
            "reasoning": None,
            "safety_identifier": None,
            "service_tier": "default",
            "status": status,
            "store": False,
            "temperature": 1,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": tools,
            "top_logprobs": 0,
            "top_p": 1,
            "truncation": "disabled",
            "usage": usage,
        }


def _refusal(refusal: Refusal, stream: bool) -> tuple[Headers, bytes]:  # noqa: FBT001  - Dialect.error
    if refusal.early:
        return (STREAM_PREFACE if stream else ()) + GIN_JSON, openai_error(refusal)
    return (STREAM_PREFACE if stream else ()) + JSON, openai_error(refusal)


RESPONSES = Dialect(_parse, ResponsesEncoder, _refusal)
