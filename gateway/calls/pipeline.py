"""The core, for one call: a lease, a request to Ollama, the relay. No HTTP of the caller's here."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from math import inf
from typing import Protocol

from gateway.admission.demand import Demand
from gateway.admission.predict import Prediction
from gateway.calls.answer import Answer, Headers
from gateway.calls.call import Call
from gateway.calls.headers import end_to_end
from gateway.calls.relay import (
    UpstreamBusy,
    insist_on_stream,
    is_stream,
    relay_stream,
    relay_whole,
)
from gateway.catalog.learned import Observation
from gateway.clocks import (
    CallClocks,
    ClockSettings,
    LearnedTimes,
    Override,
    clocks_for,
    max_active_for,
)
from gateway.errors import (
    QueueTimeout,
    UpstreamFirstByteTimeout,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.telemetry.exchange import Exchange, Phase
from gateway.upstream import Outgoing, Reply

_BUSY_DELAY = 1.0
"""Seconds before a call is sent again to an Ollama that had no room for it."""


class Lease(Protocol):
    @property
    def waited(self) -> float: ...
    @property
    def foreseen(self) -> Prediction | None: ...
    @property
    def resident(self) -> bool: ...


class Queue(Protocol):
    """Admission, as far as a call sees it."""

    def lease(self, demand: Demand, /) -> AbstractAsyncContextManager[Lease]: ...


class Experience(Protocol):
    """What was learned about models; what a call shows is added to it."""

    def times(self, model: str, /) -> LearnedTimes | None: ...
    def observe(self, observation: Observation, /) -> None: ...


class Opener(Protocol):
    """Ollama, as far as a call sees it."""

    def open(
        self, request: Outgoing, clocks: CallClocks, /
    ) -> AbstractAsyncContextManager[Reply]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the owner has set, as far as it decides about one call."""

    clocks: ClockSettings
    overrides: Sequence[Override]
    max_active_per_model: int
    answer_bytes: int


class Pipeline:
    """Performs calls; has no state of its own."""

    def __init__(
        self,
        *,
        queue: Queue,
        upstream: Opener,
        terms: Terms,
        learned: Experience,
        unreachable: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        """``unreachable`` is told when Ollama could not be reached for a call."""
        self._unreachable = unreachable
        self._queue = queue
        self._upstream = upstream
        self._terms = terms
        self._learned = learned
        self._now = now

    def clocks(self, call: Call, *, resident: bool = False) -> CallClocks:
        """How long this call may take; ``resident``: its model is proven to be loaded."""
        return clocks_for(
            model=call.model.name,
            parameters=call.model.parameters,
            size_bytes=call.model.size_bytes,
            streaming=call.streaming,
            patience=call.patience,
            settings=self._terms.clocks,
            overrides=self._terms.overrides,
            learned=self._learned.times(call.model.name),
            resident=resident,
        )

    async def perform(self, call: Call, answer: Answer, exchange: Exchange) -> None:
        """Wait for a place, ask Ollama once, pass its answer on.

        The place is given back when Ollama's last byte was read or its connection closed, not when
        the caller has taken the last byte. A request is never sent twice, but for one that Ollama
        refused for want of room, before it did anything.

        Raises a GatewayError for every way to fail; cancelled when the caller leaves.
        """
        run = _Run(call, answer, exchange)
        wish = demand = self._demand(run)
        asked_at = self._now()
        while not await self._turn(demand, run):
            # Ollama is busy with somebody else's calls.
            demand = _again(wish, waited=self._now() - asked_at)
        await answer.end()

    async def _turn(self, demand: Demand, run: "_Run") -> bool:
        """One place, one request; False if Ollama had no room for it."""
        exchange = run.exchange
        exchange.phase = Phase.QUEUE
        asked_at, waited = self._now(), exchange.queue_wait or 0.0
        exchange.queue_wait = None
        try:
            async with self._queue.lease(demand) as lease:
                exchange.queue_wait = waited + lease.waited
                if exchange.predicted is None and lease.foreseen is not None:
                    exchange.predicted = lease.foreseen.finish
                await self._learn(run, resident=lease.resident)
        except UpstreamBusy:
            exchange.phase = Phase.QUEUE
            return False
        except UpstreamUnreachable:
            exchange.phase = Phase.CONNECT
            self._unreachable()
            raise
        finally:
            if exchange.queue_wait is None:
                exchange.queue_wait = waited + self._now() - asked_at
        return True

    async def _learn(self, run: "_Run", *, resident: bool) -> None:
        """Ask, and remember how long it took, however it ended."""
        sent_at = self._now()
        complete = timed_out = False
        try:
            await self._ask(run, self.clocks(run.call, resident=resident), sent_at)
            complete = run.exchange.outcome is None
        except (UpstreamFirstByteTimeout, UpstreamTimeout):
            timed_out = True
            raise
        finally:
            self._observe(run, sent_at, resident=resident, complete=complete, timed_out=timed_out)

    async def _ask(self, run: "_Run", clocks: CallClocks, sent_at: float) -> None:
        call, exchange = run.call, run.exchange
        dialect = call.target.dialect
        request = Outgoing("POST", call.target.path, call.body, call.request_id)
        exchange.phase = Phase.FIRST_BYTE
        async with self._upstream.open(request, clocks) as reply:
            exchange.upstream_status = reply.status
            waits = (exchange.queue_wait or 0.0, self._now() - sent_at)
            if is_stream(reply, dialect):
                exchange.streaming = True
                headers = _headers(reply, waits, streaming=True)
                await relay_stream(reply, run.answer, headers, dialect, exchange)
            else:
                if call.streaming:
                    insist_on_stream(reply)
                headers = _headers(reply, waits, streaming=False)
                limit = self._terms.answer_bytes
                await relay_whole(reply, run.answer, headers, dialect, exchange, at_once=limit)

    def _observe(
        self, run: "_Run", sent_at: float, *, resident: bool, complete: bool, timed_out: bool
    ) -> None:
        call, exchange = run.call, run.exchange
        good = exchange.upstream_status == 200
        if call.model.leaves_the_machine or not (good or timed_out):
            return
        first = exchange.first_byte_at if good and exchange.streaming else None
        self._learned.observe(
            Observation(
                model=call.model.name,
                resident_before=resident,
                streaming=call.streaming,
                service=self._now() - sent_at,
                waited_for_first_byte=None if first is None else first - sent_at,
                tokens_in=exchange.tokens_in,
                tokens_out=exchange.tokens_out,
                timings=exchange.timings,
                complete=complete,
                timed_out=timed_out,
            )
        )

    def _demand(self, run: "_Run") -> Demand:
        terms, call = self._terms, run.call
        principal, model = call.principal, call.model.name
        return Demand(
            key=principal.key,
            model=model,
            model_max_active=max_active_for(model, terms.overrides, terms.max_active_per_model),
            key_max_active=principal.max_active,
            queue_timeout=self.clocks(call).queue_timeout,
            weight=principal.weight,
            batch=principal.batch,
            patience=call.patience or inf,
            fingerprint=call.fingerprint(),
            retry=bool(run.exchange.retry),
            local=not call.model.leaves_the_machine,
        )


@dataclass(frozen=True, slots=True)
class _Run:
    """One call under way: what was asked, and where its answer and facts go."""

    call: Call
    answer: Answer
    exchange: Exchange


def _again(wish: Demand, *, waited: float) -> Demand:
    """The same call at the head of its lane, after a moment, for what is left of its time.

    ``wish`` is what it asked for when it came, ``waited`` seconds ago.

    Raises:
        QueueTimeout: nothing is left.
    """
    left = wish.queue_timeout - waited
    if left <= _BUSY_DELAY:
        raise QueueTimeout(
            "Ollama is busy with calls that did not come through this gateway. Try again later.",
            retry_after=_BUSY_DELAY,
        )
    return replace(
        wish,
        first=True,
        delay=_BUSY_DELAY,
        queue_timeout=left,
        patience=wish.patience - waited,
    )


def _headers(reply: Reply, waits: tuple[float, float], *, streaming: bool) -> Headers:
    queue, upstream = waits
    kept = end_to_end(reply.headers, streaming=streaming)
    timing = f"queue;dur={queue * 1000:.1f}, upstream;dur={upstream * 1000:.1f}"
    kept.append(("Server-Timing", timing))
    return kept + _advice(reply.status, {name.lower() for name, _ in kept})


def _advice(status: int, said: set[str]) -> list[tuple[str, str]]:
    """Ours where Ollama gave none: its 4xx cannot succeed next time, its 5xx soon may."""
    if status < 400:
        return []
    if status < 500 and status not in (408, 409, 429):
        return [] if "x-should-retry" in said else [("x-should-retry", "false")]
    return [] if "retry-after" in said else [("Retry-After", "2")]
