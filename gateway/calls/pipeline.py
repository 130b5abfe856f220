"""The core, for one call: a lease, a request to Ollama, the relay. No HTTP of the caller's here."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from gateway.admission.demand import Demand
from gateway.calls.answer import Answer, Headers
from gateway.calls.call import Call
from gateway.calls.headers import end_to_end
from gateway.calls.relay import insist_on_stream, is_stream, relay_stream, relay_whole
from gateway.clocks import CallClocks, ClockSettings, Override, clocks_for, max_active_for
from gateway.errors import UpstreamUnreachable
from gateway.telemetry.exchange import Exchange, Phase
from gateway.upstream import Outgoing, Reply


class Lease(Protocol):
    @property
    def waited(self) -> float: ...


class Queue(Protocol):
    """Admission, as far as a call sees it."""

    def lease(self, demand: Demand, /) -> AbstractAsyncContextManager[Lease]: ...


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
        unreachable: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        """``unreachable`` is told when Ollama could not be reached for a call."""
        self._unreachable = unreachable
        self._queue = queue
        self._upstream = upstream
        self._terms = terms
        self._now = now

    def clocks(self, call: Call) -> CallClocks:
        return clocks_for(
            model=call.model.name,
            parameters=call.model.parameters,
            size_bytes=call.model.size_bytes,
            streaming=call.streaming,
            patience=call.patience,
            settings=self._terms.clocks,
            overrides=self._terms.overrides,
        )

    async def perform(self, call: Call, answer: Answer, exchange: Exchange) -> None:
        """Wait for a place, ask Ollama once, pass its answer on.

        The place is given back when Ollama's last byte was read or its connection closed, not when
        the caller has taken the last byte. A request is never sent twice.

        Raises a GatewayError for every way to fail; cancelled when the caller leaves.
        """
        clocks = self.clocks(call)
        asked_at = self._now()
        exchange.phase = Phase.QUEUE
        try:
            async with self._queue.lease(self._demand(call, clocks)) as lease:
                exchange.queue_wait = lease.waited
                await self._ask(call, clocks, answer, exchange)
        except UpstreamUnreachable:
            exchange.phase = Phase.CONNECT
            self._unreachable()
            raise
        finally:
            if exchange.queue_wait is None:
                exchange.queue_wait = self._now() - asked_at
        await answer.end()

    async def _ask(
        self, call: Call, clocks: CallClocks, answer: Answer, exchange: Exchange
    ) -> None:
        sent_at = self._now()
        dialect = call.target.dialect
        request = Outgoing("POST", call.target.path, call.body, call.request_id)
        exchange.phase = Phase.FIRST_BYTE
        async with self._upstream.open(request, clocks) as reply:
            exchange.upstream_status = reply.status
            waits = (exchange.queue_wait or 0.0, self._now() - sent_at)
            if is_stream(reply, dialect):
                exchange.streaming = True
                headers = _headers(reply, waits, streaming=True)
                await relay_stream(reply, answer, headers, dialect, exchange)
            else:
                if call.streaming:
                    insist_on_stream(reply)
                headers = _headers(reply, waits, streaming=False)
                limit = self._terms.answer_bytes
                await relay_whole(reply, answer, headers, dialect, exchange, at_once=limit)

    def _demand(self, call: Call, clocks: CallClocks) -> Demand:
        terms = self._terms
        model = call.model.name
        return Demand(
            key=call.principal.key,
            model=model,
            model_max_active=max_active_for(model, terms.overrides, terms.max_active_per_model),
            key_max_active=call.principal.max_active,
            queue_timeout=clocks.queue_timeout,
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
