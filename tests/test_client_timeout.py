"""How long a caller waits, and when he hears from us meanwhile."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client_timeout import (
    HeartbeatSchedule,
    HeartbeatSettings,
    heartbeat_schedule,
)
from gateway.timeouts import ClientTimeout

CAREFUL = HeartbeatSchedule(20.0, 15.0)
RELAXED = HeartbeatSchedule(90.0, 60.0)


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
def test_a_byte_is_always_in_time(seconds: float, per_read: bool, profile: str) -> None:
    """Half of a caller's patience is the longest silence he is left in."""
    pulse = heartbeat_schedule(
        {}, ClientTimeout(seconds, per_read=per_read), HeartbeatSettings(profile=profile)
    )

    assert pulse is not None
    assert 0 < pulse.commit_after <= seconds / 2
    assert 0 < pulse.interval <= seconds / 2
    assert pulse.commit_after < inf
