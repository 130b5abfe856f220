"""The core, without a network: the order of its steps, what it notes, what it leaves behind."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from gateway.auth.principal import Principal, Scope
from gateway.dialects import OPENAI
from gateway.errors import (
    ClientDisconnected,
    ClientWriteTimeout,
    GatewayError,
    QueueFull,
    UpstreamFirstByteTimeout,
    UpstreamIdleTimeout,
    UpstreamIncomplete,
    UpstreamProtocolError,
    UpstreamUnreachable,
)
from gateway.models.listing import Model
from gateway.models.statistics import Statistics
from gateway.proxy.inference import Call, Target
from gateway.proxy.pipeline import Opener, Pipeline
from gateway.scheduler import Scheduler, SlotRequest
from gateway.settings import SchedulerSettings, Settings
from gateway.telemetry.record import Phase, RequestRecord
from tests.scheduler.helpers import EverythingLoaded

from .ends import JSON, StepAnswer, StepQueue, Steps, StepUpstream
from .guard_cases import a_truth

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = ["lease", "open", "read", "begin_stream", "write", "read", "write", "read"]


def a_call(**changes: Any) -> Call:
    model = Model(
        name="llama3.2:1b",
        digest="d",
        size_bytes=1,
        parameters=1.2,
        remote=False,
        created=0,
        raw={},
    )
    values: dict[str, Any] = {
        "request_id": "req_1",
        "principal": Principal(key="tester", scopes=frozenset({Scope.INFERENCE}), max_active=3),
        "target": Target("/v1/chat/completions", OPENAI),
        "model": model,
        "streaming": True,
        "client_timeout": None,
        "body": b"{}",
    }
    return Call(**{**values, **changes})


def a_demand() -> SlotRequest:
    """Of somebody else, for the same model."""
    return SlotRequest(
        key="other", model="llama3.2:1b", model_max_active=1, key_max_active=None, queue_timeout=5.0
    )


@dataclass(slots=True)
class Performance:
    """One call performed, and everything that can be seen of it afterwards."""

    steps: Steps
    pieces: tuple[bytes, ...] = (EVENT, DONE)
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "text/event-stream"),)
    status: int = 200
    settings: dict[str, Any] = field(default_factory=dict)
    times_unreachable: int = 0
    statistics: Statistics = field(default_factory=Statistics)
    queue: StepQueue = field(init=False)
    upstream: StepUpstream = field(init=False)
    answer: StepAnswer = field(init=False)
    record: RequestRecord = field(init=False)

    async def perform(self, call: Call | None = None) -> BaseException | None:
        """What it raised, if anything. Nothing may be held afterwards, however it ended."""
        now = asyncio.get_running_loop().time
        limits = SchedulerSettings(max_active=1, max_queued=4, max_queued_per_key=4)
        self.queue = StepQueue(self.steps, Scheduler(limits, now=now, residency=EverythingLoaded()))
        self.upstream = StepUpstream(self.steps, self.pieces, self.headers, self.status)
        self.answer = StepAnswer(self.steps)
        self.record = RequestRecord(request_id="req_1", method="POST", started=now())
        pipeline = Pipeline(
            queue=self.queue,
            upstream=cast("Opener", self.upstream),
            settings=Settings.model_validate(self.settings),
            statistics=self.statistics,
            guard=a_truth(),
            unreachable=self._note_unreachable,
            now=now,
        )
        task = asyncio.get_running_loop().create_task(
            pipeline.perform(call or a_call(), self.answer, self.record)
        )
        (result,) = await asyncio.gather(task, return_exceptions=True)

        assert self.queue.scheduler.idle
        assert self.upstream.opened == 0
        assert len(self.upstream.requests) <= 1
        assert self.record.queue_wait is not None
        return result

    def _note_unreachable(self) -> None:
        self.times_unreachable += 1


# The order of the steps.


async def test_a_stream_goes_through_these_steps() -> None:
    """A place, a connection, the relay; both are given back before the end is waited for."""
    played = Performance(Steps())

    assert await played.perform() is None
    assert played.steps.taken == [*STREAM, "close", "give back", "end"]
    assert played.answer.body == EVENT + DONE
    assert played.record.phase is Phase.RELAY


async def test_a_whole_answer_goes_through_these_steps() -> None:
    """It is committed to when all of it is there."""
    played = Performance(Steps(), pieces=(b'{"a"', b":1}"), headers=JSON)

    assert await played.perform(a_call(streaming=False)) is None
    assert played.steps.taken == [
        *("lease", "open", "read", "read", "read", "send"),
        *("close", "give back", "end"),
    ]
    assert played.answer.body == b'{"a":1}'


async def test_ollama_is_asked_with_our_path_our_body_and_our_id() -> None:
    """Nothing else goes up."""
    played = Performance(Steps())
    await played.perform(a_call(body=b'{"model":"m"}'))
    (request,) = played.upstream.requests

    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert (request.body, request.request_id) == (b'{"model":"m"}', "req_1")


async def test_the_queue_is_asked_with_all_three_caps_and_the_callers_clock() -> None:
    """The model's own number from its row; the wait never longer than the caller's patience."""
    rows = [{"match": "llama3.2*", "max_active": 7}]
    played = Performance(Steps(), settings={"models": rows})
    await played.perform(a_call(client_timeout=12.0))
    (demand,) = played.queue.demands

    assert (demand.key, demand.model) == ("tester", "llama3.2:1b")
    assert (demand.model_max_active, demand.key_max_active) == (7, 3)
    assert demand.queue_timeout == 12.0


async def test_a_stream_of_a_call_that_asked_for_none_is_noted_as_one() -> None:
    """The reply decides how it is passed on."""
    played = Performance(Steps())
    await played.perform(a_call(streaming=False))

    assert played.record.streaming
    assert played.record.first_byte_at == 12.5


# What the caller is told beside the body.


async def test_the_head_tells_where_the_time_went() -> None:
    """In the queue, and at Ollama until its head."""
    played = Performance(Steps())
    await played.perform()
    timing = played.answer.headers["Server-Timing"]

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
    played = Performance(Steps(), pieces=(b"{}",), headers=(*JSON, *sent), status=status)

    assert await played.perform() is None
    assert played.answer.status == status
    told = {
        k: v for k, v in played.answer.headers.items() if k in ("Retry-After", "x-should-retry")
    }
    assert told == advice
    assert played.record.upstream_status == status


# Every ending: what is raised, how far it got, and that nothing is held.

ENDINGS = [
    ("lease", QueueFull("full"), Phase.QUEUE, None),
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
    played = Performance(Steps(error=(step, error)))

    assert await played.perform() is error
    assert (played.record.phase, played.record.upstream_status) == (phase, upstream_status)
    assert played.times_unreachable == (phase is Phase.CONNECT)


async def test_a_stream_without_its_end_fails_after_the_place_was_given_back() -> None:
    """And its tokens are noted all the same."""
    played = Performance(Steps(), pieces=(EVENT, EVENT))

    assert isinstance(await played.perform(), UpstreamIncomplete)
    assert played.steps.taken[-2:] == ["close", "give back"]
    assert (played.record.tokens_out, played.record.tokens_counted) == (2, True)


async def test_a_failure_in_the_middle_keeps_what_passed_before_it() -> None:
    """The first piece was written, the second never came."""
    played = Performance(Steps(error=("read", UpstreamIdleTimeout()), good=1))

    assert isinstance(await played.perform(), UpstreamIdleTimeout)
    assert played.answer.body == EVENT
    assert played.record.tokens_out == 1


@pytest.mark.parametrize("last", [*range(1, len(STREAM) + 1), len(STREAM) + 3])
async def test_a_caller_who_leaves_at_any_step_leaves_nothing(last: int) -> None:
    """Cancelled at each place where it waits: place and connection are free, and facts noted."""
    played = Performance(Steps(last=last))

    assert isinstance(await played.perform(), asyncio.CancelledError)


@pytest.mark.parametrize("last", range(1, 7))
async def test_a_caller_of_a_whole_answer_who_leaves_at_any_step_leaves_nothing(last: int) -> None:
    """The same where nothing was sent before the end."""
    played = Performance(Steps(last=last), pieces=(b"{", b"}"), headers=JSON)

    assert isinstance(await played.perform(a_call(streaming=False)), asyncio.CancelledError)
    assert (played.answer.status is None) == (last < 6)


async def test_a_caller_who_leaves_while_he_waits_for_a_place_asks_ollama_nothing() -> None:
    """And is noted with the time that he waited."""
    steps = Steps()
    limits = SchedulerSettings(max_active=1, max_queued=4, max_queued_per_key=4)
    now = asyncio.get_running_loop().time
    queue = StepQueue(steps, Scheduler(limits, now=now, residency=EverythingLoaded()))
    upstream = StepUpstream(steps)
    pipeline = Pipeline(
        queue=queue,
        upstream=cast("Opener", upstream),
        settings=Settings(),
        statistics=Statistics(),
        guard=a_truth(),
        unreachable=lambda: None,
        now=now,
    )
    record = RequestRecord(request_id="req_2", method="POST", started=now())
    async with queue.scheduler.slot(a_demand()):
        waiting = asyncio.get_running_loop().create_task(
            pipeline.perform(a_call(), StepAnswer(steps), record)
        )
        for _ in range(5):
            await asyncio.sleep(0)
        assert repr(queue.scheduler) == "<Scheduler 1/1 active, 1/4 queued>"
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

        assert repr(queue.scheduler) == "<Scheduler 1/1 active, 0/4 queued>"
    assert upstream.requests == []
    assert (record.phase, record.queue_wait is not None) == (Phase.QUEUE, True)
