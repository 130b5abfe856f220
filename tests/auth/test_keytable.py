import tomllib
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.keys import Key, OldSecret, digest_of
from gateway.auth.keytable import InvalidKey, check_name, from_table, keys_from, to_table
from gateway.auth.principal import Scope
from tests.auth.fakes import NOW, a_key

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
def test_a_key_survives_its_table_and_toml(key: Key) -> None:
    """What is written is what is read, through the writer and the reader that we use."""
    text = tomlkit.dumps({"keys": {key.name: to_table(key)}})

    assert key == from_table(key.name, tomllib.loads(text)["keys"][key.name])


def test_defaults_are_not_written() -> None:
    """A person reads the file: what is usual does not stand in it."""
    assert list(to_table(a_key())) == ["sha256", "scopes", "models", "created"]


def test_the_least_table_is_a_key_with_every_default() -> None:
    """Three fields must be there, and they make the usual key."""
    assert a_key("n", secret="a", created=NOW, scopes=frozenset({Scope.INFERENCE})) == from_table(
        "n", LEAST
    )


@pytest.mark.parametrize(("word", "batch"), [("interactive", False), ("batch", True)])
def test_the_class_is_a_word(word: str, batch: bool) -> None:
    """Interactive may be said too, though nobody needs to."""
    assert from_table("n", {**LEAST, "class": word}).batch is batch


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("sha256", "abc", "key n: sha256 must be a SHA-256 digest, 64 characters out of 0-9 a-f"),
        ("sha256", 7, "key n: sha256 must be a SHA-256 digest"),
        ("sha256", DIGEST.upper(), "key n: sha256 must be a SHA-256 digest"),
        ("scopes", [], "key n: scopes must hold at least one of discovery, inference, admin"),
        (
            "scopes",
            ["root"],
            "key n: scopes must hold only discovery, inference, admin, not 'root'",
        ),
        ("scopes", "inference", "key n: scopes must be a list of texts, not 'inference'"),
        ("models", [], "key n: models must hold at least one name or glob"),
        ("models", "*", "key n: models must be a list of texts, not '*'"),
        ("models", ["a b"], "key n: models must hold model names"),
        ("models", [""], "key n: models must hold model names"),
        ("models", ["a\0"], "key n: models must hold model names"),
        ("models", ["[ab]"], "key n: models must hold model names"),
        ("models", ["a" * 257], "key n: models must hold model names"),
        ("models", [7], "key n: models must be a list of texts"),
        ("cloud", [" "], "key n: cloud must hold model names"),
        ("tune", 1, "key n: tune must be true or false, not 1"),
        ("rpm", 0, "key n: rpm must be a whole number from 1 to 1000000, not 0"),
        ("rpm", True, "key n: rpm must be a whole number from 1 to 1000000, not True"),
        ("rpm", 1.5, "key n: rpm must be a whole number"),
        ("rpm", "60", "key n: rpm must be a whole number from 1 to 1000000, not '60'"),
        ("max_active", -1, "key n: max_active must be a whole number from 1 to 10000, not -1"),
        ("weight", 0, "key n: weight must be a number from 0.01 to 100, not 0"),
        ("weight", float("nan"), "key n: weight must be a number from 0.01 to 100, not nan"),
        ("weight", float("inf"), "key n: weight must be a number"),
        ("weight", True, "key n: weight must be a number"),
        ("class", "bulk", "key n: class must be interactive or batch, not 'bulk'"),
        ("class", True, "key n: class must be interactive or batch, not True"),
        ("class", ["batch"], "key n: class must be interactive or batch, not ['batch']"),
        ("created", "today", "key n: created must be a time such as 2030-01-31T12:00:00Z, not "),
        ("expires", 90, "key n: expires must be a time"),
        ("expires", date(9999, 1, 1), "key n: expires must be a time"),
        (
            "expires",
            datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
            "key n: expires must be a time",
        ),
        ("revoked", True, "key n: revoked must be a time"),
        ("previous", [{"sha256": DIGEST}], "key n: previous must be a list of {sha256, until}"),
        ("previous", ["x"], "key n: previous must be a list of {sha256, until}"),
        ("previous", {}, "key n: previous must be a list of {sha256, until}, not {}"),
        (
            "previous",
            [{"sha256": "", "until": NOW}],
            "key n: previous must be a SHA-256 digest",
        ),
        ("modles", ["*"], "key n: unknown field 'modles'; the fields are sha256, scopes, models"),
    ],
)
def test_a_complaint_names_key_and_field(field: str, value: object, expected: str) -> None:
    """And what is allowed, in one line."""
    with pytest.raises(InvalidKey) as caught:
        from_table("n", LEAST | {field: value})

    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", LEAST)
def test_a_missing_field_is_named(field: str) -> None:
    """Nothing is guessed for it."""
    table = {name: value for name, value in LEAST.items() if name != field}

    with pytest.raises(InvalidKey, match=rf"^key n: the field {field} is missing$"):
        from_table("n", table)


def test_a_key_in_the_place_of_its_digest_is_not_repeated() -> None:
    """A likely mistake, and the error goes to a log."""
    with pytest.raises(InvalidKey) as caught:
        from_table("n", LEAST | {"sha256": "ogw_secret"})

    assert "ogw_secret" not in str(caught.value)


def test_long_values_are_shortened() -> None:
    """The line stays one that fits a log."""
    with pytest.raises(InvalidKey) as caught:
        from_table("n", LEAST | {"rpm": "x" * 10_000})

    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "value",
    [
        datetime(2030, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))),
        datetime(2030, 1, 1),  # noqa: DTZ001  - as TOML gives a time without a zone
        date(2030, 1, 1),
    ],
)
def test_times_without_zone_or_clock_are_utc(value: date) -> None:
    """A date alone is its midnight."""
    key = from_table("n", LEAST | {"expires": value})

    assert datetime(2030, 1, 1, tzinfo=UTC) == key.expires


@pytest.mark.parametrize("name", ["a", "A.b-c_9", "x" * 64, "-", "..."])
def test_a_name(name: str) -> None:
    """Sixty-four characters that need no quoting in a log, a label or an address."""
    assert name == check_name(name)


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a:b", "ä", "a\n", "a/b", "١"])  # noqa: RUF001  - a digit, but none of ours
def test_not_a_name(name: str) -> None:
    """A colon would end the name in Basic, a slash the host in an address."""
    with pytest.raises(InvalidKey, match="cannot name a key"):
        check_name(name)


def test_names_differ_in_more_than_case() -> None:
    """Basic and the commands take either spelling, so it must mean one key."""
    other = LEAST | {"sha256": digest_of("b")}

    with pytest.raises(InvalidKey, match=r"^keys Laptop and laptop: names must differ"):
        keys_from({"keys": {"Laptop": LEAST, "laptop": other}})


def test_two_keys_cannot_have_one_secret() -> None:
    """A copied table would make two keys of which only one can be meant."""
    with pytest.raises(InvalidKey, match=r"^keys a and b: sha256 is the same$"):
        keys_from({"keys": {"a": LEAST, "b": LEAST}})
    with pytest.raises(InvalidKey, match=r"^keys a and a: sha256 is the same$"):
        keys_from({"keys": {"a": LEAST | {"previous": [{"sha256": DIGEST, "until": NOW}]}}})


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"key": {}}, "unknown entry 'key': keys are tables"),
        ({"keys": []}, "`keys` must hold one table for each key"),
        ({"keys": {"a": 1}}, "key a: must be a table"),
    ],
)
def test_anything_but_keys_is_refused(document: dict[str, object], expected: str) -> None:
    """`[key.a]` is a typing mistake, and to ignore it would lock its bearer out."""
    with pytest.raises(InvalidKey) as caught:
        keys_from(document)

    assert str(caught.value).startswith(expected)


def test_a_file_without_keys_has_none() -> None:
    """An empty one, or nothing but comments."""
    assert keys_from({}) == ()


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
    [*to_table(a_key()), "expires", "previous", "rpm", "weight", "class", "cloud"]
)


@given(field_names, values)
def test_nothing_but_invalid_key_is_raised(field: str, value: object) -> None:
    """Whatever a person writes there: the gateway survives it with a line to say."""
    with suppress(InvalidKey):
        from_table("n", LEAST | {field: value})
