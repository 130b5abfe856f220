from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.keys import Key, digest_of
from gateway.auth.keytable import InvalidKey
from gateway.auth.keytext import HEADER, parse, with_changed, with_new
from tests.auth.fakes import DAY, NOW, a_key
from tests.auth.test_keytable import keys

FIRST, SECOND = a_key("first", secret="1"), a_key("second.key", secret="2", rpm=60)
BY_HAND = f"""\
# our keys; ask Ada before you touch one

[keys.first]   # the laptop in the lab
sha256 = "{digest_of("1")}"
created = 2030-01-30 12:00:00Z
scopes = [
  "inference",   # chat
  "discovery",   # lists
]
weight = 1.0     # like the others
# on purpose without a limit

# The second one is John's.
[keys."second.key"]
created = 2030-01-30T12:00:00Z
sha256 = '{digest_of("2")}'
scopes = ["discovery", "inference"]
rpm = 60 # he asked for more
"""


def test_the_first_key_gets_the_header() -> None:
    """Whoever opens the file is told what it is and how to change it."""
    text = with_new("", FIRST)

    assert text.startswith(HEADER + "\n[keys.first]\n")
    assert parse(text) == (FIRST,)


def test_the_header_names_the_commands_and_is_all_comment() -> None:
    """It is a part of every keys file there will be."""
    assert all(line.startswith("#") for line in HEADER.splitlines())
    assert "ollama-gateway keys create | list | rotate | revoke" in HEADER


def test_a_new_key_goes_to_the_end() -> None:
    """All that stood there stands there still, to the letter."""
    text = with_new(BY_HAND, new := a_key("third", secret="3"))

    assert text.startswith(BY_HAND + "\n[keys.third]\n")
    assert parse(text) == (FIRST, SECOND, new)


@pytest.mark.parametrize("end", ["", "\n", "\n\n\n", "\n# the end", "\r\n"])
def test_a_new_key_stands_apart_however_the_file_ends(end: str) -> None:
    """A missing newline does not glue a table to the line before it."""
    text = with_new(BY_HAND.rstrip() + end, new := a_key("third", secret="3"))

    assert "\n\n[keys.third]\n" in text
    assert parse(text) == (FIRST, SECOND, new)


def test_a_comment_without_keys_is_kept_instead_of_the_header() -> None:
    """A person who emptied the file has said what he wants there."""
    assert with_new("# mine\n", FIRST).startswith("# mine\n\n[keys.first]\n")


def test_a_change_touches_its_fields_and_nothing_else() -> None:
    """Comments, order, spelling, and values that are written although they are the default."""
    rotated = FIRST.rotated(digest=digest_of("new"), now=NOW, overlap=DAY)

    text = with_changed(BY_HAND, old=FIRST, new=rotated)

    expected = BY_HAND.replace(digest_of("1"), digest_of("new"))
    expected = expected.replace("created = 2030-01-30 12:00:00Z", "created = 2030-01-31T12:00:00Z")
    previous = f'{{sha256 = "{digest_of("1")}", until = 2030-02-01T12:00:00Z}}'
    expected = expected.replace("the others\n", f"the others\nprevious = [{previous}]\n")
    assert text == expected
    assert parse(text) == (rotated, SECOND)


def test_the_last_table_can_be_changed() -> None:
    """Even if the file ends without a newline."""
    revoked = SECOND.revoked_at(NOW)

    text = with_changed(BY_HAND.rstrip(), old=SECOND, new=revoked)

    assert text == BY_HAND + "revoked = 2030-01-31T12:00:00Z\n"


def test_fields_that_went_are_removed() -> None:
    """A key that is made anew under a revoked name has nothing of the old one."""
    old = a_key("n", secret="1", revoked=NOW, rpm=5, tune=True)
    new = a_key("n", secret="2")

    text = with_changed(with_new("", old), old=old, new=new)

    assert parse(text) == (new,)
    assert not any(word in text for word in ("revoked =", "rpm", "tune"))


@pytest.mark.parametrize(
    "text",
    [
        f'keys = {{n = {{sha256 = "{digest_of("1")}", created = 2030-01-01, scopes = ["admin"]}}}}',
        f'keys.n = {{sha256 = "{digest_of("1")}", created = 2030-01-01, scopes = ["admin"]}}',
        f'[keys]\nn = {{sha256 = "{digest_of("1")}", created = 2030-01-01, scopes = ["admin"]}}',
    ],
)
def test_tables_within_a_line_are_read_but_not_edited(text: str) -> None:
    """They are valid TOML; an edit that could go wrong is refused with what to do."""
    (old,) = parse(text)

    with pytest.raises(InvalidKey, match=r"^key n: .* must be written as \[keys\.n\]$"):
        with_changed(text, old=old, new=old.revoked_at(NOW))


@given(st.lists(keys, min_size=1, max_size=4, unique_by=lambda key: key.name.casefold()))
def test_any_keys_can_be_added_and_changed(several: list[Key]) -> None:
    """Every edit reads back as what was meant, whatever the names and values."""
    several = [
        replace(key, digest=digest_of(key.name), previous=(), expires=None) for key in several
    ]
    text = ""
    for key in several:
        text = with_new(text, key)
    assert parse(text) == tuple(several)

    for key in several:
        rotated = key.rotated(digest=digest_of(f"new {key.name}"), now=NOW, overlap=DAY)
        text = with_changed(text, old=key, new=rotated)
        text = with_changed(text, old=rotated, new=rotated.revoked_at(NOW))
    assert [key.name for key in parse(text)] == [key.name for key in several]
    assert all(key.revoked is not None for key in parse(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[keys.a", "not valid TOML: Expected ']' at the end of a table declaration (at end"),
        ("x = 1", "unknown entry 'x'"),
        ("[keys]\n[keys]", "not valid TOML: Cannot declare ('keys',) twice (at line 2"),
        ("x = " + "[" * 100_000, "not valid TOML: nested too deep"),
        ("x = " + "9" * 5000, "not valid TOML: "),
        ("x = 2030-02-31", "not valid TOML: "),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, expected: str) -> None:
    """With the place, where the parser knows it."""
    with pytest.raises(InvalidKey) as caught:
        parse(text)

    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_what_to_do_about_a_broken_file_is_said_with_it() -> None:
    """It can be mended, or left behind."""
    with pytest.raises(InvalidKey, match="; correct that, or move the file away and make new keys"):
        parse("[keys.a")


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing comes out of the parser but keys or one kind of error: editors leave half a file."""
    with suppress(InvalidKey):
        assert parse(text) == ()
