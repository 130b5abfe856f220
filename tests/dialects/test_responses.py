import json

import pytest

from gateway.dialects import RESPONSES, Usage

USAGE = {"input_tokens": 21, "output_tokens": 5}


def event(kind: str, **fields: object) -> bytes:
    """With its keys sorted, as Ollama sends them."""
    data = json.dumps({"type": kind, **fields}, separators=(",", ":"), sort_keys=True)
    return f"event: {kind}\ndata: {data}\n\n".encode()


@pytest.mark.parametrize("kind", ["completed", "incomplete", "failed"])
def test_every_final_event_completes_a_stream(kind: str) -> None:
    """All three say how it went."""
    scanner = RESPONSES.scanner()
    scanner.feed(event(f"response.{kind}", response={"usage": USAGE}))

    assert scanner.complete
    assert Usage(21, 5) == scanner.usage


@pytest.mark.parametrize(
    "text", ["response.completed", "\n\nevent: response.completed\ndata: {}\n\n"]
)
def test_the_final_event_inside_a_text_completes_nothing(text: str) -> None:
    """The words of the final event in a text, in thinking or in a call's arguments end nothing."""
    scanner = RESPONSES.scanner()
    scanner.feed(event("response.output_text.delta", delta=text))
    scanner.feed(event("response.reasoning_summary_text.delta", delta=text))
    scanner.feed(event("response.function_call_arguments.delta", delta=text))
    scanner.feed(event("response.output_text.delta", delta=""))
    scanner.feed(event("response.output_text.done", text=text))
    scanner.feed(event("response.created", response={"type": "response.completed"}))

    assert not scanner.complete
    assert Usage(None, 3, counted=True) == scanner.usage


@pytest.mark.parametrize(
    "data",
    [
        b"event: response.completed\n\n",
        b"event: response.completed\ndata: {\n\n",
        b'event: response.completed\ndata: {"type":"response.created"}\n\n',
        b'event: response.created\ndata: {"type":"response.completed"}\n\n',
        b'data: {"type":"response.completed"}\n\n',
        b'event: response.completed\ndata: {"type":"response.completed"}\n',
    ],
)
def test_what_only_resembles_the_final_event_completes_nothing(data: bytes) -> None:
    """The event's line and its type must both say so, and the event must have ended."""
    scanner = RESPONSES.scanner()
    scanner.feed(data)

    assert not scanner.complete


@pytest.mark.parametrize("size", [10_000_000, 65536, 997])
def test_a_final_event_above_the_limit_completes_a_stream(size: int) -> None:
    """It repeats the complete response; its name makes it final and its end has the usage."""
    response = {"output": "x" * 3_000_000, "temperature": 1, "usage": USAGE}
    stream = event("response.completed", response=response, sequence_number=12)
    scanner = RESPONSES.scanner()
    for at in range(0, len(stream), size):
        assert not scanner.complete
        scanner.feed(stream[at : at + size])

    assert scanner.complete
    assert Usage(21, 5) == scanner.usage


def test_a_long_final_event_cannot_fake_its_usage() -> None:
    """A text of megabytes may end like usage: what is not certain is unknown."""
    text = "x" * 2_000_000 + ',"usage":{"input_tokens":1,"output_tokens":1}},"type":"x"}'
    scanner = RESPONSES.scanner()
    scanner.feed(event("response.completed", response={"output": text}))

    assert scanner.complete
    assert Usage() == scanner.usage


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (event("response.failed", response={"error": {"message": "no"}}), "no"),
        (event("response.failed", response={"error": None}), "response.failed"),
        (event("error", message="no", code=None), "no"),
        (event("error", error={"message": "no"}), "no"),
        (b'data: {"error":{"message":"no"}}\n\n', "no"),
        (event("response.completed", response={"error": None}), None),
    ],
)
def test_failures_are_read_from_every_event_that_has_one(data: bytes, words: str | None) -> None:
    """Ollama's words, in whichever event they come."""
    scanner = RESPONSES.scanner()
    scanner.feed(data)

    assert words == scanner.failure


@pytest.mark.parametrize(
    ("output", "tokens", "incomplete"),
    [
        ([{"type": "message", "content": [{"type": "output_text", "text": "a"}]}], 0, True),
        ([{"type": "function_call", "arguments": "{}"}], 0, True),
        ([{"type": "message", "content": [{"type": "output_text", "text": "a"}]}], 1, False),
        ([{"type": "message", "content": [{"type": "output_text", "text": ""}]}], 0, False),
        ([], 0, False),
        ("nonsense", 0, False),
    ],
)
def test_incomplete(output: object, tokens: int, *, incomplete: bool) -> None:
    """Something came out and none of it was counted: Ollama still says `completed` then."""
    body = RESPONSES.body()
    body.feed(
        json.dumps(
            {
                "status": "completed",
                "output": output,
                "usage": {"input_tokens": tokens, "output_tokens": tokens},
            }
        ).encode()
    )

    assert incomplete == body.incomplete
