"""Heartbeats: bytes that clients skip, sent while Ollama is silent. When, and by which timer.

Tunnels and proxies abort a response that sends no byte of its body for too long, and clients give
up. Each byte restarts both of these timeouts. All times are in seconds.
"""

import asyncio
from collections.abc import Mapping
from math import inf
from types import MappingProxyType
from typing import Final, Protocol, Self

from msgspec import Struct

from gateway.public.response import ResponseKind, State
from gateway.settings import TunnelSettings
from gateway.telemetry.record import Phase, RequestRecord
from gateway.timeouts import ClientTimeout


class HeartbeatSchedule(Struct, frozen=True):
    """When a silent response gets its first heartbeat, and how often from then on."""

    commit_after: float
    interval: float


_FREQUENT: Final = HeartbeatSchedule(20.0, 15.0)
"""For the shortest timeouts: Cloudflare's of 100 s, for which a byte every 20 s was seen to be
enough; nginx's default of 60 s; those of proxies that a request does not show."""

_RARE: Final = HeartbeatSchedule(90.0, 60.0)
"""ngrok aborts after 300 s, Tailscale Serve was not seen to: failures keep their status longer."""

_RARE_HOSTS: Final = (
    *(".ngrok-free.app", ".ngrok-free.dev", ".ngrok.app", ".ngrok.dev", ".ngrok.io"),
    ".ts.net",
)

_PROFILES: Final = MappingProxyType(
    {
        "cloudflare": _FREQUENT,
        "ngrok": _RARE,
        "tailscale": _RARE,
        "none": HeartbeatSchedule(inf, _FREQUENT.interval),
    }
)


def heartbeat_schedule(
    headers: Mapping[str, str], client_timeout: ClientTimeout | None, tunnel: TunnelSettings
) -> HeartbeatSchedule | None:
    """Return when the response to this request gets heartbeats; None means never.

    Both times are at most half of the client's timeout, so that a byte on its way is in time.

    Args:
        headers: the request's; they ignore case.
        client_timeout: what the client declares.
        tunnel: numbers in it win over the profile.
    """
    profile = _recognized(headers) if tunnel.profile == "auto" else _PROFILES[tunnel.profile]
    commit_after, interval = tunnel.commit_after, tunnel.heartbeat_interval
    if commit_after is None:
        commit_after = profile.commit_after
    if interval is None:
        interval = profile.interval
    if commit_after == inf:
        return None
    half = inf if client_timeout is None else client_timeout.seconds / 2
    return HeartbeatSchedule(min(commit_after, half), min(interval, half))


def deadlines_extended(
    tunnel: TunnelSettings,
    client_timeout: ClientTimeout | None,
    schedule: HeartbeatSchedule | None,
) -> bool:
    """Return True if heartbeats extend the deadline of a request.

    With heartbeats, a client timeout that each byte restarts is no deadline.

    Args:
        tunnel: the owner may want that timeout to be respected anyway.
        client_timeout: what the client declares, or None.
        schedule: of the response's heartbeats; None if there are none.
    """
    per_read = client_timeout is None or client_timeout.per_read
    return tunnel.client_timeout == "extend" and per_read and schedule is not None


def _recognized(headers: Mapping[str, str]) -> HeartbeatSchedule:
    """Recognize the tunnel by what it adds. A client that adds it harms only itself."""
    if "cf-ray" in headers or "cf-connecting-ip" in headers:
        return _FREQUENT
    host = headers.get("host", "").partition(":")[0].lower()
    # Funnel and tagged nodes have no user, but the name is always one of the tailnet's.
    is_rare = "tailscale-user-login" in headers or host.endswith(_RARE_HOSTS)
    return _RARE if is_rare else _FREQUENT


class HeartbeatTarget(Protocol):
    """A response, as far as the timer sees it."""

    @property
    def state(self) -> State: ...
    @property
    def wrote_at(self) -> float | None: ...
    def send_heartbeat(self, kind: ResponseKind, note: str = "") -> None: ...


class HeartbeatTimer:
    """Sends heartbeats inside ``with``. The pipeline does not know of it.

    The first is due ``schedule.commit_after`` after ``since``, each further one when nothing was
    written for ``schedule.interval``. Heartbeats say nothing about Ollama: no timeout of the
    gateway is restarted by them.

    Args:
        response: gets the heartbeats.
        schedule: None sends none.
        kind: what the request asks for.
        since: when the request arrived, in seconds of the loop's clock.
        record: tells what the request waits for, for the comment in a heartbeat.
    """

    __slots__ = ("_handle", "_kind", "_loop", "_record", "_response", "_schedule", "_since")

    def __init__(
        self,
        response: HeartbeatTarget,
        schedule: HeartbeatSchedule | None,
        *,
        kind: ResponseKind,
        since: float,
        record: RequestRecord,
    ) -> None:
        self._response = response
        self._schedule = schedule
        self._kind = kind
        self._since = since
        self._record = record
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        schedule = self._schedule
        if schedule is not None:
            # A response that begins early and then falls silent is due an interval after its last
            # byte, which may be before ``commit_after``.
            self._call_at(
                min(self._since + schedule.commit_after, self._loop.time() + schedule.interval)
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _call_at(self, when: float) -> None:
        self._handle = self._loop.call_at(when, self._check)

    def _check(self) -> None:
        response, schedule = self._response, self._schedule
        if schedule is None or response.state not in (State.PENDING, State.COMMITTED):
            return
        now = self._loop.time()
        if response.wrote_at is None:
            due = self._since + schedule.commit_after
        else:
            due = response.wrote_at + schedule.interval
        latest = now + schedule.interval
        if due > now:
            self._call_at(min(due, latest))
            return
        # Schedule first: a heartbeat that raises must not be the last one.
        self._call_at(latest)
        response.send_heartbeat(self._kind, _progress(self._record))


def _progress(record: RequestRecord) -> str:
    """Return what the request waits for, for clients whose dialect has comments."""
    if record.phase is Phase.FIRST_BYTE:
        return "the model is loading or reading the prompt"
    if record.phase is not Phase.QUEUE or record.queue_position is None:
        return ""
    queued = record.queue_position()
    if queued is None:
        return ""
    # Nothing is known of the wait before anything was measured.
    estimate = f", about {queued.wait:.0f} s" if 1 <= queued.wait < inf else ""
    return f"queued: number {queued.position}{estimate}"
