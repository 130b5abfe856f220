"""How long a caller, and the way to him, bear silence: pure.

All times are seconds. Tunnels and proxies cut an answer that sends no byte of its body for too
long, and callers give up: each byte starts both of these clocks anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from gateway.timeouts import ClientTimeout


class HeartbeatSchedule(Struct, frozen=True):
    """When an answer that is silent gets its first heartbeat, and how often from then on."""

    commit_after: float
    interval: float


_CAREFUL: Final = HeartbeatSchedule(20.0, 15.0)
"""For what cuts soonest: Cloudflare after 100 s, for which a byte every 20 s was seen to be enough;
nginx after 60 s by its default, and other proxies of which a request does not tell."""

_RELAXED: Final = HeartbeatSchedule(90.0, 60.0)
"""ngrok cuts after 300 s, Tailscale Serve was not seen to: failures keep their status longer."""

_RELAXED_HOSTS: Final = (
    *(".ngrok-free.app", ".ngrok-free.dev", ".ngrok.app", ".ngrok.dev", ".ngrok.io"),
    ".ts.net",
)

_PROFILES: Final = MappingProxyType(
    {
        "cloudflare": _CAREFUL,
        "ngrok": _RELAXED,
        "tailscale": _RELAXED,
        "none": HeartbeatSchedule(inf, _CAREFUL.interval),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatSettings:
    """The owner's word: a profile or ``auto``; numbers, where not None, win over it."""

    profile: str = "auto"
    commit_after: float | None = None
    interval: float | None = None


def heartbeat_schedule(
    headers: Mapping[str, str], client_timeout: ClientTimeout | None, settings: HeartbeatSettings
) -> HeartbeatSchedule | None:
    """When to keep this request's answer alive; None is never.

    Both spans are at most half of the caller's patience, so that a byte on its way is in time.
    ``headers`` ignores case.
    """
    name = settings.profile
    usual = _recognised(headers) if name == "auto" else _PROFILES[name]
    commit_after = usual.commit_after if settings.commit_after is None else settings.commit_after
    if commit_after == inf:
        return None
    interval = usual.interval if settings.interval is None else settings.interval
    half = inf if client_timeout is None else client_timeout.seconds / 2
    return HeartbeatSchedule(min(commit_after, half), min(interval, half))


def _recognised(headers: Mapping[str, str]) -> HeartbeatSchedule:
    """By what each tunnel adds. A caller who adds it himself only fools himself."""
    if "cf-ray" in headers or "cf-connecting-ip" in headers:
        return _CAREFUL
    host = headers.get("host", "").partition(":")[0].lower()
    # Funnel and tagged nodes have no user, but the name is always one of the tailnet's.
    relaxed = "tailscale-user-login" in headers or host.endswith(_RELAXED_HOSTS)
    return _RELAXED if relaxed else _CAREFUL
