import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.credentials import MAX_SECRET, Credential, presented
from gateway.auth.rejections import Place
from gateway.errors import InvalidApiKey
from tests.auth.fakes import headers

KEY = "ogw_" + "x" * 43


def basic(text: str | bytes) -> str:
    raw = text.encode() if isinstance(text, str) else text
    return f"Basic {base64.b64encode(raw).decode()}"


def from_authorization(value: str) -> tuple[Credential, ...]:
    return presented(headers(Authorization=value))


def refusal(*pairs: tuple[str, str], path_token: str | None = None) -> InvalidApiKey:
    with pytest.raises(InvalidApiKey) as caught:
        presented(headers(*pairs), path_token)
    return caught.value


def test_nothing_is_presented() -> None:
    """That is for the caller of this to answer; it is not malformed."""
    assert presented(headers(Accept="*/*")) == ()


@pytest.mark.parametrize(
    "value",
    [f"Bearer {KEY}", f"bearer {KEY}", f"BEARER {KEY}", f"Bearer   {KEY} ", f" Bearer \t{KEY}\t"],
)
def test_bearer(value: str) -> None:
    """The scheme has no case, and spaces around the key are nobody's intention."""
    assert from_authorization(value) == (Credential(Place.BEARER, KEY),)


def test_the_header_of_the_anthropic_clients() -> None:
    """Names of headers have no case."""
    assert presented(headers(("X-API-Key", f" {KEY} "))) == (Credential(Place.X_API_KEY, KEY),)


@pytest.mark.parametrize(
    ("text", "name", "secret"),
    [
        (f"laptop:{KEY}", "laptop", KEY),
        (f":{KEY}", "", KEY),
        ("a:b:c", "a", "b:c"),
        (f"gerät:{KEY}", "gerät", KEY),
    ],
)
def test_basic(text: str, name: str, secret: str) -> None:
    """The first colon ends the name, which is UTF-8 (RFC 7617)."""
    assert from_authorization(basic(text)) == (Credential(Place.BASIC, secret, name),)


def test_basic_without_padding() -> None:
    """Some clients leave it out; it says nothing."""
    for text in ("a:b", "a:bc", "a:bcd"):
        (credential,) = from_authorization(basic(text).rstrip("="))

        assert credential.secret == text[2:]


def test_the_path() -> None:
    """It comes as the route found it."""
    assert presented(headers(), KEY) == (Credential(Place.PATH, KEY),)


def test_all_are_found_and_the_header_comes_first() -> None:
    """The first decides: Authorization, then x-api-key, then the path."""
    found = presented(headers(("x-api-key", "b"), ("Authorization", "Bearer a")), "c")

    assert [(credential.place, credential.secret) for credential in found] == [
        (Place.BEARER, "a"),
        (Place.X_API_KEY, "b"),
        (Place.PATH, "c"),
    ]


@pytest.mark.parametrize("name", ["Authorization", "x-api-key"])
def test_a_header_that_comes_twice(name: str) -> None:
    """Another proxy might decide by the other one; even if both say the same."""
    value = "Bearer a" if name == "Authorization" else "a"

    error = refusal((name, value), (name.lower(), value))

    assert error.reason == "malformed"
    assert f"more than one `{name}`" in error.message


@pytest.mark.parametrize("value", [KEY, f"Digest {KEY}", f"Bearer:{KEY}", f"Token token={KEY}"])
def test_a_scheme_that_we_do_not_take(value: str) -> None:
    """The answer says what to send; a key without a scheme is the likeliest case."""
    error = refusal(("Authorization", value))

    assert error.reason == "malformed"
    assert "Send `Authorization: Bearer <key>`." in error.message
    assert KEY not in error.message


@pytest.mark.parametrize(
    "value",
    ["Basic", "Basic !!!", "Basic a", "Basic YWJj YWJj", basic("no colon"), basic(b"a:\xff")],
)
def test_basic_that_is_none(value: str) -> None:
    """Not base64, not UTF-8, or no name and key in it: the answer says what belongs there."""
    error = refusal(("Authorization", value))

    assert error.reason == "malformed"
    assert "base64 of `<key's name>:<key>`" in error.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", ""),
        ("Authorization", " "),
        ("Authorization", "Bearer"),
        ("Authorization", "Bearer  "),
        ("Authorization", basic("laptop:")),
        ("x-api-key", ""),
        ("x-api-key", " "),
    ],
)
def test_an_empty_key_is_a_missing_one(name: str, value: str) -> None:
    """An environment variable that was not set makes it."""
    error = refusal((name, value))

    assert error.reason == "missing"
    assert error.message == InvalidApiKey().message


@pytest.mark.parametrize("secret", ["x" * (MAX_SECRET + 1), "kéy", "k\udcffy", "k\x80"])
def test_a_text_that_no_key_can_be(secret: str) -> None:
    """Too long, or not ASCII: bytes that are not UTF-8 arrive as lone surrogates."""
    for error in (
        refusal(("Authorization", f"Bearer {secret}")),
        refusal(("x-api-key", secret)),
        refusal(path_token=secret),
    ):
        assert error.reason == "malformed"
        assert "is not a key of this gateway" in error.message
        assert secret not in error.message


def test_the_longest_key_is_taken_in_every_place() -> None:
    """Engramia's own limit."""
    secret, name = "x" * MAX_SECRET, "n" * 64

    for found in (
        from_authorization(f"Bearer {secret}"),
        from_authorization(basic(f"{name}:{secret}")),
        presented(headers(x_api_key=secret)),
        presented(headers(), secret),
    ):
        assert [credential.secret for credential in found] == [secret]


def test_a_header_beyond_any_measure_is_refused_unread() -> None:
    """Before it is decoded, even if what is in it could be a key."""
    assert refusal(("Authorization", basic("n" * 2000 + f":{KEY}"))).reason == "malformed"


def test_a_repr_shows_no_secret() -> None:
    """Nor the name, where people put the key by mistake."""
    (credential,) = from_authorization(basic(f"{KEY}:{KEY}"))

    assert KEY not in repr(credential)
    assert "BASIC" in repr(credential)


texts = st.text() | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape"))
schemes = st.sampled_from(["", "Bearer", "bearer ", "Basic ", "basic", "Digest ", ":", "\t"])
values = texts | st.builds(str.__add__, schemes, texts) | st.binary().map(basic)


@given(
    st.lists(st.tuples(st.sampled_from(["Authorization", "x-api-key"]), values), max_size=3),
    st.none() | texts,
)
def test_nothing_but_invalid_api_key_is_raised(
    pairs: list[tuple[str, str]], path_token: str | None
) -> None:
    """And whatever is found can be a key: short, ASCII, not empty."""
    try:
        found = presented(headers(*pairs), path_token)
    except InvalidApiKey:
        return

    assert all(1 <= len(credential.secret) <= MAX_SECRET for credential in found)
    assert all(credential.secret.isascii() for credential in found)


@given(
    st.text(max_size=64).filter(lambda name: ":" not in name),
    st.from_regex(r"ogw_[A-Za-z0-9_-]{43}", fullmatch=True),
)
def test_basic_brings_any_name_and_key(name: str, secret: str) -> None:
    """What a client encodes is what is found."""
    expected = (Credential(Place.BASIC, secret, name),)

    assert from_authorization(basic(f"{name}:{secret}")) == expected
