"""Callers are held while their answers take long, and miss nothing of how these end."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import inf

from aiohttp import HttpVersion11, web

from gateway.client_timeout import Patience, Pulse, PulseSettings, pulse_for
from gateway.errors import (
    ClientDisconnected,
    ClientWriteTimeout,
    GatewayError,
    InternalError,
    UpstreamFailed,
)
from gateway.proxy.inference import Call
from gateway.proxy.replay import LateFailure, LateFailures
from gateway.public.context import Asking
from gateway.public.heartbeat import Heartbeat
from gateway.public.state import Shape
from gateway.telemetry.record import Exchange, Phase, Place

_FINAL = ("x-should-retry", "false")
_RETOLD = "x-gateway-retold"
"""Names the request that failed: its line in the log says more."""

_OF_THAT_ATTEMPT = frozenset({"retry-after", "retry-after-ms", "x-should-retry", "server-timing"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldSettings:
    """When answers are kept alive; ``extend``: a caller who is kept has time."""

    pulse: PulseSettings
    extend: bool


class Holding:
    """Keeps answers alive. Mutable state: the failures that could not be told."""

    def __init__(self, settings: HoldSettings, *, now: Callable[[], float]) -> None:
        self._settings = settings
        self._now = now
        self._late = LateFailures(now=now)

    def __repr__(self) -> str:
        return f"<Holding {self._settings}, {self._late!r}>"

    def pulse(self, request: web.BaseRequest, patience: Patience | None) -> Pulse | None:
        """When this answer is kept alive. HTTP/1.0 has no chunks, so its callers are left alone."""
        if request.version < HttpVersion11:
            return None
        return pulse_for(request.headers, patience, self._settings.pulse)

    def extends(self, patience: Patience | None, pulse: Pulse | None) -> bool:
        """Whether this caller's patience is no deadline: heartbeats renew it."""
        renewed = patience is None or patience.renewed
        return self._settings.extend and renewed and pulse is not None

    def heartbeat(self, call: Call, asking: Asking, pulse: Pulse | None) -> Heartbeat:
        """Keeps the answer alive inside ``with``."""
        exchange = asking.exchange
        return Heartbeat(
            asking.answer,
            pulse,
            shape=Shape.STREAM if call.streaming else Shape.WHOLE,
            since=self._now() if exchange.arrived_at is None else exchange.arrived_at,
            note=partial(_note, exchange),
        )

    def failed(self, error: Exception, call: Call, asking: Asking) -> None:
        """Remember how the call failed, if its caller is there and cannot be told."""
        gone = isinstance(error, ClientDisconnected | ClientWriteTimeout)
        if asking.answer.fails_wordlessly and not gone:
            failure = _late(error, asking)
            self._late.remember(call.fingerprint(), failure, retry=asking.exchange.retry)

    def missed(self, call: Call, exchange: Exchange) -> LateFailure | None:
        """How an earlier attempt of this very call failed, if its caller could not be told."""
        if not self._late:
            # Hashing a large body takes a while.
            return None
        return self._late.take(call.fingerprint(), retry=exchange.retry)

    async def retell(self, failure: LateFailure, asking: Asking) -> None:
        """Answer with it. Raises ClientDisconnected, ClientWriteTimeout."""
        exchange = asking.exchange
        exchange.outcome, exchange.error = failure.outcome, failure.words
        exchange.retold = True
        await asking.answer.whole(failure.status, failure.headers, failure.body)
        await asking.answer.end()


def _note(exchange: Exchange) -> str:
    """What a waiting caller may read, where his dialect has comments."""
    if exchange.phase is Phase.QUEUE:
        place = None if exchange.place is None else exchange.place()
        return "" if place is None else _place(place)
    if exchange.phase is Phase.FIRST_BYTE:
        return "the model is loading or reading the prompt"
    return ""


def _place(place: Place) -> str:
    # As long as nothing was measured, nothing is known of the wait.
    expected = f", about {place.wait:.0f} s" if 1 <= place.wait < inf else ""
    return f"queued: number {place.position}{expected}"


def _late(error: Exception, asking: Asking) -> LateFailure:
    told = error if isinstance(error, GatewayError) else InternalError()
    json = ("Content-Type", "application/json")
    of_whom = (_RETOLD, asking.exchange.request_id)
    body = asking.answer.dialect.error_body(told, asking.exchange.request_id)
    if not isinstance(told, UpstreamFailed):
        headers = (json, of_whom, *told.headers.items())
        return LateFailure(told.status, _kept(headers), body, told.code, told.message)
    reply = told.reply
    kept = _kept((of_whom, *reply.headers))
    as_sent = LateFailure(reply.status, kept, reply.body, told.code, told.message)
    if reply.body and as_sent.is_small:
        return as_sent
    return replace(as_sent, headers=_kept((json, of_whom)), body=body)


def _kept(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """His client has tried already: what it shall do now is to tell him."""
    return (*(each for each in headers if each[0].lower() not in _OF_THAT_ATTEMPT), _FINAL)
