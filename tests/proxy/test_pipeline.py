"""The pipeline without a network: the order of its steps, what it records, what it leaves behind.

The second part is about an Ollama that is busy with other clients, in virtual time.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any, cast

import pytest

from gateway.errors import (
    ClientDisconnected,
    ClientWriteTimeout,
    GatewayError,
    QueueFull,
    QueueTimeout,
    UpstreamFirstByteTimeout,
    UpstreamIdleTimeout,
    UpstreamIncomplete,
    UpstreamProtocolError,
    UpstreamUnreachable,
)
from gateway.models.statistics import Statistics
from gateway.proxy.background import BackgroundLearning
from gateway.proxy.pipeline import Pipeline
from gateway.proxy.request import InferenceRequest
from gateway.scheduler import Scheduler, SlotRequest
from gateway.settings import SchedulerSettings, Settings
from gateway.telemetry.record import Phase, RequestRecord
from gateway.upstream import Upstream
from tests.models.virtual import now, virtual_time
from tests.scheduler.helpers import EverythingLoaded

from .fakes import (
    JSON,
    StepResponse,
    Steps,
    StepScheduler,
    StepUpstream,
    inference_request,
    truncation_guard,
)

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = ["slot", "open", "read", "begin_stream", "write", "read", "write", "read"]


def slot_request() -> SlotRequest:
    """Of another client, for the same model."""
    return SlotRequest(
        key="other", model="llama3.2:1b", model_max_active=1, key_max_active=None, queue_timeout=5.0
    )


def learning(statistics: Statistics) -> BackgroundLearning:
    def crashed(error: Exception) -> None:
        raise error

    guard = truncation_guard(statistics=statistics)
    return BackgroundLearning(
        guard, statistics, truncated_later=lambda _model, _key: None, crashed=crashed
    )


def pipeline_for(
    scheduler: StepScheduler,
    upstream: StepUpstream,
    background: BackgroundLearning,
    settings: Settings,
    *,
    statistics: Statistics,
    on_unreachable: Callable[[], None] = lambda: None,
) -> Pipeline:
    return Pipeline(
        scheduler=cast("Scheduler", scheduler),
        upstream=cast("Upstream", upstream),
        settings=settings,
        statistics=statistics,
        guard=truncation_guard(statistics=statistics),
        background=background,
        on_unreachable=on_unreachable,
        now=asyncio.get_running_loop().time,
    )


@dataclass(slots=True)
class PipelineRun:
    """One call performed, and everything that can be seen of it afterwards."""

    steps: Steps
    pieces: tuple[bytes, ...] = (EVENT, DONE)
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "text/event-stream"),)
    status: int = 200
    settings: dict[str, Any] = field(default_factory=dict)
    times_unreachable: int = 0
    statistics: Statistics = field(default_factory=Statistics)
    scheduler: StepScheduler = field(init=False)
    background: BackgroundLearning = field(init=False)
    upstream: StepUpstream = field(init=False)
    response: StepResponse = field(init=False)
    record: RequestRecord = field(init=False)

    async def perform(self, request: InferenceRequest | None = None) -> BaseException | None:
        """What it raised, if anything. Nothing may be held afterwards, however it ended."""
        now = asyncio.get_running_loop().time
        limits = SchedulerSettings(max_active=1, max_queued=4, max_queued_per_key=4)
        self.scheduler = StepScheduler(
            self.steps, Scheduler(limits, now=now, residency=EverythingLoaded())
        )
        self.upstream = StepUpstream(self.steps, self.pieces, self.headers, self.status)
        self.response = StepResponse(self.steps)
        self.record = RequestRecord(request_id="req_1", method="POST", started=now())
        self.background = learning(self.statistics)
        pipeline = pipeline_for(
            self.scheduler,
            self.upstream,
            self.background,
            Settings.model_validate(self.settings),
            statistics=self.statistics,
            on_unreachable=self._note_unreachable,
        )
        task = asyncio.get_running_loop().create_task(
            pipeline.perform(request or inference_request(), self.response, self.record)
        )
        (result,) = await asyncio.gather(task, return_exceptions=True)

        assert self.scheduler.real.idle
        assert self.upstream.opened == 0
        assert len(self.upstream.requests) <= 1
        assert self.record.queue_wait is not None
        self.background.flush()
        return result

    def _note_unreachable(self) -> None:
        self.times_unreachable += 1


# The order of the steps.


async def test_stream_releases_slot_and_connection_before_its_end() -> None:
    """Slot, connection, relay; the end does not keep them."""
    run = PipelineRun(Steps())

    assert await run.perform() is None
    assert run.steps.taken == [*STREAM, "close", "release", "end"]
    assert run.response.body == EVENT + DONE
    assert run.record.phase is Phase.RELAY


async def test_complete_response_is_sent_when_all_of_it_is_there() -> None:
    """Then slot and connection are released."""
    run = PipelineRun(Steps(), pieces=(b'{"a"', b":1}"), headers=JSON)

    assert await run.perform(inference_request(streaming=False)) is None
    assert run.steps.taken == [
        *("slot", "open", "read", "read", "read", "send"),
        *("close", "release", "end"),
    ]
    assert run.response.body == b'{"a":1}'


async def test_request_to_ollama_has_path_body_and_id_of_the_gateway() -> None:
    """Nothing else is sent."""
    run = PipelineRun(Steps())
    await run.perform(inference_request(body=b'{"model":"m"}'))
    (request,) = run.upstream.requests

    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert (request.body, request.request_id) == (b'{"model":"m"}', "req_1")


async def test_slot_request_has_all_caps_and_the_client_timeout() -> None:
    """The model's number comes from its rule."""
    rows = [{"match": "llama3.2*", "max_active": 7}]
    run = PipelineRun(Steps(), settings={"models": rows})
    await run.perform(inference_request(client_timeout=12.0))
    (demand,) = run.scheduler.requests

    assert (demand.key, demand.model) == ("tester", "llama3.2:1b")
    assert (demand.model_max_active, demand.key_max_active) == (7, 3)
    assert demand.queue_timeout == 12.0


async def test_stream_that_was_not_requested_is_recorded_as_a_stream() -> None:
    """The reply decides how it is relayed."""
    run = PipelineRun(Steps())
    await run.perform(inference_request(streaming=False))

    assert run.record.streaming
    assert run.record.first_byte_at == 12.5


# What the caller is told beside the body.


async def test_server_timing_has_queue_and_upstream() -> None:
    """The time in the queue, and at Ollama until its head."""
    run = PipelineRun(Steps())
    await run.perform()
    timing = run.response.headers["Server-Timing"]

    assert timing.startswith("queue;dur=")
    assert "upstream;dur=" in timing


@pytest.mark.parametrize(
    ("status", "sent", "advice"),
    [
        (200, (), {}),
        (400, (), {"x-should-retry": "false"}),
        (404, (("x-should-retry", "true"),), {"x-should-retry": "true"}),
        (408, (), {"Retry-After": "2"}),
        (429, (), {"Retry-After": "2"}),
        (500, (), {"Retry-After": "2"}),
        (503, (("Retry-After", "9"),), {"Retry-After": "9"}),
    ],
)
async def test_errors_of_ollama_get_retry_advice_where_it_gave_none(
    status: int, sent: tuple[tuple[str, str], ...], advice: dict[str, str]
) -> None:
    """Its 4xx cannot succeed next time, its 5xx soon may; its own advice stays."""
    run = PipelineRun(Steps(), pieces=(b"{}",), headers=(*JSON, *sent), status=status)

    assert await run.perform() is None
    assert run.response.status == status
    told = {k: v for k, v in run.response.headers.items() if k in ("Retry-After", "x-should-retry")}
    assert told == advice
    assert run.record.upstream_status == status


# Every ending: what is raised, how far it got, and that nothing is held.

ENDINGS = [
    ("slot", QueueFull("full"), Phase.QUEUE, None),
    ("open", UpstreamUnreachable("refused"), Phase.CONNECT, None),
    ("open", UpstreamProtocolError("closed"), Phase.FIRST_BYTE, None),
    ("open", UpstreamFirstByteTimeout("late"), Phase.FIRST_BYTE, None),
    ("read", UpstreamFirstByteTimeout("late"), Phase.FIRST_BYTE, 200),
    ("begin_stream", ClientDisconnected(), Phase.RELAY, 200),
    ("write", ClientWriteTimeout(), Phase.RELAY, 200),
    ("end", ClientDisconnected(), Phase.RELAY, 200),
]


@pytest.mark.parametrize(
    ("step", "error", "phase", "upstream_status"),
    ENDINGS,
    ids=[f"{s}-{e.code}" for s, e, *_ in ENDINGS],
)
async def test_failure_is_raised_unchanged_and_recorded_with_its_phase(
    step: str, error: GatewayError, phase: Phase, upstream_status: int | None
) -> None:
    """Nothing stays in use afterwards."""
    run = PipelineRun(Steps(error=(step, error)))

    assert await run.perform() is error
    assert (run.record.phase, run.record.upstream_status) == (phase, upstream_status)
    assert run.times_unreachable == (phase is Phase.CONNECT)


async def test_incomplete_stream_releases_its_slot_and_records_its_tokens() -> None:
    """It fails after that."""
    run = PipelineRun(Steps(), pieces=(EVENT, EVENT))

    assert isinstance(await run.perform(), UpstreamIncomplete)
    assert run.steps.taken[-2:] == ["close", "release"]
    assert (run.record.tokens_out, run.record.tokens_counted) == (2, True)


async def test_failure_midway_keeps_what_was_relayed() -> None:
    """The first event was written, the second never came."""
    run = PipelineRun(Steps(error=("read", UpstreamIdleTimeout()), good=1))

    assert isinstance(await run.perform(), UpstreamIdleTimeout)
    assert run.response.body == EVENT
    assert run.record.tokens_out == 1


@pytest.mark.parametrize("last", [*range(1, len(STREAM) + 1), len(STREAM) + 3])
async def test_cancellation_at_any_step_releases_slot_and_connection(last: int) -> None:
    """At each place where the pipeline waits."""
    run = PipelineRun(Steps(last=last))

    assert isinstance(await run.perform(), asyncio.CancelledError)


@pytest.mark.parametrize("last", range(1, 7))
async def test_cancellation_of_a_complete_response_releases_slot_and_connection(
    last: int,
) -> None:
    """Nothing was sent before the end."""
    run = PipelineRun(Steps(last=last), pieces=(b"{", b"}"), headers=JSON)

    assert isinstance(await run.perform(inference_request(streaming=False)), asyncio.CancelledError)
    assert (run.response.status is None) == (last < 6)


async def test_client_disconnect_in_the_queue_sends_nothing_to_ollama() -> None:
    """The time in the queue is recorded."""
    steps = Steps()
    limits = SchedulerSettings(max_active=1, max_queued=4, max_queued_per_key=4)
    now = asyncio.get_running_loop().time
    queue = StepScheduler(steps, Scheduler(limits, now=now, residency=EverythingLoaded()))
    upstream = StepUpstream(steps)
    statistics = Statistics()
    pipeline = pipeline_for(
        queue, upstream, learning(statistics), Settings(), statistics=statistics
    )
    record = RequestRecord(request_id="req_2", method="POST", started=now())
    async with queue.real.slot(slot_request()):
        waiting = asyncio.get_running_loop().create_task(
            pipeline.perform(inference_request(), StepResponse(steps), record)
        )
        for _ in range(5):
            await asyncio.sleep(0)
        assert repr(queue.real) == "<Scheduler 1/1 active, 1/4 queued>"
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

        assert repr(queue.real) == "<Scheduler 1/1 active, 0/4 queued>"
    assert upstream.requests == []
    assert (record.phase, record.queue_wait is not None) == (Phase.QUEUE, True)


# Ollama is busy.


@dataclass(slots=True)
class BusyOllama:
    """A pipeline in front of an Ollama that is busy so many times."""

    busy: int
    queue_timeout: float = 300.0
    steps: Steps = field(default_factory=Steps)
    statistics: Statistics = field(default_factory=Statistics)
    record: RequestRecord = field(init=False)
    scheduler: StepScheduler = field(init=False)
    background: BackgroundLearning = field(init=False)
    upstream: StepUpstream = field(init=False)
    response: StepResponse = field(init=False)

    def __post_init__(self) -> None:
        limits = SchedulerSettings(max_active=1, max_queued=4, max_queued_per_key=4)
        self.scheduler = StepScheduler(
            self.steps, Scheduler(limits, now=now, residency=EverythingLoaded())
        )
        self.upstream = StepUpstream(self.steps, [b"{}"], JSON, busy=self.busy)
        self.response = StepResponse(self.steps)
        self.record = RequestRecord(request_id="req_1", method="POST", started=now())

    async def perform(self, **changes: Any) -> BaseException | None:
        """What it raised, if anything; nothing may be held afterwards."""
        settings = Settings.model_validate({"timeouts": {"queue_timeout": self.queue_timeout}})
        self.background = learning(self.statistics)
        pipeline = pipeline_for(
            self.scheduler, self.upstream, self.background, settings, statistics=self.statistics
        )
        request = inference_request(streaming=False, **changes)
        task = asyncio.get_running_loop().create_task(
            pipeline.perform(request, self.response, self.record)
        )
        (result,) = await asyncio.gather(task, return_exceptions=True)

        assert self.scheduler.real.idle
        assert self.upstream.opened == 0
        self.background.flush()
        return result


@virtual_time
async def test_busy_ollama_gets_the_request_again_each_second() -> None:
    """The slot is released each time, and the client sees the last attempt alone."""
    busy = BusyOllama(busy=3)
    began_at = now()

    assert await busy.perform() is None
    assert busy.steps.taken == [
        *["slot", "open", "read", "read", "close", "release"] * 3,
        *["slot", "open", "read", "read", "send", "close", "release", "end"],
    ]
    assert (busy.response.status, busy.response.body) == (200, b"{}")
    assert now() - began_at == 3.0
    assert (busy.record.queue_wait, busy.record.upstream_status) == (3.0, 200)


@virtual_time
async def test_request_is_queued_first_again_for_the_rest_of_its_time() -> None:
    """Queue and client timeout count from its arrival."""
    busy = BusyOllama(busy=3)
    await busy.perform(client_timeout=60.0)
    requests = busy.scheduler.requests

    assert [request.first for request in requests] == [False, True, True, True]
    assert [request.delay for request in requests] == [0.0, 1.0, 1.0, 1.0]
    assert [request.queue_timeout for request in requests] == [60.0, 60.0, 59.0, 58.0]
    assert [request.client_timeout for request in requests] == [60.0, 60.0, 59.0, 58.0]


@virtual_time
async def test_busy_ollama_ends_in_a_queue_timeout() -> None:
    """Ten seconds are ten attempts."""
    busy = BusyOllama(busy=1000, queue_timeout=10.0)
    began_at = now()
    error = await busy.perform()

    assert isinstance(error, QueueTimeout)
    assert "did not come through this gateway" in str(error)
    assert error.headers["Retry-After"] == "1"
    assert len(busy.upstream.requests) == 10
    assert now() - began_at == 9.0
    assert (busy.record.phase, busy.record.queue_wait) == (Phase.QUEUE, 9.0)
    assert busy.scheduler.requests[-1].client_timeout == inf


@virtual_time
async def test_busy_responses_do_not_enter_the_statistics() -> None:
    """Only the final response does."""
    busy = BusyOllama(busy=2)
    await busy.perform()
    figures = busy.statistics.get("llama3.2:1b")

    assert busy.statistics.revision == 1
    assert figures is not None
    assert figures.service.mean == 0.0
