import base64
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.authenticator import (
    MAX_SECRET,
    Authenticator,
    Location,
    PresentedSecret,
    presented_secrets,
    require_scope,
)
from gateway.auth.keys import Key, Principal, Scope, digest_of
from gateway.auth.limits import FailureLimiter
from gateway.errors import InvalidApiKey, ScopeNotAllowed, TooManyFailures
from tests.auth.fakes import DAY, DISCOVERY, NOW, Clock, a_key, headers, store_of

KEY = "ogw_" + "x" * 43
CLIENT = "192.0.2.1"
INFERENCE, PATH_KEY, OTHER = "ogw_inference", "ogw_path", "ogw_other"
KEYS = (
    a_key("laptop", secret=INFERENCE),
    a_key("engramia", secret=PATH_KEY, scopes=DISCOVERY),
    a_key("other", secret=OTHER),
)
STORE = store_of(*KEYS)


def bearer(secret: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {secret}")


def x_api_key(secret: str) -> tuple[str, str]:
    return ("x-api-key", secret)


def basic(text: str | bytes) -> str:
    raw = text.encode() if isinstance(text, str) else text
    return f"Basic {base64.b64encode(raw).decode()}"


class Gate:
    """An authenticator with its clock."""

    def __init__(self, *keys: Key, limit: int = 1000) -> None:
        self.clock = Clock()
        self._authenticator = Authenticator(
            store_of(*keys) if keys else STORE,
            FailureLimiter(limit, now=self.clock),
            now=self.clock.moment,
        )

    def authenticate(
        self, *pairs: tuple[str, str], path: str | None = None, client: str = CLIENT
    ) -> Principal:
        return self._authenticator.authenticate(headers(*pairs), path_token=path, client=client)

    def refusal(self, *pairs: tuple[str, str], path: str | None = None) -> InvalidApiKey:
        with pytest.raises(InvalidApiKey) as caught:
            self.authenticate(*pairs, path=path)
        return caught.value


# What a request presents


def from_authorization(value: str) -> list[PresentedSecret]:
    return presented_secrets(headers(Authorization=value))


def malformed(*pairs: tuple[str, str], path_token: str | None = None) -> InvalidApiKey:
    with pytest.raises(InvalidApiKey) as caught:
        presented_secrets(headers(*pairs), path_token)
    return caught.value


def test_a_request_without_credentials_presents_nothing() -> None:
    assert presented_secrets(headers(Accept="*/*")) == []


@pytest.mark.parametrize(
    "value",
    [f"Bearer {KEY}", f"bearer {KEY}", f"BEARER {KEY}", f"Bearer   {KEY} ", f" Bearer \t{KEY}\t"],
)
def test_bearer_ignores_case_and_surrounding_spaces(value: str) -> None:
    assert from_authorization(value) == [PresentedSecret(Location.BEARER, KEY)]


def test_x_api_key_is_read_in_any_case() -> None:
    """The header of the Anthropic clients."""
    found = presented_secrets(headers(("X-API-Key", f" {KEY} ")))

    assert found == [PresentedSecret(Location.X_API_KEY, KEY)]


@pytest.mark.parametrize(
    ("text", "name", "secret"),
    [
        (f"laptop:{KEY}", "laptop", KEY),
        (f":{KEY}", "", KEY),
        ("a:b:c", "a", "b:c"),
        (f"gerät:{KEY}", "gerät", KEY),
    ],
)
def test_basic_splits_at_the_first_colon(text: str, name: str, secret: str) -> None:
    """The name is UTF-8 (RFC 7617)."""
    assert from_authorization(basic(text)) == [PresentedSecret(Location.BASIC, secret, name)]


def test_basic_needs_no_padding() -> None:
    for text in ("a:b", "a:bc", "a:bcd"):
        (presented,) = from_authorization(basic(text).rstrip("="))

        assert presented.secret == text[2:]


def test_the_path_token_is_a_secret() -> None:
    assert presented_secrets(headers(), KEY) == [PresentedSecret(Location.PATH, KEY)]


def test_secrets_are_ordered_by_location() -> None:
    found = presented_secrets(headers(("x-api-key", "b"), ("Authorization", "Bearer a")), "c")

    assert [(presented.location, presented.secret) for presented in found] == [
        (Location.BEARER, "a"),
        (Location.X_API_KEY, "b"),
        (Location.PATH, "c"),
    ]


@pytest.mark.parametrize("name", ["Authorization", "x-api-key"])
def test_a_repeated_header_is_refused(name: str) -> None:
    """A proxy before us might use the other one; even if both have the same value."""
    value = "Bearer a" if name == "Authorization" else "a"

    error = malformed((name, value), (name.lower(), value))

    assert error.reason == "malformed"
    assert f"more than one `{name}`" in error.message


@pytest.mark.parametrize("value", [KEY, f"Digest {KEY}", f"Bearer:{KEY}", f"Token token={KEY}"])
def test_another_scheme_is_refused_with_what_to_send(value: str) -> None:
    """A key without a scheme is the most frequent case."""
    error = malformed(("Authorization", value))

    assert error.reason == "malformed"
    assert "must begin with `Bearer `. Send `Authorization: Bearer <key>`." in error.message
    assert KEY not in error.message


@pytest.mark.parametrize(
    "value",
    ["Basic", "Basic !!!", "Basic a", "Basic YWJj YWJj", basic("no colon"), basic(b"a:\xff")],
)
def test_malformed_basic_is_refused_with_its_format(value: str) -> None:
    error = malformed(("Authorization", value))

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
def test_an_empty_key_counts_as_missing(name: str, value: str) -> None:
    """An unset environment variable produces it."""
    error = malformed((name, value))

    assert error.reason == "missing"
    assert error.message == InvalidApiKey().message


@pytest.mark.parametrize("secret", ["x" * (MAX_SECRET + 1), "kéy", "k\udcffy", "k\x80"])
def test_text_that_cannot_be_a_key_is_refused(secret: str) -> None:
    """Too long, or not ASCII: bytes that are not UTF-8 arrive as lone surrogates."""
    for error in (
        malformed(("Authorization", f"Bearer {secret}")),
        malformed(("x-api-key", secret)),
        malformed(path_token=secret),
    ):
        assert error.reason == "malformed"
        assert "is not a key of this gateway" in error.message
        assert secret not in error.message


def test_a_key_of_the_maximum_length_is_accepted_everywhere() -> None:
    secret, name = "x" * MAX_SECRET, "n" * 64

    for found in (
        from_authorization(f"Bearer {secret}"),
        from_authorization(basic(f"{name}:{secret}")),
        presented_secrets(headers(x_api_key=secret)),
        presented_secrets(headers(), secret),
    ):
        assert [presented.secret for presented in found] == [secret]


def test_an_oversized_header_is_refused_without_decoding() -> None:
    oversized = basic("n" * 2000 + f":{KEY}")

    assert malformed(("Authorization", oversized)).reason == "malformed"


def test_a_repr_shows_neither_secret_nor_name() -> None:
    """People enter the key as the name by mistake."""
    (presented,) = from_authorization(basic(f"{KEY}:{KEY}"))

    assert KEY not in repr(presented)
    assert "BASIC" in repr(presented)


texts = st.text() | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape"))
schemes = st.sampled_from(["", "Bearer", "bearer ", "Basic ", "basic", "Digest ", ":", "\t"])
values = texts | st.builds(str.__add__, schemes, texts) | st.binary().map(basic)
header_pairs = st.lists(
    st.tuples(st.sampled_from(["Authorization", "x-api-key"]), values), max_size=3
)


@given(header_pairs, st.none() | texts)
def test_any_header_gives_possible_keys_or_invalid_api_key(
    pairs: list[tuple[str, str]], path_token: str | None
) -> None:
    try:
        found = presented_secrets(headers(*pairs), path_token)
    except InvalidApiKey:
        return

    assert all(1 <= len(presented.secret) <= MAX_SECRET for presented in found)
    assert all(presented.secret.isascii() for presented in found)


@given(
    st.text(max_size=64).filter(lambda name: ":" not in name),
    st.from_regex(r"ogw_[A-Za-z0-9_-]{43}", fullmatch=True),
)
def test_basic_round_trips_any_name_and_key(name: str, secret: str) -> None:
    expected = [PresentedSecret(Location.BASIC, secret, name)]

    assert from_authorization(basic(f"{name}:{secret}")) == expected


# Authentication


@pytest.mark.parametrize(
    "pair",
    [bearer(INFERENCE), x_api_key(INFERENCE), ("Authorization", basic(f"laptop:{INFERENCE}"))],
    ids=["bearer", "x-api-key", "basic"],
)
def test_a_key_is_accepted_in_every_header(pair: tuple[str, str]) -> None:
    assert Gate().authenticate(pair).key == "laptop"


def test_a_discovery_key_is_accepted_in_the_path() -> None:
    """Engramia's probes send no header."""
    assert Gate().authenticate(path=PATH_KEY) == KEYS[1].principal


def test_the_header_decides_over_the_path() -> None:
    assert Gate().authenticate(bearer(INFERENCE), path=PATH_KEY).key == "laptop"
    assert Gate().authenticate(x_api_key(INFERENCE), path=PATH_KEY).key == "laptop"


def test_authorization_decides_over_x_api_key() -> None:
    """A client that sends both has one of them from its environment."""
    assert Gate().authenticate(x_api_key(OTHER), bearer(INFERENCE)).key == "laptop"


@pytest.mark.parametrize(
    ("pairs", "path"),
    [
        ([bearer("ogw_wrong")], PATH_KEY),
        ([bearer(INFERENCE)], "ogw_wrong"),
        ([bearer(INFERENCE), x_api_key("ogw_wrong")], None),
        ([bearer("ogw_wrong"), x_api_key(INFERENCE)], None),
        ([bearer(INFERENCE), x_api_key("")], None),
        ([("Authorization", "Digest x")], PATH_KEY),
    ],
)
def test_every_presented_secret_must_be_valid(
    pairs: list[tuple[str, str]], path: str | None
) -> None:
    assert Gate().refusal(*pairs, path=path).status == 401


def test_a_refusal_names_the_location_of_the_wrong_key() -> None:
    assert "`x-api-key`" in Gate().refusal(bearer(INFERENCE), x_api_key("ogw_wrong")).message
    assert "the path" in Gate().refusal(bearer(INFERENCE), path="ogw_wrong").message


def test_a_request_without_a_key_is_told_what_to_send() -> None:
    error = Gate().refusal()

    assert error.reason == "missing"
    assert "Authorization: Bearer <key>" in error.message
    assert "keys rotate NAME" in error.message


def test_an_inference_key_in_the_path_is_refused_as_exposed() -> None:
    """Even next to a valid header: everything on the way has logged it."""
    for error in (
        Gate().refusal(path=INFERENCE),
        Gate().refusal(bearer(OTHER), path=INFERENCE),
    ):
        assert error.reason == "path"
        assert "consider it exposed" in error.message
        assert "`ollama-gateway keys rotate laptop`" in error.message


@pytest.mark.parametrize(
    "scopes",
    [
        {Scope.INFERENCE},
        {Scope.ADMIN},
        {Scope.DISCOVERY, Scope.INFERENCE},
        {Scope.DISCOVERY, Scope.ADMIN},
    ],
)
def test_only_a_discovery_only_key_is_accepted_in_the_path(scopes: set[Scope]) -> None:
    gate = Gate(a_key("n", secret="ogw_n", scopes=frozenset(scopes)))

    assert gate.refusal(path="ogw_n").reason == "path"


@pytest.mark.parametrize("name", ["laptop", "Laptop"])
def test_the_user_name_of_basic_is_the_name_of_the_key(name: str) -> None:
    pair = ("Authorization", basic(f"{name}:{INFERENCE}"))

    assert Gate().authenticate(pair).key == "laptop"


@pytest.mark.parametrize("name", ["other", "", "lap", "*", "laptop "])
def test_another_user_name_in_basic_is_refused_without_the_right_one(name: str) -> None:
    error = Gate().refusal(("Authorization", basic(f"{name}:{INFERENCE}")))

    assert "must be the name of the key" in error.message
    assert "laptop" not in error.message


@pytest.mark.parametrize(
    "pair",
    [
        bearer("ollama"),
        bearer("Ollama"),
        x_api_key("ollama"),
        ("Authorization", basic("laptop:ollama")),
    ],
)
def test_the_placeholder_has_its_own_message(pair: tuple[str, str]) -> None:
    """The most frequent mistake of all."""
    error = Gate().refusal(pair)

    assert error.reason == "placeholder"
    assert "a placeholder that many tools send in place of a key" in error.message


unknown_secrets = st.text(st.characters(codec="utf-8", exclude_characters=" \t"), min_size=1)


@given(unknown_secrets.filter(lambda text: text.lower() != "ollama"))
def test_every_unknown_key_gets_the_same_response(secret: str) -> None:
    """It does not reveal how close the key was to a valid one."""
    expected = Gate().refusal(bearer("ogw_wrong"))
    error = Gate().refusal(bearer(secret))

    assert (error.message, error.headers) == (expected.message, expected.headers)


def test_a_key_expires_between_two_requests() -> None:
    gate = Gate(a_key(secret=INFERENCE, expires=NOW + timedelta(seconds=5)))
    assert gate.authenticate(bearer(INFERENCE)).key == "laptop"

    gate.clock.seconds += 5

    error = gate.refusal(bearer(INFERENCE))
    assert error.reason == "expired"
    assert "has expired" in error.message
    assert "`ollama-gateway keys rotate laptop`" in error.message


def test_a_revoked_key_is_refused_without_the_advice_to_rotate_it() -> None:
    error = Gate(a_key(secret=INFERENCE, revoked=NOW)).refusal(bearer(INFERENCE))

    assert error.reason == "revoked"
    assert "was revoked" in error.message
    assert "rotate" not in error.message


def test_a_rotated_secret_is_valid_until_its_overlap_ends() -> None:
    key = a_key(secret=INFERENCE).rotated(digest=digest_of("ogw_new"), now=NOW, overlap=DAY)
    gate = Gate(key)
    assert gate.authenticate(bearer(INFERENCE)) == gate.authenticate(bearer("ogw_new"))

    gate.clock.seconds += DAY.total_seconds()

    assert gate.authenticate(bearer("ogw_new")).key == "laptop"
    error = gate.refusal(bearer(INFERENCE))
    assert error.reason == "rotated"
    assert "was replaced by a new one" in error.message


REVOKED, EXPIRED, ROTATED = "ogw_revoked", "ogw_expired", "ogw_rotated"
EVERY_STATE = (
    *KEYS,
    a_key("revoked", secret=REVOKED, revoked=NOW),
    a_key("expired", secret=EXPIRED, expires=NOW),
    a_key("rotated", secret=ROTATED).rotated(
        digest=digest_of("ogw_new"), now=NOW, overlap=timedelta()
    ),
)


@pytest.mark.parametrize(
    ("reason", "refuse"),
    [
        ("missing", lambda gate: gate.refusal()),
        ("unknown", lambda gate: gate.refusal(bearer("ogw_wrong"))),
        ("unknown", lambda gate: gate.refusal(("Authorization", basic(f"x:{INFERENCE}")))),
        ("placeholder", lambda gate: gate.refusal(bearer("ollama"))),
        ("malformed", lambda gate: gate.refusal(bearer("é"))),
        ("malformed", lambda gate: gate.refusal(bearer("a"), bearer("a"))),
        ("malformed", lambda gate: gate.refusal(("Authorization", "Digest x"))),
        ("malformed", lambda gate: gate.refusal(("Authorization", "Basic !!!"))),
        ("expired", lambda gate: gate.refusal(bearer(EXPIRED))),
        ("rotated", lambda gate: gate.refusal(bearer(ROTATED))),
        ("revoked", lambda gate: gate.refusal(bearer(REVOKED))),
        ("path", lambda gate: gate.refusal(path=INFERENCE)),
    ],
)
def test_a_refusal_has_a_reason_a_challenge_and_advice(
    reason: str, refuse: Callable[[Gate], InvalidApiKey]
) -> None:
    """The reason is a metric's label, RFC 9110 asks for the challenge, people read the advice."""
    error = refuse(Gate(*EVERY_STATE))

    assert error.status == 401
    assert error.reason == reason
    assert error.headers == {"WWW-Authenticate": 'Bearer realm="ollama-gateway"'}
    assert any(word in error.message for word in ("`ollama-gateway keys ", "Send one."))


def test_too_many_failures_are_refused_with_how_long_to_wait() -> None:
    """The last failure is the cause, for the metric."""
    gate = Gate(limit=3)
    for _ in range(3):
        gate.refusal(bearer("ogw_wrong"))

    with pytest.raises(TooManyFailures) as caught:
        gate.authenticate(bearer("ollama"))

    assert caught.value.headers["Retry-After"] == "20"
    assert isinstance(caught.value.__cause__, InvalidApiKey)
    assert caught.value.__cause__.reason == "placeholder"


def test_a_valid_key_is_never_refused_because_of_failures() -> None:
    """All tunnels connect from one address: one client must not lock out the others."""
    gate = Gate(limit=1)
    gate.refusal(bearer("ogw_wrong"))
    with pytest.raises(TooManyFailures):
        gate.authenticate(bearer("ogw_wrong"))

    assert gate.authenticate(bearer(INFERENCE)).key == "laptop"
    assert gate.authenticate(path=PATH_KEY).key == "engramia"


def test_a_success_neither_counts_as_a_failure_nor_resets_the_count() -> None:
    gate = Gate(limit=2)
    for _ in range(10):
        gate.authenticate(bearer(INFERENCE))
    gate.refusal(bearer("ogw_wrong"))
    gate.authenticate(bearer(INFERENCE))
    gate.refusal(bearer("ogw_wrong"))

    with pytest.raises(TooManyFailures):
        gate.authenticate(bearer("ogw_wrong"))


@pytest.mark.parametrize(
    "pairs", [[], [bearer("")], [("Authorization", "Digest x")], [bearer("é")]]
)
def test_every_kind_of_failure_counts_per_client(pairs: list[tuple[str, str]]) -> None:
    gate = Gate(limit=1)
    gate.refusal(*pairs)

    with pytest.raises(TooManyFailures):
        gate.authenticate(*pairs)
    with pytest.raises(InvalidApiKey):
        gate.authenticate(*pairs, client="192.0.2.2")


@given(header_pairs, st.none() | texts)
def test_no_text_authenticates_and_no_refusal_repeats_it(
    pairs: list[tuple[str, str]], path: str | None
) -> None:
    error = Gate().refusal(*pairs, path=path)

    sent = [value for _, value in pairs if len(value) > 20]
    assert not any(value in error.message for value in sent)


@pytest.mark.parametrize("scope", Scope)
def test_a_missing_scope_is_refused_with_the_command_for_it(scope: Scope) -> None:
    having = Principal(key="a", scopes=frozenset({scope}))
    lacking = Principal(key="b", scopes=frozenset(Scope) - {scope})

    require_scope(having, scope)
    with pytest.raises(ScopeNotAllowed) as caught:
        require_scope(lacking, scope)

    assert f"`ollama-gateway keys create NAME --scope {scope.value}`" in caught.value.message
    assert all(other.value in caught.value.message for other in lacking.scopes)
