from datetime import UTC, datetime

import pytest

from gateway.admin.guard import AdminGuard, AdminRequest
from gateway.auth.authenticator import Authenticator
from gateway.auth.keys import Scope
from gateway.auth.limits import FailureLimiter
from tests.auth.fakes import NOW, a_key, headers, store_of

ADDRESS = "127.0.0.1:11436"
ADMIN = frozenset({Scope.ADMIN})


# The owner's key has the secret `owner`, a client's `client`.
KEYS = store_of(a_key("owner", secret="owner", scopes=ADMIN), a_key("client", secret="client"))


def guard_of(listen_host: str = "127.0.0.1", *hosts: str, counted: list[str]) -> AdminGuard:
    return AdminGuard(
        listen_host=listen_host,
        hosts=frozenset(hosts),
        authenticator=Authenticator(KEYS, FailureLimiter(100), now=lambda: NOW),
        auth_failed=counted.append,
    )


def request_of(
    *pairs: tuple[str, str],
    method: str = "GET",
    path: str = "/status",
    host: str | None = ADDRESS,
    peer: str = "127.0.0.1",
    local_address: str = "127.0.0.1",
) -> AdminRequest:
    named = () if host is None else (("Host", host),)
    return AdminRequest(
        method=method,
        path=path,
        headers=headers(*named, *pairs),
        peer=peer,
        local_address=local_address,
        local_port=11436,
    )


def rejection_of(request: AdminRequest, listen_host: str = "127.0.0.1", *hosts: str) -> str | None:
    rejection = guard_of(listen_host, *hosts, counted=[]).check(request)
    return None if rejection is None else f"{rejection.status} {rejection.code}"


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
def test_a_request_with_a_proxys_header_is_rejected(name: str, path: str) -> None:
    """On every path: all tunnels connect from loopback."""
    rejection = rejection_of(request_of((name, "192.0.2.7"), path=path))

    assert rejection == "403 forwarded_request"


def test_the_rejection_repeats_only_a_headers_prefix() -> None:
    """The rest of the name can hold anything."""
    rejection = guard_of(counted=[]).check(request_of(("X-Forwarded-ogw_secret", "1")))

    assert rejection is not None
    assert "`x-forwarded-*`" in rejection.message
    assert "ogw_secret" not in rejection.message


@pytest.mark.parametrize("name", ["Accept", "User-Agent", "X-Prometheus-Scrape-Timeout-Seconds"])
def test_a_local_programs_request_is_served(name: str) -> None:
    """Browsers and Prometheus send nothing that looks like a proxy's."""
    assert rejection_of(request_of((name, "10"))) is None


@pytest.mark.parametrize(
    "host",
    [ADDRESS, "localhost:11436", "LOCALHOST:11436", "localhost.:11436", "[::1]:11436"],
)
def test_a_name_of_loopback_is_accepted(host: str) -> None:
    """With the right port, in any spelling."""
    assert rejection_of(request_of(host=host)) is None


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
def test_any_other_host_is_rejected(host: str | None) -> None:
    """The author of a web page can point its name here."""
    assert rejection_of(request_of(host=host)) == "403 unknown_host"


def test_two_host_headers_are_rejected() -> None:
    assert rejection_of(request_of(("Host", ADDRESS))) == "403 unknown_host"


@pytest.mark.parametrize("host", ["gateway", "gateway:11436", "Gateway:80"])
def test_a_configured_name_is_accepted_with_any_port(host: str) -> None:
    """A container's port may be published as another one."""
    assert rejection_of(request_of(host=host), "127.0.0.1", "gateway") is None


def test_the_address_of_the_connection_is_accepted() -> None:
    """DNS rebinding needs a name."""
    request = request_of(
        ("Authorization", "Bearer owner"),
        host="192.0.2.1:11436",
        peer="192.0.2.9",
        local_address="::ffff:192.0.2.1",
    )

    assert rejection_of(request, "::") is None


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:11436", "https://127.0.0.1:11436"]
)
def test_a_post_from_another_origin_is_rejected(origin: str) -> None:
    request = request_of(("Origin", origin), method="POST", path="/refresh")

    assert rejection_of(request) == "403 foreign_origin"


def test_a_cross_site_post_is_rejected() -> None:
    """Even where the browser leaves Origin out."""
    request = request_of(("Sec-Fetch-Site", "cross-site"), method="POST", path="/refresh")

    assert rejection_of(request) == "403 foreign_origin"


@pytest.mark.parametrize(
    "pairs",
    [
        (),
        (("Origin", f"http://{ADDRESS}"),),
        (("Origin", f"http://{ADDRESS}"), ("Sec-Fetch-Site", "same-origin")),
    ],
)
def test_a_post_of_the_status_page_or_a_program_is_served(
    pairs: tuple[tuple[str, str], ...],
) -> None:
    """Programs send no Origin."""
    assert rejection_of(request_of(*pairs, method="POST", path="/refresh")) is None


@pytest.mark.parametrize("listen_host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_on_loopback_no_key_is_needed(listen_host: str) -> None:
    """Only this machine can connect there."""
    assert rejection_of(request_of(), listen_host) is None


@pytest.mark.parametrize("listen_host", ["0.0.0.0", "::", "192.0.2.1", "gateway.lan"])
def test_off_loopback_a_key_is_needed(listen_host: str) -> None:
    """Also for a request from this machine: the listener's address decides."""
    assert rejection_of(request_of(), listen_host) == "401 invalid_api_key"


def test_localhost_counts_as_loopback_only_if_it_is() -> None:
    """/etc/hosts may name another address."""
    request = request_of(host="192.0.2.1:11436", local_address="192.0.2.1")

    assert rejection_of(request, "localhost") == "401 invalid_api_key"


@pytest.mark.parametrize(
    "pair",
    [
        ("Authorization", "Bearer owner"),
        ("x-api-key", "owner"),
        # base64 of `owner:owner`, as a browser sends it.
        ("Authorization", "Basic b3duZXI6b3duZXI="),
    ],
)
def test_a_key_of_scope_admin_is_accepted(pair: tuple[str, str]) -> None:
    """In every header that can carry a key."""
    assert rejection_of(request_of(pair), "0.0.0.0") is None


def test_a_key_without_scope_admin_is_rejected() -> None:
    request = request_of(("Authorization", "Bearer client"))

    assert rejection_of(request, "0.0.0.0") == "403 scope_not_allowed"


def test_a_401_has_a_challenge_for_programs_and_one_for_browsers() -> None:
    """A browser asks for a password only if Basic is among the challenges."""
    counted: list[str] = []
    rejection = guard_of("0.0.0.0", counted=counted).check(request_of())

    assert rejection is not None
    schemes = [value.split()[0] for name, value in rejection.headers if name == "WWW-Authenticate"]
    assert schemes == ["Bearer", "Basic"]
    assert "--scope admin" in rejection.message
    assert counted == ["missing"]


def test_too_many_failures_are_429_and_counted_by_reason() -> None:
    """A valid key is accepted all the same."""
    counted: list[str] = []
    authenticator = Authenticator(KEYS, FailureLimiter(1), now=lambda: datetime.now(UTC))
    guard = AdminGuard(
        listen_host="0.0.0.0",
        hosts=frozenset(),
        authenticator=authenticator,
        auth_failed=counted.append,
    )
    wrong = request_of(("x-api-key", "wrong"))
    first, second = guard.check(wrong), guard.check(wrong)

    assert first is not None
    assert second is not None
    assert (first.status, second.status) == (401, 429)
    assert "Retry-After" in dict(second.headers)
    assert counted == ["unknown", "unknown"]
    assert guard.check(request_of(("x-api-key", "owner"))) is None


@pytest.mark.parametrize("host", [None, "anything", "gateway:9999"])
def test_a_health_check_from_this_machine_needs_neither_host_nor_key(host: str | None) -> None:
    """It may be a container's, with any name."""
    request = request_of(path="/healthz", host=host)

    assert rejection_of(request, "0.0.0.0") is None


def test_a_health_check_from_elsewhere_needs_both() -> None:
    request = request_of(
        path="/healthz", peer="192.0.2.9", local_address="192.0.2.1", host="192.0.2.1:11436"
    )

    assert rejection_of(request, "0.0.0.0") == "401 invalid_api_key"


def test_only_a_get_of_health_is_exempt() -> None:
    """Readiness names the address of Ollama."""
    assert rejection_of(request_of(path="/readyz", host="anything")) == "403 unknown_host"
    assert rejection_of(request_of(path="/healthz", method="POST", host="x")) == "403 unknown_host"
