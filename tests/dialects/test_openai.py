import json

import pytest

from gateway.dialects import OPENAI, Usage


def chunk(**fields: object) -> bytes:
    """A chunk as Go writes it: no blanks, and a few of its characters escaped."""
    text = json.dumps({"id": "chatcmpl-1", **fields}, separators=(",", ":"), ensure_ascii=False)
    return b"data: " + text.encode() + b"\n\n"


def delta(finish_reason: str | None = None, **fields: object) -> bytes:
    return chunk(choices=[{"index": 0, "delta": fields, "finish_reason": finish_reason}])


@pytest.mark.parametrize(
    "text",
    [
        "[DONE]",
        "data: [DONE]\n\n",
        "\n\ndata: [DONE]\n\n",
        '"}\r\n\r\ndata: [DONE]',
        "\u2028[DONE]",
    ],
)
def test_the_final_event_inside_a_text_completes_nothing(text: str) -> None:
    """The words of the final event in a text, in thinking or in a tool's arguments end nothing."""
    scanner = OPENAI.scanner()
    scanner.feed(delta(content=text))
    scanner.feed(delta(content="", reasoning=text))
    scanner.feed(delta(content="", tool_calls=[{"function": {"name": text, "arguments": text}}]))

    assert not scanner.complete
    assert Usage(None, 3, counted=True) == scanner.usage


@pytest.mark.parametrize(
    "event",
    [
        b'data: "[DONE]"\n\n',
        b"data: [DONE] \n\n",
        b"data:  [DONE]\n\n",
        b"data: [done]\n\n",
        b"data: [DONE]\ndata: \n\n",
        b"data: [DONE]\n",
        b": [DONE]\n\n",
        b"event: [DONE]\n\n",
        b"event: [DONE]\ndata: x\n\n",
        b"[DONE]\n\n",
        b" data: [DONE]\n\n",
    ],
)
def test_what_only_resembles_the_final_event_completes_nothing(event: bytes) -> None:
    """Only `[DONE]` as the complete data of an event is final."""
    scanner = OPENAI.scanner()
    scanner.feed(event)

    assert not scanner.complete


@pytest.mark.parametrize(
    "event",
    [
        b"data: [DONE]\n\n",
        b"data:[DONE]\n\n",
        b"data: [DONE]\r\n\r\n",
        b": comment\ndata: [DONE]\n\n",
        b"\n\n\ndata: [DONE]\n\n",
    ],
)
def test_done_completes_a_stream_in_every_framing(event: bytes) -> None:
    """In every form that the framing allows."""
    scanner = OPENAI.scanner()
    scanner.feed(event)

    assert scanner.complete


def test_usage_inside_a_text_is_ignored() -> None:
    """Only the field of the chunk counts, not a text or an argument that looks like it."""
    fake = '"usage":{"prompt_tokens":99,"completion_tokens":99}'
    scanner = OPENAI.scanner()
    scanner.feed(delta(content=f"{{{fake}}}"))
    scanner.feed(delta(tool_calls=[{"function": {"arguments": {"usage": {"prompt_tokens": 9}}}}]))

    assert Usage(None, 2, counted=True) == scanner.usage


def test_an_error_inside_a_text_is_no_failure() -> None:
    """Only the field of the chunk counts."""
    scanner = OPENAI.scanner()
    scanner.feed(delta(content='{"error":{"message":"no"}}'))
    scanner.feed(delta(tool_calls=[{"function": {"arguments": {"error": "no"}}}]))

    assert scanner.failure is None


@pytest.mark.parametrize(
    ("event", "events"),
    [
        (delta(role="assistant", content="a"), 1),
        (delta(content='"'), 1),
        (delta(content='"}'), 1),
        (delta(content="\\"), 1),
        (delta(content=" "), 1),
        (delta(content="a", finish_reason="stop"), 1),
        (delta(role="assistant", content="", reasoning="b"), 1),
        (delta(role="assistant", content="", tool_calls=[{"id": "x"}]), 1),
        (chunk(choices=[{"text": "a", "index": 0, "finish_reason": None}]), 1),
        (delta(role="assistant", content=""), 0),
        (delta(role="assistant"), 0),
        (delta(finish_reason="stop"), 0),
        (delta(role="assistant", content="", tool_calls=[]), 0),
        (delta(role="assistant", content=None), 0),
        (chunk(choices=[{"text": "", "index": 0, "finish_reason": None}]), 0),
        (chunk(choices=[]), 0),
        (chunk(choices="a"), 0),
        (chunk(choices=[{"delta": "a"}]), 0),
        (b"data: {\n\n", 0),
    ],
)
def test_events_with_content_are_counted(event: bytes, events: int) -> None:
    """An event counts once if it carries text, thinking or a tool call."""
    scanner = OPENAI.scanner()
    scanner.feed(event)

    assert (scanner.usage.tokens_out or 0) == events


def test_reported_usage_wins_over_zeros_and_counting() -> None:
    """Completions report 0 in each chunk and the real count in the last."""
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    scanner = OPENAI.scanner()
    scanner.feed(chunk(choices=[{"text": "a"}], usage=zeros))
    assert Usage(None, 1, counted=True) == scanner.usage

    scanner.feed(chunk(choices=[], usage={"prompt_tokens": 21, "completion_tokens": 5}))
    scanner.feed(chunk(choices=[], usage=zeros))
    assert Usage(21, 5) == scanner.usage


def test_an_error_event_is_a_failure_and_no_completion() -> None:
    """Its words are kept; it does not make the stream complete."""
    scanner = OPENAI.scanner()
    scanner.feed(b'data: {"error":{"message":"out of memory","type":"api_error"}}\n\n')

    assert scanner.failure == "out of memory"
    assert not scanner.complete


def test_an_event_with_invalid_utf8_still_counts() -> None:
    """The text is relayed as it is, and the other fields are still read."""
    scanner = OPENAI.scanner()
    scanner.feed(delta(content="XX").replace(b"XX", b"\xff\xfe"))
    scanner.feed(
        chunk(choices=[{"text": "XX"}], usage={"completion_tokens": 4}).replace(b"XX", b"\xff")
    )

    assert Usage(None, 4) == scanner.usage


def test_usage_of_embeddings_above_the_limit_is_read_from_their_end() -> None:
    """Of many megabytes the usage at the very end is read, however it comes."""
    vectors = b",".join([b'{"object":"embedding","embedding":[0.1,0.2],"index":0}'] * 100_000)
    document = (
        b'{"object":"list","data":[' + vectors + b'],"model":"m",'
        b'"usage":{"prompt_tokens":8192,"total_tokens":8192}}\n'
    )
    for size in (len(document), 65536, 1000):
        body = OPENAI.body()
        for at in range(0, len(document), size):
            body.feed(document[at : at + size])

        assert Usage(8192, None) == body.usage
        assert not body.incomplete
        assert body.failure is None


@pytest.mark.parametrize(("tokens", "incomplete"), [(0, True), (7, False)])
def test_a_response_above_the_limit_is_incomplete_if_its_end_says_so(
    tokens: int, *, incomplete: bool
) -> None:
    """Usage of 0 after a megabyte of text means that Ollama gave up."""
    answer = {
        "choices": [{"message": {"content": "x" * 2_000_000}, "finish_reason": None}],
        "usage": {"prompt_tokens": tokens, "completion_tokens": tokens},
    }
    body = OPENAI.body()
    body.feed(json.dumps(answer, separators=(",", ":")).encode())

    assert incomplete == body.incomplete


def test_a_text_in_a_long_response_cannot_fake_its_usage() -> None:
    """A text of a megabyte may end like usage: what is not certain is unknown."""
    text = "x" * 2_000_000 + ',"usage":{"prompt_tokens":1,"completion_tokens":0}}'
    body = OPENAI.body()
    body.feed(json.dumps({"a": text}, separators=(",", ":")).encode())

    assert (Usage(), False, None) == (body.usage, body.incomplete, body.failure)


@pytest.mark.parametrize("text", [b"", b" ", b"404 page not found", b"{", b"[]", b'{"choices":7}'])
def test_nothing_is_known_of_a_body_that_is_no_response(text: bytes) -> None:
    """Nothing is known of it, and nothing of it shows."""
    body = OPENAI.body()
    body.feed(text)

    assert (Usage(), False, None, None) == (
        body.usage,
        body.incomplete,
        body.failure,
        body.timings,
    )
