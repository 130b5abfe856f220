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
    """Of somebody else, for the same model."""
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


async def test_a_stream_goes_through_these_steps() -> None:
    """A place, a connection, the relay; both are given back before the end is waited for."""
    run = PipelineRun(Steps())

    assert await run.perform() is None
    assert run.steps.taken == [*STREAM, "close", "release", "end"]
    assert run.response.body == EVENT + DONE
    assert run.record.phase is Phase.RELAY


async def test_a_whole_answer_goes_through_these_steps() -> None:
    """It is committed to when all of it is there."""
    run = PipelineRun(Steps(), pieces=(b'{"a"', b":1}"), headers=JSON)

    assert await run.perform(inference_request(streaming=False)) is None
    assert run.steps.taken == [
        *("slot", "open", "read", "read", "read", "send"),
        *("close", "release", "end"),
    ]
    assert run.response.body == b'{"a":1}'


async def test_ollama_is_asked_with_our_path_our_body_and_our_id() -> None:
    """Nothing else goes up."""
    run = PipelineRun(Steps())
    await run.perform(inference_request(body=b'{"model":"m"}'))
    (request,) = run.upstream.requests

    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert (request.body, request.request_id) == (b'{"model":"m"}', "req_1")


async def test_the_queue_is_asked_with_all_three_caps_and_the_callers_clock() -> None:
    """The model's own number from its row; the wait never longer than the caller's patience."""
    rows = [{"match": "llama3.2*", "max_active": 7}]
    run = PipelineRun(Steps(), settings={"models": rows})
    await run.perform(inference_request(client_timeout=12.0))
    (demand,) = run.scheduler.requests

    assert (demand.key, demand.model) == ("tester", "llama3.2:1b")
    assert (demand.model_max_active, demand.key_max_active) == (7, 3)
    assert demand.queue_timeout == 12.0


async def test_a_stream_of_inference_request_that_asked_for_none_is_noted_as_one() -> None:
    """The reply decides how it is passed on."""
    run = PipelineRun(Steps())
    await run.perform(inference_request(streaming=False))

    assert run.record.streaming
    assert run.record.first_byte_at == 12.5


# What the caller is told beside the body.


async def test_the_head_tells_where_the_time_went() -> None:
    """In the queue, and at Ollama until its head."""
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
async def test_ollamas_own_failures_get_advice_where_it_gave_none(
    status: int, sent: tuple[tuple[str, str], ...], advice: dict[str, str]
) -> None:
    """Its 4xx cannot succeed next time, its 5xx soon may; its own word stands."""
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
async def test_a_failure_is_raised_as_it_is_and_noted_where_it_was(
    step: str, error: GatewayError, phase: Phase, upstream_status: int | None
) -> None:
    """Whoever it came from: the pipeline adds no word and keeps nothing."""
    run = PipelineRun(Steps(error=(step, error)))

    assert await run.perform() is error
    assert (run.record.phase, run.record.upstream_status) == (phase, upstream_status)
    assert run.times_unreachable == (phase is Phase.CONNECT)


async def test_a_stream_without_its_end_fails_after_the_place_was_given_back() -> None:
    """And its tokens are noted all the same."""
    run = PipelineRun(Steps(), pieces=(EVENT, EVENT))

    assert isinstance(await run.perform(), UpstreamIncomplete)
    assert run.steps.taken[-2:] == ["close", "release"]
    assert (run.record.tokens_out, run.record.tokens_counted) == (2, True)


async def test_a_failure_in_the_middle_keeps_what_passed_before_it() -> None:
    """The first piece was written, the second never came."""
    run = PipelineRun(Steps(error=("read", UpstreamIdleTimeout()), good=1))

    assert isinstance(await run.perform(), UpstreamIdleTimeout)
    assert run.response.body == EVENT
    assert run.record.tokens_out == 1


@pytest.mark.parametrize("last", [*range(1, len(STREAM) + 1), len(STREAM) + 3])
async def test_a_caller_who_leaves_at_any_step_leaves_nothing(last: int) -> None:
    """Cancelled at each place where it waits: place and connection are free, and facts noted."""
    run = PipelineRun(Steps(last=last))

    assert isinstance(await run.perform(), asyncio.CancelledError)


@pytest.mark.parametrize("last", range(1, 7))
async def test_a_caller_of_a_whole_answer_who_leaves_at_any_step_leaves_nothing(
    last: int,
) -> None:
    """The same where nothing was sent before the end."""
    run = PipelineRun(Steps(last=last), pieces=(b"{", b"}"), headers=JSON)

    assert isinstance(await run.perform(inference_request(streaming=False)), asyncio.CancelledError)
    assert (run.response.status is None) == (last < 6)


async def test_a_caller_who_leaves_while_he_waits_for_a_place_asks_ollama_nothing() -> None:
    """And is noted with the time that he waited."""
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
async def test_a_call_is_sent_again_each_second_until_there_is_room() -> None:
    """The place is given back each time, and the caller hears of the last attempt alone."""
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
async def test_it_goes_before_the_others_of_its_lane_for_what_is_left_of_its_time() -> None:
    """Its clock and the caller's patience go on from when it came."""
    busy = BusyOllama(busy=3)
    await busy.perform(client_timeout=60.0)
    requests = busy.scheduler.requests

    assert [request.first for request in requests] == [False, True, True, True]
    assert [request.delay for request in requests] == [0.0, 1.0, 1.0, 1.0]
    assert [request.queue_timeout for request in requests] == [60.0, 60.0, 59.0, 58.0]
    assert [request.client_timeout for request in requests] == [60.0, 60.0, 59.0, 58.0]


@virtual_time
async def test_it_waits_as_long_as_its_clock_allows() -> None:
    """Ten seconds are ten attempts, and then the truth."""
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
async def test_nothing_is_learned_from_being_busy() -> None:
    """It took no time at the model: only the response did."""
    busy = BusyOllama(busy=2)
    await busy.perform()
    figures = busy.statistics.get("llama3.2:1b")

    assert busy.statistics.revision == 1
    assert figures is not None
    assert figures.service.mean == 0.0
