import json

import pytest

from gateway.dialects import ANTHROPIC, Usage


def event(kind: str, **fields: object) -> bytes:
    data = json.dumps({"type": kind, **fields}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()


def delta(**fields: object) -> bytes:
    return event("content_block_delta", index=0, delta=fields)


@pytest.mark.parametrize(
    "text", ["message_stop", '{"type":"message_stop"}', "\n\nevent: message_stop\ndata: {}\n\n"]
)
def test_the_final_event_inside_a_text_completes_nothing(text: str) -> None:
    """The words of the final event in a text, in thinking or in a tool's input end nothing."""
    scanner = ANTHROPIC.scanner()
    scanner.feed(delta(type="text_delta", text=text))
    scanner.feed(delta(type="thinking_delta", thinking=text))
    scanner.feed(delta(type="input_json_delta", partial_json=text))
    scanner.feed(event("content_block_start", content_block={"type": "message_stop", "name": text}))

    assert not scanner.complete
    assert Usage(None, 3, counted=True) == scanner.usage


@pytest.mark.parametrize(
    "data",
    [
        b"event: message_stop\n\n",
        b"event: message_stop\ndata: \n\n",
        b"event: message_stop\ndata: {\n\n",
        b'event: message_stop\ndata: {"type":"message_delta"}\n\n',
        b'event: message_stops\ndata: {"type":"message_stop"}\n\n',
        b'data: {"type":"message_stop"}\n\n',
        b'event: content_block_delta\ndata: {"type":"message_stop"}\n\n',
        b'event: message_stop\ndata: {"delta":{"type":"message_stop"}}\n\n',
        b'event: message_stop\ndata: {"type":"message_stop"}\n',
        b"data: [DONE]\n\n",
    ],
)
def test_what_only_resembles_the_final_event_completes_nothing(data: bytes) -> None:
    """The event's line and its type must both say so, and the event must have ended."""
    scanner = ANTHROPIC.scanner()
    scanner.feed(data)

    assert not scanner.complete


@pytest.mark.parametrize(
    ("fields", "events"),
    [
        ({"type": "text_delta", "text": "a"}, 1),
        ({"type": "thinking_delta", "thinking": "a"}, 1),
        ({"type": "input_json_delta", "partial_json": "{}"}, 1),
        ({"type": "text_delta", "text": ""}, 0),
        ({"type": "signature_delta", "signature": "a"}, 0),
    ],
)
def test_events_with_content_are_counted(fields: dict[str, object], events: int) -> None:
    """Text, thinking and tool input; a signature is not the model's."""
    scanner = ANTHROPIC.scanner()
    scanner.feed(delta(**fields))

    assert (scanner.usage.tokens_out or 0) == events


def test_usage_in_message_start_is_ignored() -> None:
    """Ollama estimates there and knows at the end; a guess is not reported as a fact."""
    scanner = ANTHROPIC.scanner()
    scanner.feed(event("message_start", message={"usage": {"input_tokens": 3, "output_tokens": 0}}))
    assert Usage() == scanner.usage

    scanner.feed(event("message_delta", delta={}, usage={"input_tokens": 27, "output_tokens": 5}))
    assert Usage(27, 5) == scanner.usage


def test_an_error_event_is_a_failure_and_no_completion() -> None:
    """Its words are kept; it does not make the stream complete."""
    scanner = ANTHROPIC.scanner()
    scanner.feed(event("error", error={"type": "api_error", "message": "out of memory"}))

    assert scanner.failure == "out of memory"
    assert not scanner.complete


def test_an_error_in_a_tool_input_is_no_failure() -> None:
    """Only an event that is an error has words of Ollama's."""
    scanner = ANTHROPIC.scanner()
    scanner.feed(event("content_block_delta", delta={}, error={"message": "no"}))

    assert scanner.failure is None


@pytest.mark.parametrize(("tokens", "incomplete"), [(0, True), (7, False)])
def test_a_response_above_the_limit_is_read_from_its_end(tokens: int, *, incomplete: bool) -> None:
    """Usage of 0 means that Ollama gave up."""
    answer = {
        "type": "message",
        "content": [{"type": "text", "text": "x" * 2_000_000}],
        "usage": {"input_tokens": 9, "output_tokens": tokens},
    }
    body = ANTHROPIC.body()
    body.feed(json.dumps(answer, separators=(",", ":")).encode())

    assert Usage(9, tokens or None) == body.usage
    assert incomplete == body.incomplete
