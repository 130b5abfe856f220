import os
import re
import stat
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.keyfile import (
    HEADER,
    MAX_FILE_BYTES,
    InvalidKey,
    KeyExists,
    KeyFileError,
    KeyRevoked,
    NoSuchKey,
    Stamp,
    check_name,
    create_key,
    key_from_table,
    keys_from_document,
    load,
    parse,
    read_content,
    revoke_key,
    rotate_key,
    stamp_of,
    table_of,
    warning_about,
    with_changed,
    with_new,
)
from gateway.auth.keys import Key, KeySpec, KeyState, OldSecret, Scope, digest_of
from tests.auth.fakes import DAY, NOW, a_file, a_key
from tests.test_files import full_disk, names_in

# Schema

DIGEST = digest_of("a")
LEAST: dict[str, object] = {"sha256": DIGEST, "created": NOW, "scopes": ["inference"]}

moments = st.datetimes(
    datetime(2000, 1, 1),  # noqa: DTZ001  - hypothesis wants them naive
    datetime(2999, 12, 31),  # noqa: DTZ001  - hypothesis wants them naive
    timezones=st.just(UTC),
).map(lambda moment: moment.replace(microsecond=0))
digests = st.binary(min_size=1).map(lambda raw: digest_of(raw.hex()))
globs = st.lists(st.text("abz09.:-_/*?", min_size=1, max_size=20), min_size=1).map(tuple)
keys = st.builds(
    Key,
    name=st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True),
    digest=digests,
    created=moments,
    scopes=st.sets(st.sampled_from(Scope), min_size=1).map(frozenset),
    models=globs,
    cloud=globs | st.just(()),
    tune=st.booleans(),
    rpm=st.none() | st.integers(1, 1_000_000),
    max_active=st.none() | st.integers(1, 10_000),
    weight=st.floats(0.01, 100.0),
    batch=st.booleans(),
    expires=st.none() | moments,
    revoked=st.none() | moments,
    previous=st.lists(st.builds(OldSecret, digests, moments), max_size=3).map(tuple),
)


@given(keys)
def test_every_key_round_trips_through_toml(key: Key) -> None:
    text = tomlkit.dumps({"keys": {key.name: table_of(key)}})

    assert key == key_from_table(key.name, tomllib.loads(text)["keys"][key.name])


def test_defaults_are_not_written() -> None:
    assert list(table_of(a_key())) == ["sha256", "scopes", "models", "created"]


def test_the_smallest_table_is_a_key_with_every_default() -> None:
    assert a_key(
        "n", secret="a", created=NOW, scopes=frozenset({Scope.INFERENCE})
    ) == key_from_table("n", LEAST)


@pytest.mark.parametrize(("word", "batch"), [("interactive", False), ("batch", True)])
def test_the_class_may_be_written_even_if_it_is_the_default(word: str, batch: bool) -> None:
    assert key_from_table("n", {**LEAST, "class": word}).batch is batch


A_DIGEST = "must be a SHA-256 digest, 64 characters from 0-9 a-f"
SCOPES = "must be a list of one or more of discovery, inference, admin, not "
MODELS = "must be a list of one or more model names with the wildcards * and ?; "
A_TIME = "must be a time such as 2030-01-31T12:00:00Z, not "
PREVIOUS = "must be a list of {sha256, until}, the digests and ends of old secrets"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("sha256", "abc", A_DIGEST),
        ("sha256", 7, A_DIGEST),
        ("sha256", DIGEST.upper(), A_DIGEST),
        ("sha256", DIGEST + "\n", A_DIGEST),
        ("scopes", [], f"{SCOPES}[]"),
        ("scopes", ["root"], f"{SCOPES}'root'"),
        ("scopes", "inference", f"{SCOPES}'inference'"),
        ("models", [], f'{MODELS}["*"] allows every model, not []'),
        ("models", "*", MODELS),
        ("models", ["a b"], MODELS),
        ("models", [""], MODELS),
        ("models", ["a\0"], MODELS),
        ("models", ["[ab]"], MODELS),
        ("models", ["a" * 257], MODELS),
        ("models", [7], MODELS),
        ("cloud", [" "], "must be a list of model names with the wildcards * and ?, not ' '"),
        ("tune", 1, "must be true or false, not 1"),
        ("rpm", 0, "must be a whole number from 1 to 1000000, not 0"),
        ("rpm", 1_000_001, "must be a whole number from 1 to 1000000, not 1000001"),
        ("rpm", True, "must be a whole number from 1 to 1000000, not True"),
        ("rpm", 1.5, "must be a whole number from 1 to 1000000, not 1.5"),
        ("rpm", "60", "must be a whole number from 1 to 1000000, not '60'"),
        ("max_active", -1, "must be a whole number from 1 to 10000, not -1"),
        ("weight", 0, "must be a number from 0.01 to 100, not 0"),
        ("weight", float("nan"), "must be a number from 0.01 to 100, not nan"),
        ("weight", float("inf"), "must be a number from 0.01 to 100, not inf"),
        ("weight", True, "must be a number from 0.01 to 100, not True"),
        ("class", "bulk", "must be interactive or batch, not 'bulk'"),
        ("class", True, "must be interactive or batch, not True"),
        ("class", ["batch"], "must be interactive or batch, not ['batch']"),
        ("created", "today", f"{A_TIME}'today'"),
        ("expires", 90, f"{A_TIME}90"),
        ("expires", date(9999, 1, 1), A_TIME),
        ("expires", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), A_TIME),
        ("revoked", True, f"{A_TIME}True"),
        ("previous", [{"sha256": DIGEST}], PREVIOUS),
        ("previous", [{"sha256": DIGEST, "until": NOW, "x": 1}], PREVIOUS),
        ("previous", ["x"], PREVIOUS),
        ("previous", {}, PREVIOUS),
        ("previous", [{"sha256": "", "until": NOW}], PREVIOUS),
    ],
)
def test_a_mistake_is_reported_in_one_line_with_key_and_field(
    field: str, value: object, expected: str
) -> None:
    with pytest.raises(InvalidKey) as caught:
        key_from_table("n", LEAST | {field: value})

    assert str(caught.value).startswith(f"key n: {field} {expected}")
    assert "\n" not in str(caught.value)


def test_an_unknown_field_is_refused_with_the_known_ones() -> None:
    """Ignoring `modles` would allow every model."""
    with pytest.raises(InvalidKey) as caught:
        key_from_table("n", LEAST | {"modles": ["*"]})

    assert str(caught.value) == (
        "key n: unknown field 'modles'; the fields are sha256, scopes, models, created, expires, "
        "rpm, max_active, tune, cloud, weight, class, revoked, previous"
    )


def test_a_misspelled_required_field_is_reported_as_unknown() -> None:
    table = {"sha": DIGEST, "created": NOW, "scopes": ["inference"]}

    with pytest.raises(InvalidKey, match=r"^key n: unknown field 'sha'; the fields are sha256, "):
        key_from_table("n", table)


@pytest.mark.parametrize("field", LEAST)
def test_a_missing_field_is_named(field: str) -> None:
    table = {name: value for name, value in LEAST.items() if name != field}

    with pytest.raises(InvalidKey, match=rf"^key n: the field {field} is missing$"):
        key_from_table("n", table)


def test_a_secret_in_place_of_its_digest_is_not_repeated() -> None:
    """A likely mistake, and the error goes to a log."""
    mistakes: list[dict[str, object]] = [
        {"sha256": "ogw_secret"},
        {"previous": "ogw_secret"},
        {"previous": [{"sha256": "ogw_secret", "until": NOW}]},
    ]
    for mistake in mistakes:
        with pytest.raises(InvalidKey) as caught:
            key_from_table("n", LEAST | mistake)

        assert "ogw_secret" not in str(caught.value)


def test_long_values_are_shortened() -> None:
    with pytest.raises(InvalidKey) as caught:
        key_from_table("n", LEAST | {"rpm": "x" * 10_000})

    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "value",
    [
        datetime(2030, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))),
        datetime(2030, 1, 1),  # noqa: DTZ001  - as TOML gives a time without a zone
        date(2030, 1, 1),
    ],
)
def test_times_without_zone_are_utc_and_dates_are_midnight(value: date) -> None:
    key = key_from_table("n", LEAST | {"expires": value})

    assert datetime(2030, 1, 1, tzinfo=UTC) == key.expires


@pytest.mark.parametrize("name", ["a", "A.b-c_9", "x" * 64, "-", "..."])
def test_a_valid_name(name: str) -> None:
    """It needs no quoting in a log, a label or a URL."""
    assert name == check_name(name)


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a:b", "ä", "a\n", "a/b", "١"])  # noqa: RUF001  - a digit, but none of ours
def test_an_invalid_name_is_refused(name: str) -> None:
    """A colon would end the name in Basic, a slash the host in a URL."""
    with pytest.raises(InvalidKey, match="is not a valid name for a key"):
        check_name(name)


def test_names_that_differ_only_in_case_are_refused() -> None:
    """Basic and the commands ignore case."""
    other = LEAST | {"sha256": digest_of("b")}

    with pytest.raises(InvalidKey, match=r"^keys Laptop and laptop: names must differ"):
        keys_from_document({"keys": {"Laptop": LEAST, "laptop": other}})


def test_two_keys_with_the_same_secret_are_refused() -> None:
    """A copied table makes two keys of which only one is meant."""
    with pytest.raises(InvalidKey, match=r"^keys a and b: sha256 is the same$"):
        keys_from_document({"keys": {"a": LEAST, "b": LEAST}})
    with pytest.raises(InvalidKey, match=r"^keys a and a: sha256 is the same$"):
        keys_from_document(
            {"keys": {"a": LEAST | {"previous": [{"sha256": DIGEST, "until": NOW}]}}}
        )


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"key": {}}, "unknown entry 'key': keys are tables"),
        ({"keys": []}, "`keys` must contain one table for each key"),
        ({"keys": {"a": 1}}, "key a: must be a table"),
    ],
)
def test_anything_but_keys_is_refused(document: dict[str, object], expected: str) -> None:
    """`[key.a]` is a typing error, and ignoring it would lock out the key."""
    with pytest.raises(InvalidKey) as caught:
        keys_from_document(document)

    assert str(caught.value).startswith(expected)


def test_a_file_without_keys_has_none() -> None:
    """An empty one, or nothing but comments."""
    assert keys_from_document({}) == ()


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.datetimes()
    | st.dates()
    | st.times(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
field_names = st.sampled_from(
    [*table_of(a_key()), "expires", "previous", "rpm", "weight", "class", "cloud"]
)


@given(field_names, values)
def test_any_value_is_a_key_or_one_kind_of_error(field: str, value: object) -> None:
    with suppress(InvalidKey):
        key_from_table("n", LEAST | {field: value})


# Text

FIRST, SECOND = a_key("first", secret="1"), a_key("second.key", secret="2", rpm=60)
BY_HAND = f"""\
# our keys; ask Ada before you change one

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
rpm = 60 # on request
"""


def test_a_new_file_begins_with_the_header() -> None:
    text = with_new("", FIRST)

    assert text.startswith(HEADER + "\n[keys.first]\n")
    assert parse(text) == (FIRST,)


def test_the_header_names_the_commands_and_is_all_comment() -> None:
    assert all(line.startswith("#") for line in HEADER.splitlines())
    assert "ollama-gateway keys create | list | rotate | revoke" in HEADER


def test_a_new_key_is_appended_and_the_rest_unchanged() -> None:
    text = with_new(BY_HAND, new := a_key("third", secret="3"))

    assert text.startswith(BY_HAND + "\n[keys.third]\n")
    assert parse(text) == (FIRST, SECOND, new)


@pytest.mark.parametrize("end", ["", "\n", "\n\n\n", "\n# the end", "\r\n"])
def test_a_new_key_is_separated_however_the_file_ends(end: str) -> None:
    text = with_new(BY_HAND.rstrip() + end, new := a_key("third", secret="3"))

    assert "\n\n[keys.third]\n" in text
    assert parse(text) == (FIRST, SECOND, new)


def test_a_comment_without_keys_is_kept_instead_of_the_header() -> None:
    assert with_new("# mine\n", FIRST).startswith("# mine\n\n[keys.first]\n")


def test_an_edit_keeps_comments_order_and_formatting() -> None:
    """Values that are written although they are the default stay too."""
    rotated = FIRST.rotated(digest=digest_of("new"), now=NOW, overlap=DAY)

    text = with_changed(BY_HAND, old=FIRST, new=rotated)

    expected = BY_HAND.replace(digest_of("1"), digest_of("new"))
    expected = expected.replace("created = 2030-01-30 12:00:00Z", "created = 2030-01-31T12:00:00Z")
    previous = f'{{sha256 = "{digest_of("1")}", until = 2030-02-01T12:00:00Z}}'
    expected = expected.replace("the others\n", f"the others\nprevious = [{previous}]\n")
    assert text == expected
    assert parse(text) == (rotated, SECOND)


def test_the_last_table_can_be_edited_without_a_final_newline() -> None:
    revoked = SECOND.revoked_at(NOW)

    text = with_changed(BY_HAND.rstrip(), old=SECOND, new=revoked)

    assert text == BY_HAND + "revoked = 2030-01-31T12:00:00Z\n"


def test_a_key_under_a_revoked_name_keeps_no_field_of_the_old_one() -> None:
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
def test_inline_tables_are_read_but_not_edited(text: str) -> None:
    """They are valid TOML; an edit that could go wrong is refused with what to do."""
    (old,) = parse(text)

    with pytest.raises(InvalidKey, match=r"^key n: .* must be written as \[keys\.n\]$"):
        with_changed(text, old=old, new=old.revoked_at(NOW))


@given(st.lists(keys, min_size=1, max_size=4, unique_by=lambda key: key.name.casefold()))
def test_any_keys_can_be_added_and_edited(several: list[Key]) -> None:
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
def test_invalid_toml_is_reported_in_one_line(text: str, expected: str) -> None:
    """With the position, where the parser knows it."""
    with pytest.raises(InvalidKey) as caught:
        parse(text)

    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_invalid_toml_is_reported_with_what_to_do() -> None:
    with pytest.raises(InvalidKey, match="; fix it, or move the file away and create new keys"):
        parse("[keys.a")


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """Editors leave partial files."""
    with suppress(InvalidKey):
        assert parse(text) == ()


# Files


def test_a_created_key_is_stored_without_its_secret(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"

    secret = create_key(path, KeySpec(name="laptop", rpm=60), NOW)

    (key,) = load(path)
    assert (key.name, key.rpm, key.digest) == ("laptop", 60, digest_of(secret))
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_missing_folders_are_created_private(tmp_path: Path) -> None:
    path = tmp_path / "config" / "ollama-gateway" / "keys.toml"

    create_key(path, KeySpec(name="laptop"), NOW)

    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["laptop", "LAPTOP"])
def test_a_name_in_use_is_refused(tmp_path: Path, name: str) -> None:
    """Regardless of case; the error has the spelling of the file."""
    path, _ = a_file(tmp_path, "laptop")
    before = path.read_bytes()

    with pytest.raises(KeyExists) as caught:
        create_key(path, KeySpec(name=name), NOW)

    assert caught.value.name == "laptop"
    assert path.read_bytes() == before


def test_the_name_of_a_revoked_key_can_be_used_again(tmp_path: Path) -> None:
    path, _ = a_file(tmp_path, "before", "laptop", "after")
    revoke_key(path, "laptop", now=NOW)

    secret = create_key(path, KeySpec(name="laptop", rpm=7), NOW)

    keys = {key.name: key for key in load(path)}
    assert list(keys) == ["before", "laptop", "after"]
    assert keys["laptop"].digest == digest_of(secret)
    assert (keys["laptop"].state(NOW), keys["laptop"].rpm) == (KeyState.ACTIVE, 7)
    with pytest.raises(KeyExists):
        create_key(path, KeySpec(name="BEFORE"), NOW)


def test_a_revoked_name_in_another_spelling_is_in_use(tmp_path: Path) -> None:
    """Two tables whose names differ only in case would make an invalid file."""
    path, _ = a_file(tmp_path, "laptop")
    revoke_key(path, "laptop", now=NOW)

    with pytest.raises(KeyExists, match="the key laptop already exists"):
        create_key(path, KeySpec(name="Laptop"), NOW)


def test_an_invalid_spec_creates_no_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidKey, match=r"^key n: rpm must be a whole number"):
        create_key(tmp_path / "keys.toml", KeySpec(name="n", rpm=0), NOW)
    with pytest.raises(InvalidKey, match=r"^'a b' is not a valid name for a key"):
        create_key(tmp_path / "keys.toml", KeySpec(name="a b"), NOW)

    assert names_in(tmp_path) == []


def test_a_rotated_key_keeps_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    old = create_key(path, KeySpec(name="n", rpm=7, models=("a*",)), NOW - DAY)

    rotated = rotate_key(path, "N", now=NOW, overlap=timedelta(hours=24))

    (key,) = load(path)
    assert rotated.key == key
    assert (key.name, key.rpm, key.models) == ("n", 7, ("a*",))
    assert key.digest == digest_of(rotated.secret)
    assert [(was.digest, was.until) for was in key.previous] == [(digest_of(old), NOW + DAY)]
    assert rotated.secret not in repr(rotated)


def test_a_revoked_key_cannot_be_rotated(tmp_path: Path) -> None:
    path, _ = a_file(tmp_path, "n")
    revoke_key(path, "n", now=NOW)

    with pytest.raises(KeyRevoked):
        rotate_key(path, "n", now=NOW)


def test_a_key_with_an_expiry_before_its_creation_cannot_be_rotated(tmp_path: Path) -> None:
    """An owner may end a key by hand like this."""
    path, _ = a_file(tmp_path, "n")
    path.write_text(path.read_text() + "expires = 2020-01-01\n")

    with pytest.raises(KeyFileError, match="correct expires first"):
        rotate_key(path, "n", now=NOW)


def test_revoking_twice_changes_nothing(tmp_path: Path) -> None:
    path, _ = a_file(tmp_path, "n")

    revoke_key(path, "n", now=NOW)
    before = path.read_text()
    revoke_key(path, "n", now=NOW + DAY)

    assert path.read_text() == before


@pytest.mark.parametrize("there_is_a_file", [True, False])
def test_rotating_or_revoking_an_unknown_key_creates_nothing(
    tmp_path: Path, *, there_is_a_file: bool
) -> None:
    path = a_file(tmp_path, "other")[0] if there_is_a_file else tmp_path / "keys.toml"

    with pytest.raises(NoSuchKey, match="there is no key n"):
        rotate_key(path, "n", now=NOW)
    with pytest.raises(NoSuchKey):
        revoke_key(path, "n", now=NOW)

    assert path.exists() == there_is_a_file


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[keys", "not valid TOML: "),
        (b"[keys.a]\n", "key a: the field sha256 is missing"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
)
def test_an_invalid_file_is_refused_in_one_line_and_left_unchanged(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    path = tmp_path / "keys.toml"
    path.write_bytes(content)
    attempts = (
        lambda: create_key(path, KeySpec(name="n"), NOW),
        lambda: rotate_key(path, "n", now=NOW),
        lambda: revoke_key(path, "n", now=NOW),
        lambda: load(path),
    )

    for attempt in attempts:
        with pytest.raises(KeyFileError) as caught:
            attempt()
        assert re.fullmatch(rf"{re.escape(str(path))}:? {re.escape(expected)}.*", str(caught.value))

    assert path.read_bytes() == content


def test_a_file_that_cannot_be_edited_is_left_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(before := "keys = {}\n")

    with pytest.raises(KeyFileError, match="cannot be edited and was left unchanged"):
        create_key(path, KeySpec(name="n"), NOW)

    assert path.read_text() == before


def test_a_full_disk_leaves_the_file_unchanged(tmp_path: Path) -> None:
    path, _ = a_file(tmp_path, "n")
    before = path.read_bytes()

    with full_disk(), pytest.raises(KeyFileError) as caught:
        create_key(path, KeySpec(name="other"), NOW)

    assert str(caught.value) == f"{path} cannot be written and was left unchanged: File too large"
    assert path.read_bytes() == before


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "keys.toml"

    with pytest.raises(
        KeyFileError, match=r"keys\.toml cannot be written and was left unchanged: "
    ):
        create_key(path, KeySpec(name="n"), NOW)
    with pytest.raises(KeyFileError, match=r"keys\.toml cannot be read: Not a directory$"):
        load(path)
    with pytest.raises(KeyFileError, match=r"keys\.toml cannot be read: Not a directory$"):
        stamp_of(path)


def test_a_folder_in_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    """A failed mount leaves one."""
    with pytest.raises(KeyFileError, match="is not a file"):
        load(tmp_path)


def test_a_pipe_in_place_of_the_file_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys.toml")

    with pytest.raises(KeyFileError, match="is not a file"):
        load(tmp_path / "keys.toml")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)

    with pytest.raises(KeyFileError, match="is larger than"):
        load(path)


def test_a_missing_file_has_no_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"

    assert (load(path), stamp_of(path), read_content(path)) == ((), None, None)


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    path, real = tmp_path / "keys.toml", tmp_path / "secrets" / "real.toml"
    path.symlink_to(real)

    create_key(path, KeySpec(name="n"), NOW)
    create_key(path, KeySpec(name="m"), NOW)

    assert path.is_symlink()
    assert [key.name for key in load(real)] == ["n", "m"]


def test_a_circular_link_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.symlink_to(path)

    with pytest.raises(KeyFileError, match="keys"):
        create_key(path, KeySpec(name="n"), NOW)


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    path, _ = a_file(tmp_path, "n")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())

    create_key(path, KeySpec(name="m"), NOW)

    assert [key.name for key in load(path)] == ["n", "m"]


def test_concurrent_commands_lose_no_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    names = [f"key{number}" for number in range(24)]

    with ThreadPoolExecutor(8) as pool:
        secrets = list(pool.map(lambda name: create_key(path, KeySpec(name=name), NOW), names))

    digests = {key.name: key.digest for key in load(path)}
    assert digests == {name: digest_of(secret) for name, secret in zip(names, secrets, strict=True)}
    assert names_in(tmp_path) == ["keys.toml"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_file_that_other_users_can_access_is_warned_about(tmp_path: Path, mode: int) -> None:
    path, _ = a_file(tmp_path, "n")
    assert warning_about(path, stamp(path)) is None

    path.chmod(mode)

    expected = f"{path} has mode {mode:04o}: other users can access it; run `chmod 600 {path}`"
    assert warning_about(path, stamp(path)) == expected


def stamp(path: Path) -> Stamp:
    found = stamp_of(path)
    assert found is not None
    return found
