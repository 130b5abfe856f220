"""How long a caller waits, and when he hears from us meanwhile."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client_timeout import (
    ClientTimeout,
    HeartbeatSchedule,
    HeartbeatSettings,
    declared_client_timeout,
    heartbeat_schedule,
)

CAREFUL = HeartbeatSchedule(20.0, 15.0)
RELAXED = HeartbeatSchedule(90.0, 60.0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("300", 300.0),
        ("600.0", 600.0),
        ("1", 1.0),
        ("86400", 86_400.0),
        ("299.99999999999994", 299.99999999999994),
    ],
)
def test_patience_is_a_plain_number(text: str, seconds: float) -> None:
    """What the SDK sends is read as seconds."""
    assert declared_client_timeout({"x-stainless-read-timeout": text}) == ClientTimeout(
        seconds, renewed=True
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0.999",
        "86400.1",
        "99999",
        "-5",
        "+5",
        "inf",
        "nan",
        "NaN",
        "1e5",
        "1e2",
        "0x10",
        "1_000",
        "5,0",
        "5.",
        ".5",
        " 5",
        "5\n",
        "five",
        "\u0665",
        "9" * 100_000,
        "5." + "0" * 100_000,
    ],
)
def test_patience_that_is_none(text: str) -> None:
    """Anything but a plain decimal from 1 to 86,400 counts as absent."""
    assert declared_client_timeout({"x-stainless-read-timeout": text}) is None


def test_patience_absent() -> None:
    """A caller who declares nothing has no patience of his own."""
    assert declared_client_timeout({"x-stainless-retry-count": "0"}) is None


@given(st.text())
def test_patience_is_always_usable(text: str) -> None:
    """Whatever the header holds, what comes out can be waited for."""
    client_timeout = declared_client_timeout({"x-stainless-read-timeout": text})

    assert client_timeout is None or 1.0 <= client_timeout.seconds <= 86_400.0


@pytest.mark.parametrize(
    ("headers", "client_timeout"),
    [
        ({"x-request-timeout": "45"}, ClientTimeout(45.0, renewed=False)),
        (
            {"x-stainless-read-timeout": "600", "x-request-timeout": "45"},
            ClientTimeout(600.0, renewed=True),
        ),
        (
            {"x-stainless-read-timeout": "never", "x-request-timeout": "45"},
            ClientTimeout(45.0, renewed=False),
        ),
        (
            {"x-stainless-read-timeout": "600", "x-request-timeout": "never"},
            ClientTimeout(600.0, renewed=True),
        ),
        ({"x-request-timeout": "inf"}, None),
    ],
)
def test_patience_of_those_who_use_no_sdk(
    headers: dict[str, str], client_timeout: ClientTimeout | None
) -> None:
    """``X-Request-Timeout`` counts where the SDK's own does not, and no byte renews it."""
    assert declared_client_timeout(headers) == client_timeout


@pytest.mark.parametrize(
    ("headers", "pulse"),
    [
        ({}, CAREFUL),
        ({"cf-ray": "8a"}, CAREFUL),
        ({"cf-connecting-ip": "1.2.3.4", "host": "a.ngrok.app"}, CAREFUL),
        ({"host": "brave-cat.ngrok-free.app"}, RELAXED),
        ({"host": "brave-cat.NGROK.app:443"}, RELAXED),
        ({"host": "ngrok.app.example.com"}, CAREFUL),
        ({"host": "box.tail1234.ts.net"}, RELAXED),
        ({"tailscale-user-login": "ann@example.com", "host": "localhost:11435"}, RELAXED),
        ({"host": "127.0.0.1:11435", "x-forwarded-for": "1.2.3.4"}, CAREFUL),
    ],
)
def test_a_tunnel_is_told_by_what_it_adds(
    headers: dict[str, str], pulse: HeartbeatSchedule
) -> None:
    """And where nothing tells it, the one that cuts soonest is reckoned with."""
    assert heartbeat_schedule(headers, None, HeartbeatSettings()) == pulse


@pytest.mark.parametrize(
    ("profile", "pulse"),
    [("cloudflare", CAREFUL), ("ngrok", RELAXED), ("tailscale", RELAXED), ("none", None)],
)
def test_a_profile_stands_over_what_a_request_tells(
    profile: str, pulse: HeartbeatSchedule | None
) -> None:
    """The owner knows."""
    headers = {"cf-ray": "8a", "host": "a.ngrok.app"}

    assert heartbeat_schedule(headers, None, HeartbeatSettings(profile=profile)) == pulse


def test_a_number_stands_over_a_profile() -> None:
    """Each for itself; one given to no tunnel at all brings heartbeats back."""
    ngrok = HeartbeatSettings(profile="ngrok", interval=7.0)
    none = HeartbeatSettings(profile="none", commit_after=30.0)

    assert heartbeat_schedule({}, None, ngrok) == HeartbeatSchedule(90.0, 7.0)
    assert heartbeat_schedule({}, None, none) == HeartbeatSchedule(30.0, 15.0)


@given(st.floats(1, 86_400), st.booleans(), st.sampled_from(["auto", "ngrok", "cloudflare"]))
def test_a_byte_is_always_in_time(seconds: float, renewed: bool, profile: str) -> None:
    """Half of a caller's patience is the longest silence he is left in."""
    pulse = heartbeat_schedule(
        {}, ClientTimeout(seconds, renewed=renewed), HeartbeatSettings(profile=profile)
    )

    assert pulse is not None
    assert 0 < pulse.commit_after <= seconds / 2
    assert 0 < pulse.interval <= seconds / 2
    assert pulse.commit_after < inf
