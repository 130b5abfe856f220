from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.authenticator import Authenticator, require
from gateway.auth.failures import Failures
from gateway.auth.keys import Grant, Key, digest_of, grants
from gateway.auth.principal import Principal, Scope
from gateway.errors import InvalidApiKey, ScopeNotAllowed, TooManyFailures
from tests.auth.fakes import DAY, DISCOVERY, NOW, Clock, a_key, headers
from tests.auth.test_credentials import basic, texts, values

CLIENT = "192.0.2.1"
INFERENCE, PATH_KEY, OTHER = "ogw_inference", "ogw_path", "ogw_other"
KEYS = (
    a_key("laptop", secret=INFERENCE),
    a_key("engramia", secret=PATH_KEY, scopes=DISCOVERY),
    a_key("other", secret=OTHER),
)


class Keys:
    """A store without a file."""

    def __init__(self, *keys: Key) -> None:
        self._index = {grant.digest: grant for key in keys for grant in grants(key)}

    def find(self, secret: str) -> Grant | None:
        return self._index.get(digest_of(secret))


class AccessControl:
    """An authenticator with its clock, asked as a request asks it."""

    def __init__(self, *keys: Key, limit: int = 1000) -> None:
        self.clock = Clock()
        self.authenticator = Authenticator(
            Keys(*(keys or KEYS)), Failures(limit, clock=self.clock), now=self.clock.moment
        )

    def ask(
        self, *pairs: tuple[str, str], path: str | None = None, client: str = CLIENT
    ) -> Principal:
        return self.authenticator.identify(headers(*pairs), path_token=path, client=client)

    def refusal(self, *pairs: tuple[str, str], path: str | None = None) -> InvalidApiKey:
        with pytest.raises(InvalidApiKey) as caught:
            self.ask(*pairs, path=path)
        return caught.value


def bearer(secret: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {secret}")


def x_api_key(secret: str) -> tuple[str, str]:
    return ("x-api-key", secret)


@pytest.mark.parametrize(
    "pair",
    [bearer(INFERENCE), x_api_key(INFERENCE), ("Authorization", basic(f"laptop:{INFERENCE}"))],
    ids=["bearer", "x-api-key", "basic"],
)
def test_a_key_is_taken_in_every_header(pair: tuple[str, str]) -> None:
    """One kind of key, however it is presented."""
    assert AccessControl().ask(pair).key == "laptop"


def test_a_discovery_key_is_taken_in_the_path() -> None:
    """The caller's probes send no header at all."""
    assert AccessControl().ask(path=PATH_KEY) == KEYS[1].principal


def test_the_header_decides_over_the_path() -> None:
    """Who he is, and so what he may do, is what the header says."""
    assert AccessControl().ask(bearer(INFERENCE), path=PATH_KEY).key == "laptop"
    assert AccessControl().ask(x_api_key(INFERENCE), path=PATH_KEY).key == "laptop"


def test_authorization_decides_over_x_api_key() -> None:
    """If both are valid; a client that sends both has one of them from its environment."""
    assert AccessControl().ask(x_api_key(OTHER), bearer(INFERENCE)).key == "laptop"


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
def test_one_bad_credential_spoils_the_good_ones(
    pairs: list[tuple[str, str]], path: str | None
) -> None:
    """All that is presented must be valid, wherever it stands."""
    assert AccessControl().refusal(*pairs, path=path).status == 401


def test_a_refusal_names_the_place() -> None:
    """With two credentials it is not plain which one is wrong."""
    assert (
        "`x-api-key`" in AccessControl().refusal(bearer(INFERENCE), x_api_key("ogw_wrong")).message
    )
    assert "the path" in AccessControl().refusal(bearer(INFERENCE), path="ogw_wrong").message


def test_nothing_presented_is_refused_with_what_to_send() -> None:
    """And with how a lost key is replaced."""
    error = AccessControl().refusal()

    assert error.reason == "missing"
    assert "Authorization: Bearer <key>" in error.message
    assert "keys rotate NAME" in error.message


def test_an_inference_key_in_the_path_is_refused() -> None:
    """Even next to a good header: it is in the logs of everything between, and must be replaced."""
    for error in (
        AccessControl().refusal(path=INFERENCE),
        AccessControl().refusal(bearer(OTHER), path=INFERENCE),
    ):
        assert error.reason == "path"
        assert "must count as exposed" in error.message
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
def test_only_discovery_alone_may_stand_in_the_path(scopes: set[Scope]) -> None:
    """Discovery and anything else is anything else."""
    access_control = AccessControl(a_key("n", secret="ogw_n", scopes=frozenset(scopes)))

    assert access_control.refusal(path="ogw_n").reason == "path"


@pytest.mark.parametrize("name", ["laptop", "Laptop"])
def test_the_name_of_basic_is_the_keys(name: str) -> None:
    """Without regard to case, as names are unique."""
    assert AccessControl().ask(("Authorization", basic(f"{name}:{INFERENCE}"))).key == "laptop"


@pytest.mark.parametrize("name", ["other", "", "lap", "*", "laptop "])
def test_another_name_in_basic_is_refused(name: str) -> None:
    """A key of another name is not whom he says he is; which one it is, is not told."""
    error = AccessControl().refusal(("Authorization", basic(f"{name}:{INFERENCE}")))

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
def test_the_placeholder_gets_its_own_words(pair: tuple[str, str]) -> None:
    """The most common mistake of all has an answer that names it."""
    error = AccessControl().refusal(pair)

    assert error.reason == "placeholder"
    assert "the placeholder that many tools put where a key belongs" in error.message


unknown_secrets = st.text(st.characters(codec="utf-8", exclude_characters=" \t"), min_size=1)


@given(unknown_secrets.filter(lambda text: text.lower() != "ollama"))
def test_every_unknown_key_gets_the_same_answer(secret: str) -> None:
    """Whatever it looks like, the answer says nothing of how near it came."""
    expected = AccessControl().refusal(bearer("ogw_wrong"))
    error = AccessControl().refusal(bearer(secret))

    assert (error.message, error.headers) == (expected.message, expected.headers)


def test_a_key_expires_between_two_requests() -> None:
    """The second one is refused, with what to do; the name is his who showed the key."""
    access_control = AccessControl(a_key(secret=INFERENCE, expires=NOW + timedelta(seconds=5)))
    assert access_control.ask(bearer(INFERENCE)).key == "laptop"

    access_control.clock.seconds += 5

    error = access_control.refusal(bearer(INFERENCE))
    assert error.reason == "expired"
    assert "has expired" in error.message
    assert "`ollama-gateway keys rotate laptop`" in error.message


def test_a_revoked_key_is_refused() -> None:
    """Rotating would not help, so it is not advised."""
    error = AccessControl(a_key(secret=INFERENCE, revoked=NOW)).refusal(bearer(INFERENCE))

    assert error.reason == "revoked"
    assert "was revoked" in error.message
    assert "rotate" not in error.message


def test_a_rotated_key_holds_until_its_overlap_ends() -> None:
    """Both secrets do, and then the old one's bearer reads that there is a new one."""
    key = a_key(secret=INFERENCE).rotated(digest=digest_of("ogw_new"), now=NOW, overlap=DAY)
    access_control = AccessControl(key)
    assert access_control.ask(bearer(INFERENCE)) == access_control.ask(bearer("ogw_new"))

    access_control.clock.seconds += DAY.total_seconds()

    assert access_control.ask(bearer("ogw_new")).key == "laptop"
    error = access_control.refusal(bearer(INFERENCE))
    assert error.reason == "rotated"
    assert "was replaced by a new one" in error.message


def test_too_many_failures_are_answered_as_such() -> None:
    """With how long to wait, and with the last failure as its cause, for the metric."""
    access_control = AccessControl(limit=3)
    for _ in range(3):
        access_control.refusal(bearer("ogw_wrong"))

    with pytest.raises(TooManyFailures) as caught:
        access_control.ask(bearer("ollama"))

    assert caught.value.headers["Retry-After"] == "20"
    assert isinstance(caught.value.__cause__, InvalidApiKey)
    assert caught.value.__cause__.reason == "placeholder"


def test_a_valid_key_is_never_refused_for_failures() -> None:
    """All tunnels come from one address: one bad caller must not shut out the others."""
    access_control = AccessControl(limit=1)
    access_control.refusal(bearer("ogw_wrong"))
    with pytest.raises(TooManyFailures):
        access_control.ask(bearer("ogw_wrong"))

    assert access_control.ask(bearer(INFERENCE)).key == "laptop"
    assert access_control.ask(path=PATH_KEY).key == "engramia"


def test_a_success_neither_counts_nor_forgives() -> None:
    """Only failures are counted, and a good caller behind the same address hides no bad one."""
    access_control = AccessControl(limit=2)
    for _ in range(10):
        access_control.ask(bearer(INFERENCE))
    access_control.refusal(bearer("ogw_wrong"))
    access_control.ask(bearer(INFERENCE))
    access_control.refusal(bearer("ogw_wrong"))

    with pytest.raises(TooManyFailures):
        access_control.ask(bearer("ogw_wrong"))


@pytest.mark.parametrize(
    "pairs", [[], [bearer("")], [("Authorization", "Digest x")], [bearer("é")]]
)
def test_every_kind_of_failure_counts(pairs: list[tuple[str, str]]) -> None:
    """Missing and malformed ones too, and from another address they start anew."""
    access_control = AccessControl(limit=1)
    access_control.refusal(*pairs)

    with pytest.raises(TooManyFailures):
        access_control.ask(*pairs)
    with pytest.raises(InvalidApiKey):
        access_control.ask(*pairs, client="192.0.2.2")


@given(
    st.lists(st.tuples(st.sampled_from(["Authorization", "x-api-key"]), values), max_size=3),
    st.none() | texts,
)
def test_a_stranger_gets_in_by_no_text(pairs: list[tuple[str, str]], path: str | None) -> None:
    """And nothing but a refusal comes of it, which repeats nothing that he sent."""
    error = AccessControl().refusal(*pairs, path=path)

    sent = [value for _, value in pairs if len(value) > 20]
    assert not any(value in error.message for value in sent)


@pytest.mark.parametrize("scope", Scope)
def test_a_scope_is_required(scope: Scope) -> None:
    """It is there, or the error names what is there and the command for what is not."""
    having = Principal(key="a", scopes=frozenset({scope}))
    lacking = Principal(key="b", scopes=frozenset(Scope) - {scope})

    require(having, scope)
    with pytest.raises(ScopeNotAllowed) as caught:
        require(lacking, scope)

    assert f"`ollama-gateway keys create NAME --scope {scope.value}`" in caught.value.message
    assert all(other.value in caught.value.message for other in lacking.scopes)
