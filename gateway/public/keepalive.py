"""Callers are held while their answers take long, and miss nothing of how these end."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import inf

from aiohttp import HttpVersion11, web

from gateway.client_timeout import (
    HeartbeatSchedule,
    HeartbeatSettings,
    heartbeat_schedule,
)
from gateway.errors import (
    ClientDisconnected,
    ClientWriteTimeout,
    GatewayError,
    InternalError,
    UpstreamFailed,
)
from gateway.proxy.inference import Call
from gateway.proxy.replay import FailureReplay, ReplayableFailure
from gateway.public.context import AuthorizedRequest
from gateway.public.heartbeat import Heartbeat
from gateway.public.state import ResponseKind
from gateway.telemetry.record import Phase, QueuePosition, RequestRecord
from gateway.timeouts import ClientTimeout

_FINAL = ("x-should-retry", "false")
_RETOLD = "x-gateway-replayed"
"""Names the request that failed: its line in the log says more."""

_OF_THAT_ATTEMPT = frozenset({"retry-after", "retry-after-ms", "x-should-retry", "server-timing"})


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepAliveSettings:
    """When answers are kept alive; ``extend``: a caller who is kept has time."""

    pulse: HeartbeatSettings
    extend: bool


class KeepAlive:
    """Keeps answers alive. Mutable state: the failures that could not be told."""

    def __init__(self, settings: KeepAliveSettings, *, now: Callable[[], float]) -> None:
        self._settings = settings
        self._now = now
        self._late = FailureReplay(now=now)

    def __repr__(self) -> str:
        return f"<Holding {self._settings}, {self._late!r}>"

    def pulse(
        self, request: web.BaseRequest, client_timeout: ClientTimeout | None
    ) -> HeartbeatSchedule | None:
        """When this answer is kept alive. HTTP/1.0 has no chunks, so its callers are left alone."""
        if request.version < HttpVersion11:
            return None
        return heartbeat_schedule(request.headers, client_timeout, self._settings.pulse)

    def extends(
        self, client_timeout: ClientTimeout | None, pulse: HeartbeatSchedule | None
    ) -> bool:
        """Whether this caller's patience is no deadline: heartbeats renew it."""
        renewed = client_timeout is None or client_timeout.per_read
        return self._settings.extend and renewed and pulse is not None

    def heartbeat(
        self, call: Call, asking: AuthorizedRequest, pulse: HeartbeatSchedule | None
    ) -> Heartbeat:
        """Keeps the answer alive inside ``with``."""
        record = asking.record
        return Heartbeat(
            asking.answer,
            pulse,
            shape=ResponseKind.STREAM if call.streaming else ResponseKind.COMPLETE,
            since=self._now() if record.arrived_at is None else record.arrived_at,
            note=partial(_note, record),
        )

    def failed(self, error: Exception, call: Call, asking: AuthorizedRequest) -> None:
        """Remember how the call failed, if its caller is there and cannot be told."""
        gone = isinstance(error, ClientDisconnected | ClientWriteTimeout)
        if asking.answer.cannot_report_errors and not gone:
            failure = _late(error, asking)
            self._late.remember(call.fingerprint(), failure, retry=asking.record.retry)

    def missed(self, call: Call, record: RequestRecord) -> ReplayableFailure | None:
        """How an earlier attempt of this very call failed, if its caller could not be told."""
        if not self._late:
            # Hashing a large body takes a while.
            return None
        return self._late.take(call.fingerprint(), retry=record.retry)

    async def replay(self, failure: ReplayableFailure, asking: AuthorizedRequest) -> None:
        """Answer with it. Raises ClientDisconnected, ClientWriteTimeout."""
        record = asking.record
        record.outcome, record.error = failure.outcome, failure.words
        record.replayed = True
        await asking.answer.send(failure.status, failure.headers, failure.body)
        await asking.answer.end()


def _note(record: RequestRecord) -> str:
    """What a waiting caller may read, where his dialect has comments."""
    if record.phase is Phase.QUEUE:
        place = None if record.queue_position is None else record.queue_position()
        return "" if place is None else _place(place)
    if record.phase is Phase.FIRST_BYTE:
        return "the model is loading or reading the prompt"
    return ""


def _place(place: QueuePosition) -> str:
    # As long as nothing was measured, nothing is known of the wait.
    expected = f", about {place.wait:.0f} s" if 1 <= place.wait < inf else ""
    return f"queued: number {place.position}{expected}"


def _late(error: Exception, asking: AuthorizedRequest) -> ReplayableFailure:
    told = error if isinstance(error, GatewayError) else InternalError()
    json = ("Content-Type", "application/json")
    of_whom = (_RETOLD, asking.record.request_id)
    body = asking.answer.dialect.error_body(told, asking.record.request_id)
    if not isinstance(told, UpstreamFailed):
        headers = (json, of_whom, *told.headers.items())
        return ReplayableFailure(told.status, _kept(headers), body, told.code, told.message)
    reply = told.reply
    kept = _kept((of_whom, *reply.headers))
    as_sent = ReplayableFailure(reply.status, kept, reply.body, told.code, told.message)
    if reply.body and as_sent.is_small:
        return as_sent
    return replace(as_sent, headers=_kept((json, of_whom)), body=body)


def _kept(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """His client has tried already: what it shall do now is to tell him."""
    return (*(each for each in headers if each[0].lower() not in _OF_THAT_ATTEMPT), _FINAL)
