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
def test_text_is_counted_wherever_a_dialect_has_it(
    path: str, fields: dict[str, Any], size: int | None
) -> None:
    """With some bytes for each message; nothing else of the body counts."""
    found = prompt(path, **fields, temperature=0.5, stop=["x" * 100], response_format={"a": {}})

    assert found.text_bytes == (SIZE + MESSAGE_BYTES if size is None else size)
    assert found.counted


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_escapes_are_not_counted(text: str) -> None:
    """Python writes a letter of three bytes in six: it counts as two or three."""
    exactly = len(text.encode())
    plain = prompt("/api/embed", input=text).text_bytes
    escaped = prompt("/api/embed", input=text, as_bytes=False).text_bytes

    assert 0.9 * exactly <= plain <= 2 * exactly
    assert 0.5 * exactly <= escaped <= 2 * exactly


def test_tools_count_as_json() -> None:
    """Whatever they describe."""
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    found = prompt("/v1/chat/completions", messages=[], tools=tools)

    assert found.text_bytes == len(json.dumps(tools))


def test_formatting_of_tools_does_not_count() -> None:
    """Ollama formats them in one line, without escapes."""
    tools = [{"type": "function", "function": {"name": "look", "description": "水" * 100}}]
    exactly = len(json.dumps(tools, ensure_ascii=False).encode())
    for written in (json.dumps(tools), json.dumps(tools, indent=8, ensure_ascii=False)):
        fields = parse(b'{"model":"a","messages":[],"tools":%b}' % written.encode())
        found = measure(fields, "/v1/chat/completions", max_objects=9)

        assert 0.6 * exactly <= found.text_bytes <= exactly
        assert found.counted


def test_tools_that_are_too_long_are_not_counted() -> None:
    """The prompt is then marked as not counted."""
    found = prompt("/v1/chat/completions", messages=[], tools=["x" * 3_000_000])

    assert (found.text_bytes, found.counted) == (0, False)


def test_tool_calls_and_results_are_counted() -> None:
    """A conversation of an agent is mostly these."""
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
def test_prompt_with_an_image_is_marked_as_not_counted(path: str, fields: dict[str, Any]) -> None:
    """Base64 says nothing about tokens."""
    found = prompt(path, **fields)

    assert found.text_bytes <= 2 * MESSAGE_BYTES
    assert not found.counted


def test_earlier_thinking_is_not_counted() -> None:
    """Templates leave it out."""
    parts = [{"type": "thinking", "thinking": TEXT * 100}, {"type": "text", "text": TEXT}]
    found = prompt("/v1/messages", messages=one(parts))

    assert found.text_bytes == SIZE + MESSAGE_BYTES
    assert found.counted


def test_texts_to_embed_are_measured_separately() -> None:
    """Each is truncated separately."""
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
def test_unreadable_fields_are_no_error(fields: dict[str, Any]) -> None:
    """Ollama decides what is wrong."""
    assert prompt("/v1/chat/completions", **fields).text_bytes < 50


def test_body_with_too_many_objects_is_not_decoded() -> None:
    """Each would cost memory and time."""
    found = prompt("/api/chat", messages=[{"a": 1}] * 20_001)

    assert (found.text_bytes, found.counted) == (0, False)


def test_braces_in_a_text_are_not_objects() -> None:
    """Each quote and line break in it has a backslash."""
    text = json.dumps([{"name": "x"}] * 30_000)
    found = prompt("/api/chat", messages=one(text))

    assert found.text_bytes == len(text) + MESSAGE_BYTES
    assert found.counted


def test_long_list_of_texts_is_not_decoded() -> None:
    """The prompt is then marked as not counted."""
    found = prompt("/api/embed", input=["x" * 1000] * 3000)

    assert (found.text_bytes, found.counted) == (0, False)


def test_deep_nesting_is_not_decoded() -> None:
    """However deep a body is."""
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
def test_num_ctx_of_a_request_is_read_from_native_options(
    options: Any, expected: int | None
) -> None:
    """The ``/v1`` routes have no options."""
    assert prompt("/api/chat", messages=[], options=options).num_ctx == expected
    assert prompt("/v1/chat/completions", messages=[], options=options).num_ctx is None


@pytest.mark.parametrize("said", [True, False, None])
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed"])
def test_truncate_of_a_request_is_read(path: str, said: bool | None) -> None:
    """Where Ollama knows it; null says nothing."""
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
def test_truncation_is_disabled_where_ollama_knows_how(
    path: str, said: dict[str, Any], sent: bool | None
) -> None:
    """Unless the client says something about it."""
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
def test_no_body_makes_the_measurement_fail(value: Any, path: str) -> None:
    """An unknown size is no reason to fail."""
    found = prompt(path, messages=value, input=value, options=value, tools=value, system=value)

    assert found.text_bytes >= 0
