"""One inference request, from the queue to the end of its response. It knows no HTTP server."""

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Final

from gateway.errors import (
    QueueTimeout,
    UpstreamFirstByteTimeout,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.models.statistics import Observation, Statistics
from gateway.proxy.background import BackgroundLearning, Outcome
from gateway.proxy.integrity import TRUNCATED_HEADER, TruncationGuard
from gateway.proxy.relay import Response, UpstreamBusy, relay
from gateway.proxy.request import InferenceRequest
from gateway.scheduler import Scheduler, SlotRequest
from gateway.settings import Settings
from gateway.telemetry.record import Phase, RequestRecord
from gateway.timeouts import deadlines_for, rule_for
from gateway.upstream import Outgoing, Upstream

_BUSY_DELAY: Final = 1.0
"""Seconds before a request is sent again to an Ollama that had no room for it."""


class Pipeline:
    """Performs inference requests. It has no state of its own.

    Args:
        on_unreachable: called when Ollama could not be reached for a request.
        now: monotonic clock in seconds.
    """

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        upstream: Upstream,
        settings: Settings,
        statistics: Statistics,
        guard: TruncationGuard,
        background: BackgroundLearning,
        on_unreachable: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        self._scheduler = scheduler
        self._upstream = upstream
        self._settings = settings
        self._statistics = statistics
        self._guard = guard
        self._background = background
        self._on_unreachable = on_unreachable
        self._now = now

    async def perform(
        self, request: InferenceRequest, response: Response, record: RequestRecord
    ) -> None:
        """Wait for a slot, send the request to Ollama once, relay its response.

        The slot is released when Ollama's last byte was read or its connection closed, not when the
        client has taken the last byte. A request is never sent twice, except if Ollama refused it
        because it was busy, before it did anything.

        Raises:
            GatewayError: for every way to fail.
            CancelledError: the client has disconnected.
        """
        now, settings, model = self._now, self._settings, request.model

        # Ollama would silently truncate the prompt: refuse it, or say so in the response's head.
        too_long = await self._guard.check_before(request)
        if too_long:
            response.add_header(*TRUNCATED_HEADER)

        # Every timeout of this request, decided once.
        rule = rule_for(model.name, settings.models)
        deadlines = deadlines_for(
            settings.timeouts,
            rule,
            parameters=model.parameters,
            size_bytes=model.size_bytes,
            streaming=request.streaming,
            client_timeout=request.client_timeout,
            extended=request.extended,
            measured=self._statistics.get(model.name),
        )
        max_active = settings.scheduler.max_active_per_model
        if rule is not None and rule.max_active is not None:
            max_active = rule.max_active
        principal = request.principal
        slot_request = first_request = SlotRequest(
            key=principal.key,
            model=model.name,
            model_max_active=max_active,
            key_max_active=principal.max_active,
            queue_timeout=deadlines.queue,
            weight=principal.weight,
            batch=principal.batch,
            client_timeout=inf if request.extended else request.client_timeout or inf,
            fingerprint=request.fingerprint,
            retry=bool(record.retry),
            local=not model.leaves_the_machine,
        )
        outgoing = Outgoing("POST", request.path, request.body, request.request_id)

        arrived_at = now()
        queue_wait = 0.0  # The sum over all attempts.
        while True:
            record.phase = Phase.QUEUE
            record.queue_wait = None
            queued_at = now()
            queued = self._scheduler.slot(slot_request)
            record.queue_position = queued.position
            try:
                async with queued as slot:
                    queue_wait += slot.waited
                    record.queue_wait = queue_wait
                    if record.predicted is None:
                        record.predicted = slot.expected
                    resident = slot.model_was_loaded
                    sent_at = now()
                    relayed = timed_out = False
                    record.phase = Phase.FIRST_BYTE
                    try:
                        async with self._upstream.open(
                            outgoing, deadlines.when_loaded() if resident else deadlines
                        ) as reply:
                            record.upstream_status = reply.status
                            upstream_wait = now() - sent_at
                            await relay(
                                reply,
                                response,
                                request=request,
                                record=record,
                                guard=self._guard,
                                timing=f"queue;dur={queue_wait * 1000:.1f}, "
                                f"upstream;dur={upstream_wait * 1000:.1f}",
                                too_long=too_long,
                                read_ahead_bytes=settings.limits.read_ahead_bytes,
                            )
                            relayed = True
                    except (UpstreamFirstByteTimeout, UpstreamTimeout):
                        timed_out = True
                        raise
                    finally:
                        # However it ended, also if it was cancelled: nothing here waits.
                        self._finish(
                            request,
                            record,
                            service=now() - sent_at,
                            sent_at=sent_at,
                            resident=resident,
                            relayed=relayed,
                            timed_out=timed_out,
                        )
                break
            except UpstreamBusy:
                # Ollama works for clients that do not come through this gateway.
                record.phase = Phase.QUEUE
                slot_request = _retry_of(first_request, waited=now() - arrived_at)
            except UpstreamUnreachable:
                record.phase = Phase.CONNECT
                self._on_unreachable()
                raise
            finally:
                if record.queue_wait is None:  # It left the queue without a slot.
                    record.queue_wait = queue_wait + now() - queued_at
        await response.end()

    def _finish(
        self,
        request: InferenceRequest,
        record: RequestRecord,
        *,
        service: float,
        sent_at: float,
        resident: bool,
        relayed: bool,
        timed_out: bool,
    ) -> None:
        """Note what is known when Ollama's response has ended; learn from it in the background."""
        model, completed = request.model, record.upstream_status == 200
        if model.leaves_the_machine or not (completed or timed_out):
            # What runs elsewhere, or was refused, teaches nothing about this machine.
            return
        waited = None
        if completed and record.streaming and record.first_byte_at is not None:
            waited = record.first_byte_at - sent_at
        self._background.submit(
            Outcome(
                key=request.principal.key,
                model=model,
                prompt=request.prompt,
                observation=Observation(
                    model=model.name,
                    resident_before=resident,
                    streaming=request.streaming,
                    service=service,
                    waited_for_first_byte=waited,
                    tokens_in=record.tokens_in,
                    tokens_out=record.tokens_out,
                    timings=record.timings,
                    complete=relayed and record.outcome is None,
                    timed_out=timed_out,
                ),
                tokens_in=record.tokens_in,
                completed=relayed,
                ask_context=relayed and self._guard.record(request, record),
                truncated=bool(record.prompt_truncated),
            )
        )


def _retry_of(first: SlotRequest, *, waited: float) -> SlotRequest:
    """Return the slot request with which a request is queued again after Ollama was busy.

    It is first of its key and model, after a moment, and waits for what is left of its time.

    Args:
        first: the slot request with which it came, ``waited`` seconds ago.

    Raises:
        QueueTimeout: no time is left.
    """
    left = first.queue_timeout - waited
    if left <= _BUSY_DELAY:
        raise QueueTimeout(
            "Ollama is busy with requests that did not come through this gateway. Try again later.",
            retry_after=_BUSY_DELAY,
        )
    return replace(
        first,
        first=True,
        delay=_BUSY_DELAY,
        queue_timeout=left,
        client_timeout=first.client_timeout - waited,
    )
