"""What a body of ``/v1/responses`` asks for."""

from typing import Any

from gateway.simulator.asked import Ask, Message, Refusal
from gateway.simulator.dialects.common import openai_fields
from gateway.simulator.gojson import Fields, NotReadable


def parse(body: bytes) -> Ask:
    fields = openai_fields(body, "openai.ResponsesRequest")
    try:
        return _read(fields)
    except NotReadable as error:
        raise Refusal(400, str(error), early=True) from None


def _read(fields: Fields) -> Ask:
    instructions = fields.text("instructions")
    system = (Message("system", instructions),) if instructions else ()
    effort = fields.fields("reasoning", "openai.ResponsesReasoning").text("effort")
    tools = fields.items("tools", "[]openai.ResponsesTool")
    text = fields.fields("text", "openai.ResponsesText")
    return Ask(
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
