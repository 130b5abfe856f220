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
    """Its usage tells how many bytes were read, and of what: in is a document, out is an end."""
    return Body(
        read=lambda document: BodyFindings(usage=Usage(tokens_in=len(document))),
        read_tail=lambda tail: BodyFindings(usage=Usage(tokens_out=len(tail))),
        limit=LIMIT,
    )


def test_up_to_the_limit_it_is_a_document() -> None:
    """However it came."""
    response = body()
    for _ in range(LIMIT // 1000):
        response.feed(b"x" * 1000)

    assert Usage(tokens_in=LIMIT) == response.usage


def test_above_the_limit_only_its_end_is_kept() -> None:
    """However it came, and in bounded memory."""
    at_once, in_parts = body(), body()
    at_once.feed(b"x" * 5_000_000)
    for _ in range(5000):
        in_parts.feed(b"x" * 1000)

    assert Usage(tokens_out=TAIL_BYTES) == at_once.usage
    assert Usage(tokens_out=TAIL_BYTES) == in_parts.usage
    assert int(repr(in_parts).split()[1]) <= 2 * TAIL_BYTES


def test_a_question_does_not_end_the_reading() -> None:
    """What is fed after a question counts in the next answer."""
    response = body()
    response.feed(b"ab")

    assert Usage(tokens_in=2) == response.usage
    response.feed(b"c")
    assert Usage(tokens_in=3) == response.usage
    assert repr(response) == "<Body 3 bytes kept, all of it>"


@pytest.mark.parametrize(
    "document", [b"", b"{", b"\xff", b'"\xff"', b'"\\ud800"', b"1", b'"a" "b"', b"[" * 100_000]
)
def test_decode_never_fails(document: bytes) -> None:
    """No JSON, no UTF-8, another type, something behind it, too deep: all just None."""
    assert decode(msgspec.json.Decoder(str), document) is None


@pytest.mark.parametrize("value", [b"", b'""', b"null", b"[]", b"{}"])
def test_empty_values(value: bytes) -> None:
    """What carries nothing."""
    assert not filled(Raw(value))


@pytest.mark.parametrize("value", [b'" "', b'"null"', b"[0]", b'"{}"', b"false", b"0"])
def test_filled_values(value: bytes) -> None:
    """What carries something, a blank among it."""
    assert filled(Raw(value))


@pytest.mark.parametrize(
    ("value", "count"),
    [(b"27", 27), (b"0", None), (b"-1", None), (b"1.5", None), (b"null", None), (b"", None)],
)
def test_tokens(value: bytes, count: int | None) -> None:
    """Only a positive whole number counts."""
    assert count == token_count(Raw(value))


def test_seconds() -> None:
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
def test_failure_text(error: bytes, words: str | None) -> None:
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


def test_counts_that_nobody_can_have_counted() -> None:
    """What answers may not be Ollama, and sums of such numbers would overflow."""
    for count in ("-1", "0", "1e3", '"7"', "1" + "0" * 13, "1" + "0" * 400, "true", "[1]"):
        assert token_count(Raw(count.encode())) is None
    assert token_count(Raw(b"1000000000")) == 10**9


def test_encodable_and_encode() -> None:
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


@given(document=st.dictionaries(st.sampled_from(["usage", "text", "x"]), JSON), cut=st.integers(1))
def test_json_tail_is_certain(document: dict[str, object], cut: int) -> None:
    """From whatever end of whatever document: what decodes are top-level fields of it."""
    text = json.dumps(document, separators=(",", ":")).encode()
    rest = json_tail(text[min(cut, len(text)) :], b"usage")
    try:
        fields = json.loads(rest)
    except ValueError:
        return

    assert fields.items() <= document.items()


def test_json_tail() -> None:
    """The object's last fields, found behind any text; inside another object they are unknown."""
    text = b'el \\"usage\\":1","data":[1,2],"usage":{"prompt_tokens":7},"more":[{}]}\n'

    assert json_tail(text, b"usage") == b'{"usage":{"prompt_tokens":7},"more":[{}]}\n'
    assert decode(msgspec.json.Decoder(dict), json_tail(b'1,"usage":1}}', b"usage")) is None
    assert json_tail(b"nothing", b"usage") == b""
    assert json_tail(rb'{"x":1,"a\"usage":1}', b"usage") == b""
