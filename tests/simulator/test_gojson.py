"""JSON is read and written as Go does it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.simulator.gojson import EmptyBody, Fields, NotReadable, decode, encode

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(values)
def test_encoded_values_are_decoded_unchanged(value: Any) -> None:
    assert decode(encode(value)) == value == json.loads(encode(value))


@given(st.text())
def test_html_characters_are_escaped(text: str) -> None:
    """Angle brackets, ampersands and the two Unicode separators."""
    written = encode(text).decode()

    assert not set(written) & set("<>&\u2028\u2029")


@given(values.filter(lambda value: not isinstance(value, int)), st.text())
def test_everything_after_the_first_value_is_ignored(value: Any, rest: str) -> None:
    assert decode(json.dumps(value).encode() + b" " + rest.encode()) == value


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "unexpected EOF"),
        (b'{"a": "b', "unexpected EOF"),
        (b'{"a": NaN}', "invalid character 'N' looking for beginning of value"),
        (b"\xef\xbb\xbf{}", "invalid character '\u00ef' looking for beginning of value"),
        (b"\x1f\x8b", "invalid character '\\x1f' looking for beginning of value"),
        (b"{'a': 1}", "invalid character '\\'' looking for beginning of object key string"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a": 1 "b": 2}', "invalid character '\"' after object key:value pair"),
        (b'{"a": "\n"}', "invalid character '\\n' in string literal"),
        (b"[" * 20_000, "invalid character '[' exceeded max depth"),
    ],
)
def test_errors_have_the_messages_of_go(body: bytes, message: str) -> None:
    """Down to the byte at fault."""
    with pytest.raises(NotReadable) as caught:
        decode(body)

    assert str(caught.value) == message


@pytest.mark.parametrize("body", [b"", b" \r\n\t"])
def test_an_empty_body_is_a_case_of_its_own(body: bytes) -> None:
    """The native routes have another message for it."""
    with pytest.raises(EmptyBody):
        decode(body)


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (b'{"model": "a", "MODEL": "b"}', "b"),
        (b'{"MODEL": "b", "model": "a"}', "a"),
        (b'{"model": "a", "MODEL": "b", "model": "c"}', "c"),
        (b'{"model": "a", "model": null}', "a"),
        ('{"model": "a", "mode\u0142": "b"}'.encode(), "a"),
    ],
)
def test_the_last_spelling_of_a_key_wins(body: bytes, model: str) -> None:
    """Case is ignored, and null does not count."""
    assert Fields.of("T", decode(body)).text("model") == model


@pytest.mark.parametrize("key", ["\u017ftream", "STREAM", "\u017fTREAM"])
def test_keys_are_folded_by_unicode(key: str) -> None:
    """A long s is an s."""
    assert Fields.of("T", decode(json.dumps({key: True}).encode())).flag("stream") is True


def test_a_wrong_type_names_field_and_type() -> None:
    fields = Fields.of("openai.Request", {"model": 3, "stream": "x", "n": 1.5, "list": {}})

    for read, message in (
        (lambda: fields.text("model"), "number into Go struct field Request.model of type string"),
        (lambda: fields.flag("stream"), "string into Go struct field Request.stream of type bool"),
        (lambda: fields.integer("n"), "number into Go struct field Request.n of type int"),
        (lambda: fields.items("list", "[]T"), "object into Go struct field Request.list of type"),
        (lambda: Fields.of("T", [1]), "array into Go value of type T"),
    ):
        with pytest.raises(
            NotReadable, match="json: cannot unmarshal " + message.replace("[", "\\[")
        ):
            read()
