"""Complete responses and Ollama's JSON: what can be read is certain, and nothing raises."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from gateway.dialects.body import (
    TAIL_BYTES,
    Body,
    BodyFindings,
    Usage,
    decode,
    encodable,
    encode,
    failure_text,
    filled,
    json_tail,
    seconds,
    token_count,
    usage_of,
    zero_token_count,
)

LIMIT = 100_000


def body() -> Body:
    """Its usage is how many bytes were read: `tokens_in` of a document, `tokens_out` of an end."""
    return Body(
        read=lambda document: BodyFindings(usage=Usage(tokens_in=len(document))),
        read_tail=lambda tail: BodyFindings(usage=Usage(tokens_out=len(tail))),
        limit=LIMIT,
    )


def test_a_body_up_to_the_limit_is_read_completely() -> None:
    """However it came."""
    response = body()
    for _ in range(LIMIT // 1000):
        response.feed(b"x" * 1000)

    assert Usage(tokens_in=LIMIT) == response.usage


def test_of_a_body_above_the_limit_only_the_end_is_kept() -> None:
    """However it came, and in bounded memory."""
    at_once, in_parts = body(), body()
    at_once.feed(b"x" * 5_000_000)
    for _ in range(5000):
        in_parts.feed(b"x" * 1000)

    assert Usage(tokens_out=TAIL_BYTES) == at_once.usage
    assert Usage(tokens_out=TAIL_BYTES) == in_parts.usage
    assert int(repr(in_parts).split()[1]) <= 2 * TAIL_BYTES


def test_a_body_can_be_fed_after_it_was_read() -> None:
    """The next findings include what was fed since."""
    response = body()
    response.feed(b"ab")

    assert Usage(tokens_in=2) == response.usage
    response.feed(b"c")
    assert Usage(tokens_in=3) == response.usage
    assert repr(response) == "<Body 3 bytes kept, all of it>"


@pytest.mark.parametrize(
    "document", [b"", b"{", b"\xff", b'"\xff"', b'"\\ud800"', b"1", b'"a" "b"', b"[" * 100_000]
)
def test_decode_never_raises(document: bytes) -> None:
    """No JSON, no UTF-8, another type, something behind it, too deep: all just None."""
    assert decode(msgspec.json.Decoder(str), document) is None


@pytest.mark.parametrize("value", [b"", b'""', b"null", b"[]", b"{}"])
def test_empty_values_are_not_filled(value: bytes) -> None:
    """What carries nothing."""
    assert not filled(Raw(value))


@pytest.mark.parametrize("value", [b'" "', b'"null"', b"[0]", b'"{}"', b"false", b"0"])
def test_other_values_are_filled(value: bytes) -> None:
    """What carries something, a blank among it."""
    assert filled(Raw(value))


@pytest.mark.parametrize(
    ("value", "count"),
    [(b"27", 27), (b"0", None), (b"-1", None), (b"1.5", None), (b"null", None), (b"", None)],
)
def test_only_positive_integers_are_token_counts(value: bytes, count: int | None) -> None:
    """Zero means that Ollama does not know."""
    assert count == token_count(Raw(value))


def test_durations_are_converted_from_nanoseconds() -> None:
    """From nanoseconds; anything but a number is unknown."""
    assert seconds(Raw(b"1500000000")) == 1.5
    assert seconds(Raw(b'"1s"')) is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (b'{"message":"no","type":"x"}', "no"),
        (b'"no"', "no"),
        (b'{"code":7}', '{"code":7}'),
        (b'"\xff"', '"�"'),
        (b"null", None),
        (b"", None),
        (b'"' + b"x" * 1000 + b'"', "x" * 300),
        (b"[" + b"1," * 1000 + b"1]", ("[" + "1," * 1000)[:300]),
    ],
)
def test_failure_text_is_read_in_every_shape(error: bytes, words: str | None) -> None:
    """Ollama's words in any of its shapes, 300 characters at most."""
    assert words == failure_text(Raw(error))


@pytest.mark.parametrize(
    ("usage", "expected", "lost"),
    [
        (b'{"prompt_tokens":3,"completion_tokens":4}', Usage(3, 4), False),
        (b'{"input_tokens":3,"output_tokens":4}', Usage(3, 4), False),
        (b'{"prompt_tokens":0,"completion_tokens":0}', Usage(), True),
        (b'{"input_tokens":3,"output_tokens":0}', Usage(3, None), True),
        (b'{"prompt_tokens":7,"total_tokens":7}', Usage(7, None), False),
        (b'{"prompt_tokens":"x","completion_tokens":4}', Usage(None, 4), False),
        (b"null", Usage(), False),
        (b"", Usage(), False),
    ],
)
def test_usage(usage: bytes, expected: Usage, *, lost: bool) -> None:
    """Under either pair of names; a count of 0 that is there is not one that is missing."""
    assert expected == usage_of(Raw(usage))
    assert lost == zero_token_count(Raw(usage))


def test_impossible_token_counts_are_ignored() -> None:
    """The server may not be Ollama, and sums of such numbers would overflow."""
    for count in ("-1", "0", "1e3", '"7"', "1" + "0" * 13, "1" + "0" * 400, "true", "[1]"):
        assert token_count(Raw(count.encode())) is None
    assert token_count(Raw(b"1000000000")) == 10**9


def test_encoded_text_has_neither_surrogates_nor_line_feeds() -> None:
    """Half a surrogate pair cannot be sent; a line feed cannot break a line."""
    assert encode(encodable("a\ud800\nb")) == b'"a?\\nb"'


JSON = st.recursive(
    st.none() | st.integers() | st.text('"\\{},:usage', max_size=12) | st.just('{"usage":{}}'),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["usage", "text", '","usage', "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(
    document=st.dictionaries(st.sampled_from(["usage", "text", "x"]), JSON), start=st.integers(1)
)
def test_json_tail_never_yields_fields_of_another_depth(
    document: dict[str, object], start: int
) -> None:
    """From whatever end of whatever document: what decodes are top-level fields of it."""
    text = json.dumps(document, separators=(",", ":")).encode()
    rest = json_tail(text[min(start, len(text)) :], b"usage")
    try:
        fields = json.loads(rest)
    except ValueError:
        return

    assert fields.items() <= document.items()


def test_json_tail_yields_the_last_fields() -> None:
    """The object's last fields, found behind any text; inside another object they are unknown."""
    text = b'el \\"usage\\":1","data":[1,2],"usage":{"prompt_tokens":7},"more":[{}]}\n'

    assert json_tail(text, b"usage") == b'{"usage":{"prompt_tokens":7},"more":[{}]}\n'
    assert decode(msgspec.json.Decoder(dict), json_tail(b'1,"usage":1}}', b"usage")) is None
    assert json_tail(b"nothing", b"usage") == b""
    assert json_tail(rb'{"x":1,"a\"usage":1}', b"usage") == b""
