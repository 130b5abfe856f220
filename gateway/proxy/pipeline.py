"""The core, for one call: a lease, a request to Ollama, the relay. No HTTP of the caller's here."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from math import inf
from typing import NamedTuple, Protocol

from gateway.errors import (
    QueueTimeout,
    UpstreamFirstByteTimeout,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.models.names import rule_for
from gateway.models.statistics import Observation
from gateway.proxy.guard import TRUNCATED_HEADER, TruncationGuard
from gateway.proxy.headers import head_of
from gateway.proxy.inference import Call
from gateway.proxy.relay import (
    UpstreamBusy,
    insist_on_stream,
    is_stream,
    relay_stream,
    relay_whole,
)
from gateway.proxy.response import Response
from gateway.scheduler import SlotRequest
from gateway.settings import Settings
from gateway.telemetry.record import Phase, QueuePosition, RequestRecord
from gateway.timeouts import Deadlines, LearnedTimes, deadlines_for
from gateway.upstream import Outgoing, Reply

_BUSY_DELAY = 1.0
"""Seconds before a call is sent again to an Ollama that had no room for it."""


class Slot(Protocol):
    @property
    def waited(self) -> float: ...
    @property
    def expected(self) -> float | None: ...
    @property
    def model_was_loaded(self) -> bool: ...


class Turn(AbstractAsyncContextManager[Slot], Protocol):
    """A lease that is asked for; ``position`` tells where in the queue, until it is granted."""

    def position(self) -> QueuePosition | None: ...


class Queue(Protocol):
    """Admission, as far as a call sees it."""

    def slot(self, demand: SlotRequest, /) -> Turn: ...


class Experience(Protocol):
    """What was learned about models; what a call shows is added to it."""

    def times(self, model: str, /) -> LearnedTimes | None: ...
    def observe(self, observation: Observation, /) -> None: ...


class Opener(Protocol):
    """Ollama, as far as a call sees it."""

    def open(
        self, request: Outgoing, timeouts: Deadlines, /
    ) -> AbstractAsyncContextManager[Reply]: ...


class Pipeline:
    """Performs calls; has no state of its own."""

    def __init__(
        self,
        *,
        queue: Queue,
        upstream: Opener,
        settings: Settings,
        statistics: Experience,
        guard: TruncationGuard,
        unreachable: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        """``unreachable`` is told when Ollama could not be reached for a call."""
        self._unreachable = unreachable
        self._queue = queue
        self._upstream = upstream
        self._settings = settings
        self._learned = statistics
        self._guard = guard
        self._now = now

    async def perform(self, call: Call, answer: Response, record: RequestRecord) -> None:
        """Wait for a place, ask Ollama once, pass its answer on.

        The place is given back when Ollama's last byte was read or its connection closed, not when
        the caller has taken the last byte. A request is never sent twice, but for one that Ollama
        refused for want of room, before it did anything.

        Raises a GatewayError for every way to fail; cancelled when the caller leaves.
        """
        too_long = await self._guard.foresee(call)
        if too_long:
            answer.add_header(*TRUNCATED_HEADER)
        model, settings = call.model, self._settings
        rule = rule_for(model.name, settings.models)
        deadlines = deadlines_for(
            settings.timeouts,
            rule,
            parameters=model.parameters,
            size_bytes=model.size_bytes,
            streaming=call.streaming,
            client_timeout=call.client_timeout,
            extended=call.held,
            learned=self._learned.times(model.name),
        )
        run = _Run(call, answer, record, deadlines, too_long)
        allowed = settings.scheduler.max_active_per_model
        if rule is not None and rule.max_active is not None:
            allowed = rule.max_active
        wish = demand = self._demand(run, allowed)
        asked_at = self._now()
        while not await self._turn(demand, run):
            # Ollama is busy with somebody else's calls.
            demand = _again(wish, waited=self._now() - asked_at)
        await answer.end()
        # It may have to ask Ollama: whoever has his answer does not wait for that.
        await self._guard.conclude(call, record)

    async def _turn(self, demand: SlotRequest, run: "_Run") -> bool:
        """One place, one request; False if Ollama had no room for it."""
        record = run.record
        record.phase = Phase.QUEUE
        asked_at, waited = self._now(), record.queue_wait or 0.0
        record.queue_wait = None
        try:
            turn = self._queue.slot(demand)
            record.queue_position = turn.position
            async with turn as slot:
                record.queue_wait = waited + slot.waited
                if record.predicted is None:
                    record.predicted = slot.expected
                await self._learn(run, resident=slot.model_was_loaded)
        except UpstreamBusy:
            record.phase = Phase.QUEUE
            return False
        except UpstreamUnreachable:
            record.phase = Phase.CONNECT
            self._unreachable()
            raise
        finally:
            if record.queue_wait is None:
                record.queue_wait = waited + self._now() - asked_at
        return True

    async def _learn(self, run: "_Run", *, resident: bool) -> None:
        """Ask, and remember how long it took, however it ended."""
        sent_at = self._now()
        complete = timed_out = False
        try:
            deadlines = run.deadlines.when_loaded() if resident else run.deadlines
            await self._ask(run, deadlines, sent_at)
            complete = run.record.outcome is None
        except (UpstreamFirstByteTimeout, UpstreamTimeout):
            timed_out = True
            raise
        finally:
            self._observe(run, sent_at, resident=resident, complete=complete, timed_out=timed_out)

    async def _ask(self, run: "_Run", timeouts: Deadlines, sent_at: float) -> None:
        call, record = run.call, run.record
        dialect = call.target.dialect
        request = Outgoing("POST", call.target.path, call.body, call.request_id)
        record.phase = Phase.FIRST_BYTE
        async with self._upstream.open(request, timeouts) as reply:
            record.upstream_status = reply.status
            waits = (record.queue_wait or 0.0, self._now() - sent_at)
            if is_stream(reply, dialect):
                record.streaming = True
                headers = head_of(reply.status, reply.headers, waits, streaming=True)
                headers += self._guard.told_early(record, foreseen=run.too_long)
                await relay_stream(reply, run.answer, headers, dialect, record)
            else:
                if call.streaming:
                    insist_on_stream(reply)
                headers = head_of(reply.status, reply.headers, waits, streaming=False)
                await relay_whole(
                    reply,
                    run.answer,
                    headers,
                    dialect,
                    record,
                    at_once=self._settings.limits.read_ahead_bytes,
                    judge=partial(self._guard.judge, call, record),
                )

    def _observe(
        self, run: "_Run", sent_at: float, *, resident: bool, complete: bool, timed_out: bool
    ) -> None:
        call, record = run.call, run.record
        good = record.upstream_status == 200
        if call.model.leaves_the_machine or not (good or timed_out):
            return
        first = record.first_byte_at if good and record.streaming else None
        self._learned.observe(
            Observation(
                model=call.model.name,
                resident_before=resident,
                streaming=call.streaming,
                service=self._now() - sent_at,
                waited_for_first_byte=None if first is None else first - sent_at,
                tokens_in=record.tokens_in,
                tokens_out=record.tokens_out,
                timings=record.timings,
                complete=complete,
                timed_out=timed_out,
            )
        )

    def _demand(self, run: "_Run", model_max_active: int) -> SlotRequest:
        call = run.call
        principal, model = call.principal, call.model.name
        return SlotRequest(
            key=principal.key,
            model=model,
            model_max_active=model_max_active,
            key_max_active=principal.max_active,
            queue_timeout=run.deadlines.queue,
            weight=principal.weight,
            batch=principal.batch,
            client_timeout=inf if call.held else call.client_timeout or inf,
            fingerprint=call.fingerprint(),
            retry=bool(run.record.retry),
            local=not call.model.leaves_the_machine,
        )


class _Run(NamedTuple):
    """One call under way: what was asked, and where its answer and facts go.

    ``too_long``: Ollama will surely cut its prompt.
    """

    call: Call
    answer: Response
    record: RequestRecord
    deadlines: Deadlines
    too_long: bool


def _again(wish: SlotRequest, *, waited: float) -> SlotRequest:
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
        client_timeout=wish.client_timeout - waited,
    )
