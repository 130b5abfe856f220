from datetime import UTC, datetime

import pytest

from gateway.admin.guard import AdminGuard, Asked
from gateway.auth.authenticator import Authenticator
from gateway.auth.failures import Failures
from gateway.auth.keys import Grant
from gateway.auth.principal import Scope
from tests.auth.fakes import NOW, a_key, headers

HERE = "127.0.0.1:11436"
ADMIN = frozenset({Scope.ADMIN})


class Keys:
    """The owner's key has the secret `owner`, a caller's `caller`."""

    def find(self, secret: str) -> Grant | None:
        owner = a_key("owner", secret="owner", scopes=ADMIN)
        caller = a_key("caller", secret="caller")
        key = {"owner": owner, "caller": caller}.get(secret)
        return None if key is None else Grant(key.digest, key, key.principal)


def a_guard(listen_host: str = "127.0.0.1", *hosts: str, counted: list[str]) -> AdminGuard:
    return AdminGuard(
        listen_host=listen_host,
        hosts=frozenset(hosts),
        authenticator=Authenticator(Keys(), Failures(100), now=lambda: NOW),
        auth_failed=counted.append,
    )


def asked(
    *pairs: tuple[str, str],
    method: str = "GET",
    path: str = "/status",
    host: str | None = HERE,
    peer: str = "127.0.0.1",
    here: str = "127.0.0.1",
) -> Asked:
    named = () if host is None else (("Host", host),)
    return Asked(
        method=method, path=path, headers=headers(*named, *pairs), peer=peer, here=here, port=11436
    )


def verdict(asked: Asked, listen_host: str = "127.0.0.1", *hosts: str) -> str | None:
    refusal = a_guard(listen_host, *hosts, counted=[]).refusal(asked)
    return None if refusal is None else f"{refusal.status} {refusal.code}"


@pytest.mark.parametrize(
    "name",
    [
        "X-Forwarded-For",
        "x-forwarded-proto",
        "X-Forwarded-Anything",
        "Forwarded",
        "Via",
        "X-Real-IP",
        "CF-Connecting-IP",
        "Cf-Ray",
        "CDN-Loop",
        "Tailscale-User-Login",
        "ngrok-auth-user-email",
    ],
)
@pytest.mark.parametrize("path", ["/status", "/healthz"])
def test_what_a_tunnel_forwards_is_refused(name: str, path: str) -> None:
    """A header that only a proxy adds is refused on every page, for all tunnels are local."""
    refusal = verdict(asked((name, "192.0.2.7"), path=path))

    assert refusal == "403 forwarded_request"


def test_the_refusal_of_a_tunnel_repeats_nothing_of_the_request() -> None:
    """Of a header's name only its family is told, for a name can hold anything."""
    refusal = a_guard(counted=[]).refusal(asked(("X-Forwarded-ogw_secret", "1")))

    assert refusal is not None
    assert "`x-forwarded-*`" in refusal.message
    assert "ogw_secret" not in refusal.message


@pytest.mark.parametrize("name", ["Accept", "User-Agent", "X-Prometheus-Scrape-Timeout-Seconds"])
def test_what_local_programs_send_is_served(name: str) -> None:
    """Browsers and Prometheus send nothing that looks like a proxy's."""
    assert verdict(asked((name, "10"))) is None


@pytest.mark.parametrize(
    "host",
    [HERE, "localhost:11436", "LOCALHOST:11436", "localhost.:11436", "[::1]:11436"],
)
def test_the_names_of_loopback_are_ours(host: str) -> None:
    """With our port, in any spelling."""
    assert verdict(asked(host=host)) is None


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "rebound.example:11436",
        "127.0.0.1",
        "127.0.0.1:11435",
        "localhost.example:11436",
        "192.0.2.1:11436",
        "127.0.0.1:11436@evil.example",
        "127.0.0.1:\uff111436",
        "[::1]",
        ":11436",
    ],
)
def test_other_hosts_are_refused(host: str | None) -> None:
    """A name that is not ours can be a web page's, pointed here by its author."""
    assert verdict(asked(host=host)) == "403 unknown_host"


def test_two_hosts_are_refused() -> None:
    """Which of them counts would be somebody's choice."""
    assert verdict(asked(("Host", HERE))) == "403 unknown_host"


@pytest.mark.parametrize("host", ["gateway", "gateway:11436", "Gateway:80"])
def test_names_that_the_owner_added_are_ours_with_any_port(host: str) -> None:
    """A container's port may be published as another one."""
    assert verdict(asked(host=host), "127.0.0.1", "gateway") is None


def test_the_address_that_was_connected_to_is_ours() -> None:
    """Rebinding needs a name, so the listener's own address is one of its names."""
    request = asked(
        ("Authorization", "Bearer owner"),
        host="192.0.2.1:11436",
        peer="192.0.2.9",
        here="::ffff:192.0.2.1",
    )

    assert verdict(request, "::") is None


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:11436", "https://127.0.0.1:11436"]
)
def test_a_post_from_another_page_is_refused(origin: str) -> None:
    """An origin that is not exactly the place that was asked is another place."""
    request = asked(("Origin", origin), method="POST", path="/refresh")

    assert verdict(request) == "403 foreign_origin"


def test_a_post_that_a_browser_calls_cross_site_is_refused() -> None:
    """Even where the browser leaves Origin out."""
    request = asked(("Sec-Fetch-Site", "cross-site"), method="POST", path="/refresh")

    assert verdict(request) == "403 foreign_origin"


@pytest.mark.parametrize(
    "pairs",
    [
        (),
        (("Origin", f"http://{HERE}"),),
        (("Origin", f"http://{HERE}"), ("Sec-Fetch-Site", "same-origin")),
    ],
)
def test_a_post_of_our_own_page_or_of_a_program_is_served(
    pairs: tuple[tuple[str, str], ...],
) -> None:
    """Programs send no Origin, and the page's own is ours."""
    assert verdict(asked(*pairs, method="POST", path="/refresh")) is None


@pytest.mark.parametrize("listen_host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_on_loopback_no_key_is_needed(listen_host: str) -> None:
    """Only this machine can ask there."""
    assert verdict(asked(), listen_host) is None


@pytest.mark.parametrize("listen_host", ["0.0.0.0", "::", "192.0.2.1", "gateway.lan"])
def test_elsewhere_a_key_is_needed_from_this_machine_too(listen_host: str) -> None:
    """What the listener is open to decides, not who happens to ask."""
    assert verdict(asked(), listen_host) == "401 invalid_api_key"


def test_localhost_counts_as_loopback_only_if_it_is() -> None:
    """A machine whose `localhost` is another address is open there."""
    request = asked(host="192.0.2.1:11436", here="192.0.2.1")

    assert verdict(request, "localhost") == "401 invalid_api_key"


@pytest.mark.parametrize(
    "pair",
    [
        ("Authorization", "Bearer owner"),
        ("x-api-key", "owner"),
        # base64 of `owner:owner`, as a browser sends it.
        ("Authorization", "Basic b3duZXI6b3duZXI="),
    ],
)
def test_a_key_of_scope_admin_opens_it(pair: tuple[str, str]) -> None:
    """In every way that a key can be presented in a header."""
    assert verdict(asked(pair), "0.0.0.0") is None


def test_any_other_key_does_not() -> None:
    """A caller's key is valid, and says nothing here."""
    request = asked(("Authorization", "Bearer caller"))

    assert verdict(request, "0.0.0.0") == "403 scope_not_allowed"


def test_a_401_challenges_for_programs_and_for_browsers() -> None:
    """A browser asks for name and key only when Basic is among the challenges."""
    counted: list[str] = []
    refusal = a_guard("0.0.0.0", counted=counted).refusal(asked())

    assert refusal is not None
    schemes = [value.split()[0] for name, value in refusal.headers if name == "WWW-Authenticate"]
    assert schemes == ["Bearer", "Basic"]
    assert "--scope admin" in refusal.message
    assert counted == ["missing"]


def test_too_many_failures_are_answered_with_429_and_still_counted_by_reason() -> None:
    """And they never keep a valid key out."""
    counted: list[str] = []
    authenticator = Authenticator(Keys(), Failures(1), now=lambda: datetime.now(UTC))
    guard = AdminGuard(
        listen_host="0.0.0.0",
        hosts=frozenset(),
        authenticator=authenticator,
        auth_failed=counted.append,
    )
    wrong = asked(("x-api-key", "wrong"))
    first, second = guard.refusal(wrong), guard.refusal(wrong)

    assert first is not None
    assert second is not None
    assert (first.status, second.status) == (401, 429)
    assert "Retry-After" in dict(second.headers)
    assert counted == ["unknown", "unknown"]
    assert guard.refusal(asked(("x-api-key", "owner"))) is None


@pytest.mark.parametrize("host", [None, "anything", "gateway:9999"])
def test_health_asked_from_this_machine_needs_neither_name_nor_key(host: str | None) -> None:
    """It is what a container's health check calls, by whatever name."""
    request = asked(path="/healthz", host=host)

    assert verdict(request, "0.0.0.0") is None


def test_health_asked_from_elsewhere_needs_both() -> None:
    """Only what comes from loopback is a health check of this machine."""
    request = asked(path="/healthz", peer="192.0.2.9", here="192.0.2.1", host="192.0.2.1:11436")

    assert verdict(request, "0.0.0.0") == "401 invalid_api_key"


def test_nothing_else_is_as_open_as_health() -> None:
    """Readiness names the address of Ollama, and a POST does something."""
    assert verdict(asked(path="/readyz", host="anything")) == "403 unknown_host"
    assert verdict(asked(path="/healthz", method="POST", host="x")) == "403 unknown_host"
