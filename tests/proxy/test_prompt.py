"""How long a prompt is, told from a body's fields."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.prompt import (
    MESSAGE_BYTES,
    Prompt,
    disable_truncation,
    max_object_count,
    measure,
)
from gateway.proxy.request import parse
from gateway.simulator.gojson import encode as as_go_writes

TEXT = "hällo 水 \U0001f40e"
SIZE = len(TEXT.encode())
PICTURE = base64.b64encode(bytes(range(256)) * 40).decode()


def prompt(path: str, *, as_bytes: bool = True, **fields: Any) -> Prompt:
    """Of a body as most clients write it, with text in UTF-8."""
    text = json.dumps({"model": "a", **fields}, ensure_ascii=not as_bytes)
    data = text.encode("utf-8", "surrogatepass")
    return measure(parse(data), path, max_objects=max_object_count(data))


def one(content: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content, **more}]


@pytest.mark.parametrize(
    ("path", "fields", "size"),
    [
        ("/v1/chat/completions", {"messages": one(TEXT)}, SIZE + MESSAGE_BYTES),
        ("/api/chat", {"messages": one(TEXT) * 3}, 3 * (SIZE + MESSAGE_BYTES)),
        ("/v1/completions", {"prompt": TEXT, "suffix": TEXT}, 2 * SIZE),
        ("/api/generate", {"prompt": TEXT, "system": TEXT, "suffix": ""}, 2 * SIZE),
        ("/v1/responses", {"input": TEXT, "instructions": TEXT}, 2 * SIZE),
        ("/v1/responses", {"input": one([{"type": "input_text", "text": TEXT}])}, None),
        ("/v1/messages", {"system": TEXT, "messages": one(TEXT)}, 2 * SIZE + MESSAGE_BYTES),
        ("/v1/messages", {"system": [{"type": "text", "text": TEXT}], "messages": []}, None),
        ("/v1/messages", {"messages": one([{"type": "tool_result", "content": TEXT}])}, None),
        ("/api/chat", {"messages": one([{"type": "text", "text": TEXT}])}, None),
        ("/api/embeddings", {"prompt": TEXT}, SIZE),
        ("/api/embed", {"input": TEXT}, SIZE),
        ("/v1/embeddings", {"input": [TEXT, TEXT]}, 2 * SIZE),
    ],
)
def test_text_counts_in_bytes_wherever_a_dialect_has_it(
    path: str, fields: dict[str, Any], size: int | None
) -> None:
    """With something for each message; nothing else of the body counts."""
    found = prompt(path, **fields, temperature=0.5, stop=["x" * 100], response_format={"a": {}})

    assert found.text_bytes == (SIZE + MESSAGE_BYTES if size is None else size)
    assert found.counted


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_escapes_do_not_make_a_text_much_longer(text: str) -> None:
    """Python's default writes a letter of three bytes in six: it still counts as two or three."""
    exactly = len(text.encode())
    plain = prompt("/api/embed", input=text).text_bytes
    escaped = prompt("/api/embed", input=text, as_bytes=False).text_bytes

    assert 0.9 * exactly <= plain <= 2 * exactly
    assert 0.5 * exactly <= escaped <= 2 * exactly


def test_tools_count_as_the_json_that_the_model_reads() -> None:
    """Whatever they describe."""
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    found = prompt("/v1/chat/completions", messages=[], tools=tools)

    assert found.text_bytes == len(json.dumps(tools))


def test_however_a_caller_writes_them() -> None:
    """Ollama writes them anew, in one line: neither indentation nor escapes reach the model."""
    tools = [{"type": "function", "function": {"name": "look", "description": "水" * 100}}]
    exactly = len(json.dumps(tools, ensure_ascii=False).encode())
    for written in (json.dumps(tools), json.dumps(tools, indent=8, ensure_ascii=False)):
        fields = parse(b'{"model":"a","messages":[],"tools":%b}' % written.encode())
        found = measure(fields, "/v1/chat/completions", max_objects=9)

        assert 0.6 * exactly <= found.text_bytes <= exactly
        assert found.counted


def test_what_is_too_long_to_be_written_anew_is_not_counted() -> None:
    """Nobody else is served while it is; and it is known to be missing."""
    found = prompt("/v1/chat/completions", messages=[], tools=["x" * 3_000_000])

    assert (found.text_bytes, found.counted) == (0, False)


def test_calls_of_tools_and_their_results_count() -> None:
    """An agent's conversation is mostly these."""
    call = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    messages = [*one(None, tool_calls=call), {"role": "tool", "content": TEXT}]
    found = prompt("/v1/chat/completions", messages=messages)

    assert found.text_bytes == len(json.dumps(call)) + SIZE + 2 * MESSAGE_BYTES
    assert found.messages == 2


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (
            "/v1/chat/completions",
            {"messages": one([{"type": "image_url", "image_url": {"url": PICTURE}}])},
        ),
        ("/v1/responses", {"input": one([{"type": "input_image", "image_url": PICTURE}])}),
        ("/v1/messages", {"messages": one([{"type": "image", "source": {"data": PICTURE}}])}),
        ("/v1/messages", {"messages": one([{"type": "document", "source": {"data": PICTURE}}])}),
        ("/api/chat", {"messages": one("", images=[PICTURE])}),
        ("/api/generate", {"prompt": "", "images": [PICTURE]}),
        ("/api/generate", {"prompt": "", "context": [1, 2, 3]}),
    ],
)
def test_what_is_no_text_is_not_counted_and_known_to_be_missing(
    path: str, fields: dict[str, Any]
) -> None:
    """Base64 says nothing about tokens."""
    found = prompt(path, **fields)

    assert found.text_bytes <= 2 * MESSAGE_BYTES
    assert not found.counted


def test_thoughts_of_before_are_left_out_as_templates_do() -> None:
    """A model does not read again what it thought."""
    parts = [{"type": "thinking", "thinking": TEXT * 100}, {"type": "text", "text": TEXT}]
    found = prompt("/v1/messages", messages=one(parts))

    assert found.text_bytes == SIZE + MESSAGE_BYTES
    assert found.counted


def test_each_text_to_embed_is_known_for_itself() -> None:
    """For each is cut on its own."""
    found = prompt("/v1/embeddings", input=["a", TEXT * 5, "bc"])

    assert (found.inputs, found.longest_bytes, found.embeds) == (3, 5 * SIZE, True)
    assert found.text_bytes == 3 + 5 * SIZE


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": "text"},
        {"messages": {"role": "user"}},
        {"messages": 7},
        {"messages": [1, 2]},
        {"messages": [[]]},
        {"messages": None},
        {"messages": one([[[]]])},
        {"messages": one(7)},
        {},
    ],
)
def test_what_ollama_will_not_read_either_is_no_error(fields: dict[str, Any]) -> None:
    """It is Ollama's to say what is wrong."""
    assert prompt("/v1/chat/completions", **fields).text_bytes < 50


def test_a_body_of_nothing_but_objects_is_not_taken_apart() -> None:
    """Each would cost memory and time."""
    found = prompt("/api/chat", messages=[{"a": 1}] * 20_001)

    assert (found.text_bytes, found.counted) == (0, False)


def test_objects_in_a_text_are_none() -> None:
    """JSON in a prompt is text: each quote and line break in it has a backslash."""
    text = json.dumps([{"name": "x"}] * 30_000)
    found = prompt("/api/chat", messages=one(text))

    assert found.text_bytes == len(text) + MESSAGE_BYTES
    assert found.counted


def test_a_long_list_of_texts_is_not_taken_apart() -> None:
    """What it holds is then not known."""
    found = prompt("/api/embed", input=["x" * 1000] * 3000)

    assert (found.text_bytes, found.counted) == (0, False)


def test_nesting_has_an_end() -> None:
    """However deep a caller goes."""
    content: Any = TEXT
    for _ in range(50):
        content = [{"type": "tool_result", "content": content}]

    assert not prompt("/v1/messages", messages=one(content)).counted


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_ctx": 8192}, 8192),
        ({"num_ctx": 0}, None),
        ({"num_ctx": -5}, None),
        ({"num_ctx": 10**12}, None),
        ({"num_ctx": "8192"}, None),
        ({"num_ctx": 8192.5}, None),
        ({}, None),
        ([], None),
        (None, None),
    ],
)
def test_the_context_that_a_call_asks_for(options: Any, expected: int | None) -> None:
    """Only a key that may tune gets it through; /v1 knows no options."""
    assert prompt("/api/chat", messages=[], options=options).num_ctx == expected
    assert prompt("/v1/chat/completions", messages=[], options=options).num_ctx is None


@pytest.mark.parametrize("said", [True, False, None])
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed"])
def test_a_caller_can_say_whether_he_wants_to_be_cut(path: str, said: bool | None) -> None:
    """Where Ollama listens to it; null says nothing."""
    assert prompt(path, truncate=said).truncate is said
    assert prompt("/v1/chat/completions", truncate=said).truncate is None


@pytest.mark.parametrize(
    ("path", "said", "sent"),
    [
        ("/api/chat", {}, False),
        ("/api/generate", {"truncate": None}, False),
        ("/api/embed", {}, False),
        ("/api/chat", {"truncate": True}, True),
        ("/api/chat", {"truncate": False}, False),
        ("/api/embeddings", {}, None),
        ("/v1/embeddings", {}, None),
        ("/v1/chat/completions", {}, None),
    ],
)
def test_ollama_is_told_not_to_cut_where_it_knows_the_word(
    path: str, said: dict[str, Any], sent: bool | None
) -> None:
    """Unless the caller has said what he wants."""
    fields = disable_truncation(parse(as_go_writes({"model": "a", **said})), path)
    expected = None if sent is None else json.dumps(sent).encode()

    assert (bytes(fields["truncate"]) if "truncate" in fields else None) == expected


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    ),
    st.sampled_from(["/v1/chat/completions", "/v1/messages", "/v1/responses", "/api/embed"]),
)
def test_nothing_that_a_caller_sends_raises(value: Any, path: str) -> None:
    """A prompt of unknown size is no reason to fail."""
    found = prompt(path, messages=value, input=value, options=value, tools=value, system=value)

    assert found.text_bytes >= 0
