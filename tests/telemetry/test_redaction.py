import logging
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.redaction import (
    MAX_MESSAGE,
    MAX_TRACEBACK,
    UNREADABLE,
    redact,
    redact_record,
    sanitize,
)

BODY = "Zk3-93hfUe_77abcdefghijklmnopqrstuvwxyz01"
SECRET = f"ogw_{BODY}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"GET /k/{SECRET}/api/tags HTTP/1.1", "GET /k/[key]/api/tags HTTP/1.1"),
        (f"GET /k/{SECRET.replace('_', '%5F')}/v1", "GET /k/[key]/v1"),
        (f"/k/{SECRET.replace('_', '%5f')}?x=1", "/k/[key]?x=1"),
        (f"/k/%6F%67%77%5F{BODY}/v1", "/k/[key]/v1"),
        (f"/k/ogw%255F{BODY}", "/k/[key]"),
        (f"/k/OGW_{BODY}", "/k/[key]"),
        (repr(f"/k/{SECRET}\x01{BODY}/v1".encode()), "b'/k/[key]/v1'"),
        (f"/k/{SECRET}\x01{BODY}/v1", "/k/[key]/v1"),
        (rf'{{"path": "/k/ogw\u005f{BODY}"}}', '{"path": "/k/[key]"}'),
        (f"https://name:{SECRET}@host/v1", "https://name:[key]@host/v1"),
        (f"Authorization: Bearer {SECRET}", "Authorization: Bearer [key]"),
        ("authorization: Basic bmFtZTpwYXNz\nHost: x", "authorization: Basic [key]\nHost: x"),
        ("Authorization: Digest a=b, c=d", "Authorization: [key]"),
        ("(b'Authorization', b'Bearer sk-1')", "(b'Authorization', b'Bearer [key]')"),
        (
            r"b'Authorization: Bearer sk-\x01abc\r\nHost: x'",
            r"b'Authorization: Bearer [key]\r\nHost: x'",
        ),
        ("{'x-api-key': 'sk-1'}", "{'x-api-key': '[key]'}"),
        ("Cookie: a=b; c=d", "Cookie: [key]"),
        ("sent Bearer sk-proj-1234567 to us", "sent Bearer [key] to us"),
        ("sent Basic bmFtZTpwYXNz to us", "sent Basic [key] to us"),
    ],
)
def test_secrets_are_replaced_however_they_are_written(text: str, expected: str) -> None:
    """As they are, percent-encoded, in a repr, in a header, in a URL."""
    assert expected == redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Keys begin with ogw_.",
        "Basic authentication is meant here.",
        "100 % of \\ all tests",
        "model 'qwen2.5-coder:7b' not found",
        "the basic idea",
        "cookies and authorization",
    ],
)
def test_text_without_a_secret_stays(text: str) -> None:
    """A log that conceals everything is useless."""
    assert text == redact(text)


anything = st.text(max_size=60)
key_bodies = st.from_regex(r"[A-Za-z0-9_-]{16,43}", fullmatch=True)
spellings = st.sampled_from(["{}", "%{:02x}", "%{:02X}", "%25{:02x}", "\\x{:02x}", "\\u00{:02x}"])


@given(before=anything, body=key_bodies, after=anything)
def test_no_key_is_left_whatever_surrounds_it(before: str, body: str, after: str) -> None:
    """Nothing before or behind a key saves it from being replaced."""
    left = redact(f"{before}ogw_{body}{after}")

    assert re.search(r"ogw_[\w-]", left, re.IGNORECASE) is None
    assert body not in left.removeprefix(before).removesuffix(after)


@given(
    before=anything,
    spelt=st.lists(spellings, min_size=4, max_size=4),
    body=key_bodies,
    after=anything,
)
def test_no_encoding_of_the_prefix_hides_a_key(
    before: str, spelt: list[str], body: str, after: str
) -> None:
    """Each character of the prefix may be encoded in its own way."""
    prefix = "".join(
        character if form == "{}" else form.format(ord(character))
        for form, character in zip(spelt, "ogw_", strict=True)
    )

    assert body not in redact(f"{before}{prefix}{body}{after}").removeprefix(before)


@given(text=st.text(alphabet=st.sampled_from("ogw_%5F\\x:'\" BearerBasicAuthorization-\x01\n")))
def test_redaction_is_stable(text: str) -> None:
    """Once is enough; a second pass finds no new key in what the first left."""
    once = redact(text)

    assert re.search(r"ogw_[\w-]", once, re.IGNORECASE) is None
    assert re.search(r"ogw_[\w-]", redact(once), re.IGNORECASE) is None


@pytest.mark.parametrize("unit", ["ogw_", "\\", "%25", "%", "cookie ", "bearer ", "a", "\\x5f"])
def test_a_megabyte_is_redacted_in_time(unit: str) -> None:
    """No pattern tries a text again and again (this test would run into its time limit)."""
    text = unit * (1_000_000 // len(unit))

    assert isinstance(redact(text), str)


@given(text=st.text(alphabet=st.characters(), max_size=400), limit=st.integers(1, 300))
def test_sanitized_text_is_one_printable_line_of_bounded_length(text: str, limit: int) -> None:
    """Whatever it was."""
    line = sanitize(text, limit)

    assert line.isprintable()
    assert len(line) <= limit
    assert line.encode("utf-8").decode() == line


def test_a_replacement_that_is_longer_than_the_secret_stays_in_bounds() -> None:
    """Short secrets exist too."""
    assert sanitize("Cookie: a", 9) == "Cookie: ["


def test_a_control_character_inside_a_prefix_hides_nothing() -> None:
    """It is removed before the text is searched for keys."""
    assert sanitize(f"og\x00w\u200b_{BODY}") == "[key]"


def record(message: str, *args: object, **details: object) -> logging.LogRecord:
    made = logging.LogRecord("aiohttp.server", logging.ERROR, __file__, 1, message, args, None)
    made.__dict__.update(details)
    return made


def raised(exception: BaseException) -> dict[str, object]:
    try:
        raise exception
    except BaseException:  # noqa: BLE001  - to have a traceback
        return {"exc_info": sys.exc_info()}


def formatted(made: logging.LogRecord) -> str:
    """What any handler with a formatter of its own would write."""
    return logging.Formatter("%(levelname)s %(message)s").format(made)


class BadHttpMessage(Exception):
    """Looks like aiohttp's, for telemetry knows those by their module."""

    __module__ = "aiohttp.http_exceptions"


class BadStatusLine(BadHttpMessage):
    __module__ = "aiohttp._http_parser"


@pytest.mark.parametrize("kind", [BadHttpMessage, BadStatusLine])
def test_a_parse_error_becomes_one_constant_line(kind: type[Exception]) -> None:
    """Neither the offending bytes nor a traceback are kept, and the level falls to a warning."""
    made = record(f"Error handling request from {SECRET}", **raised(kind(f"GET /k/{SECRET}")))

    assert redact_record(made)
    assert f"WARNING {UNREADABLE}" == formatted(made)


def test_a_parse_error_behind_another_exception_is_found() -> None:
    """Whatever was raised from it shows it."""
    wrapped = RuntimeError("while reading")
    wrapped.__cause__ = BadHttpMessage("a prompt")
    made = record("Unhandled exception", **raised(wrapped))

    redact_record(made)

    assert f"WARNING {UNREADABLE}" == formatted(made)


def test_exceptions_that_refer_to_each_other_end() -> None:
    """A cycle of causes is possible, and no reason to hang."""
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__cause__, other.__cause__ = other, one
    made = record("Unhandled exception", **raised(one))

    redact_record(made)

    assert "RuntimeError: one" in formatted(made)


def test_message_arguments_and_exception_are_redacted() -> None:
    """The traceback of a bug stays, without the key that its message holds."""
    made = record("failed for %s", f"/k/{SECRET}", **raised(ValueError(f"no such path: {SECRET}")))

    redact_record(made)

    text = formatted(made)
    assert made.exc_info is None
    assert BODY not in text
    assert text.startswith("ERROR failed for /k/[key]\nTraceback")
    assert text.endswith("ValueError: no such path: [key]")


def test_texts_that_were_formatted_before_are_redacted() -> None:
    """Another handler may have cached the exception's text; a stack may be there as well."""
    made = record("failed", exc_text=f"Traceback {SECRET}", stack_info=f"Stack {SECRET}")

    redact_record(made)

    assert formatted(made) == "ERROR failed\nTraceback [key]\nStack [key]"


def test_long_records_are_shortened() -> None:
    """The end of a traceback says most."""
    made = record("m" * 10_000, exc_text="t" * 100_000 + "the end")

    redact_record(made)

    assert len(made.getMessage()) == MAX_MESSAGE
    assert made.exc_text is not None
    assert len(made.exc_text) == MAX_TRACEBACK
    assert made.exc_text.endswith("the end")


def test_a_shortened_traceback_leaves_no_half_of_a_key() -> None:
    """A key of which the beginning is missing would not be recognised."""
    made = record("m", exc_text=SECRET + "." * (MAX_TRACEBACK - 10))

    redact_record(made)

    assert made.exc_text is not None
    assert "wxyz" not in made.exc_text


class Obstinate(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no text for you")

    __str__ = __repr__


def test_a_record_that_cannot_be_formatted_raises_nothing() -> None:
    """A filter that raises would raise in the middle of whatever wanted to log."""
    made = record("%d", Obstinate(), **raised(Obstinate()))

    assert redact_record(made)
    assert "could not be formatted" in formatted(made)


def test_a_message_that_names_a_scheme_stays_readable() -> None:
    """Our own advice holds no key, only the place for one."""
    advice = "The key in `Authorization: Bearer` is `ollama`."

    assert redact(advice) == advice
