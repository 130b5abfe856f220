import json

import pytest

from gateway.dialects import OLLAMA, Timings, Usage


def line(**fields: object) -> bytes:
    text = json.dumps({"model": "m", **fields}, separators=(",", ":"), ensure_ascii=False)
    return text.encode() + b"\n"


def chat(**fields: object) -> bytes:
    return line(message={"role": "assistant", **fields}, done=False)


@pytest.mark.parametrize(
    "text", ['"done":true', '{"done":true}\n', '"},"done":true}\n', '{"error":"no"}\n{"done":true}']
)
def test_the_final_event_inside_a_text_completes_nothing(text: str) -> None:
    """The words of the last line in a text, in thinking or in a tool's arguments end nothing."""
    scanner = OLLAMA.scanner()
    scanner.feed(chat(content=text))
    scanner.feed(chat(content="", thinking=text))
    scanner.feed(line(response=text, done=False))
    call = {"function": {"name": "f", "arguments": {"done": True, "error": "no", "x": text}}}
    scanner.feed(chat(content="", tool_calls=[call]))

    assert (scanner.complete, scanner.failure) == (False, None)
    assert Usage(None, 4, counted=True) == scanner.usage


@pytest.mark.parametrize(
    "data",
    [
        b'{"done":true}',
        b'{"done":"true"}\n',
        b'{"done":1}\n',
        b'{"DONE":true}\n',
        b'{"x":{"done":true}}\n',
        b'[{"done":true}]\n',
        b'{"done":true} {}\n',
        b'"done":true\n',
        b'{"error":null}\n',
        b'{"error":""}\n',
    ],
)
def test_what_only_resembles_the_final_event_completes_nothing(data: bytes) -> None:
    """Only the literal `true`, at the top level of a complete line."""
    scanner = OLLAMA.scanner()
    scanner.feed(data)

    assert not scanner.complete


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (chat(content="a"), 1),
        (chat(content='"'), 1),
        (chat(content="\\"), 1),
        (chat(content="", thinking="a"), 1),
        (chat(content="", tool_calls=[{"function": {"name": "f"}}]), 1),
        (chat(content="", tool_calls=[{"function": {"arguments": {"response": ""}}}]), 1),
        (line(response="a", done=False), 1),
        (line(response="", thinking="a", done=False), 1),
        (line(response='"response":""', done=False), 1),
        (line(message={"content": "a"}, done=True), 1),
        (chat(content=""), 0),
        (chat(), 0),
        (line(response="", done=False), 0),
        (line(response=None, done=False), 0),
        (line(done=False), 0),
        (b" \n\n\n", 0),
        (b"garbage\n", 0),
    ],
)
def test_events_with_content_are_counted(data: bytes, events: int) -> None:
    """A line counts once if it carries text, thinking or a tool call."""
    scanner = OLLAMA.scanner()
    scanner.feed(data)

    assert (scanner.usage.tokens_out or 0) == events


def test_an_error_line_completes_a_stream() -> None:
    """Ollama's own way to report a broken stream, at status 200."""
    scanner = OLLAMA.scanner()
    scanner.feed(chat(content="a") + b'{"error":"unexpected EOF"}\n')

    assert (scanner.complete, scanner.failure) == (True, "unexpected EOF")


def test_an_error_in_a_line_with_text_completes_a_stream() -> None:
    """It is an end wherever it stands at the top level."""
    scanner = OLLAMA.scanner()
    scanner.feed(line(error="no", response="a", done=False))

    assert (scanner.complete, scanner.failure) == (True, "no")


def test_a_field_of_another_type_costs_only_itself() -> None:
    """The line still ends the stream, and its other numbers still count."""
    scanner = OLLAMA.scanner()
    scanner.feed(line(done=True, total_duration="1s", eval_count=5, prompt_eval_count=2.5))

    assert scanner.complete
    assert Usage(None, 5) == scanner.usage
    assert Timings(eval_count=5) == scanner.timings


def test_lines_may_have_blanks_before_and_a_carriage_return_after_them() -> None:
    """And may begin with blanks: our own heartbeats."""
    scanner = OLLAMA.scanner()
    scanner.feed(b'  {"done":false,"response":"a"}\r\n {"done":true}\r\n')

    assert scanner.complete
    assert scanner.at_boundary


@pytest.mark.parametrize("size", [10_000_000, 65536, 997])
def test_a_final_line_above_the_limit_completes_a_stream(size: int) -> None:
    """The one of `generate` contains the context as numbers: its end still says what it is."""
    stream = line(
        response="", done=True, context=[1234567] * 300_000, total_duration=2_000_000_000,
        prompt_eval_count=200, eval_count=9,
    )  # fmt: skip
    assert len(stream) > 2_000_000
    scanner = OLLAMA.scanner()
    for at in range(0, len(stream), size):
        assert not scanner.complete
        scanner.feed(stream[at : at + size])

    assert scanner.complete
    assert Usage(200, 9) == scanner.usage
    assert Timings(total_duration=2.0, prompt_eval_count=200, eval_count=9) == scanner.timings


@pytest.mark.parametrize(
    "data",
    [
        line(message={"content": "x" * 2_000_000}, done=False),
        line(message={"content": "x" * 2_000_000 + ',"done":true}'}),
        line(message={"tool_calls": [{"arguments": {"x": "x" * 2_000_000, "done": True}}]}),
    ],
    ids=["not-done", "in-a-text", "in-arguments"],
)
def test_no_other_line_above_the_limit_completes_a_stream(data: bytes) -> None:
    """Words of the end inside it do not make it the last one."""
    scanner = OLLAMA.scanner()
    scanner.feed(data)

    assert not scanner.complete
    assert scanner.at_boundary


def test_usage_of_embeddings_above_the_limit_is_read_from_their_end() -> None:
    """Of many megabytes the numbers at the very end are read."""
    body = OLLAMA.body()
    body.feed(b'{"model":"m","embeddings":[[' + b"0.123456789," * 500_000 + b"0.1]],")
    body.feed(b'"total_duration":3000000000,"load_duration":1000000000,"prompt_eval_count":7}')

    assert Usage(7, None) == body.usage
    assert Timings(total_duration=3.0, load_duration=1.0, prompt_eval_count=7) == body.timings
    assert not body.incomplete


def test_a_response_above_the_limit_is_incomplete_if_its_end_says_so() -> None:
    """The last field says so."""
    body = OLLAMA.body()
    body.feed(line(response="x" * 2_000_000, done=False))

    assert body.incomplete
