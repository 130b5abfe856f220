"""An Ollama that others keep busy: the call goes back to the queue, in virtual time."""

import asyncio
from dataclasses import dataclass, field
from math import inf
from typing import Any, cast

from gateway.errors import QueueTimeout
from gateway.models.statistics import Statistics
from gateway.proxy.pipeline import Opener, Pipeline
from gateway.scheduler import Scheduler
from gateway.settings import SchedulerSettings, Settings
from gateway.telemetry.record import Phase, RequestRecord
from tests.models.virtual import now, virtual_time
from tests.scheduler.helpers import EverythingLoaded

from .ends import JSON, StepAnswer, StepQueue, Steps, StepUpstream
from .guard_cases import a_truth
from .test_pipeline import a_call


@dataclass(slots=True)
class House:
    """A pipeline in front of an Ollama that is busy so many times."""

    busy: int
    queue_timeout: float = 300.0
    steps: Steps = field(default_factory=Steps)
    statistics: Statistics = field(default_factory=Statistics)
    record: RequestRecord = field(init=False)
    queue: StepQueue = field(init=False)
    upstream: StepUpstream = field(init=False)
    answer: StepAnswer = field(init=False)

    def __post_init__(self) -> None:
        limits = SchedulerSettings(max_active=1, max_queued=4, max_queued_per_key=4)
        self.queue = StepQueue(self.steps, Scheduler(limits, now=now, residency=EverythingLoaded()))
        self.upstream = StepUpstream(self.steps, [b"{}"], JSON, busy=self.busy)
        self.answer = StepAnswer(self.steps)
        self.record = RequestRecord(request_id="req_1", method="POST", started=now())

    async def perform(self, **changes: Any) -> BaseException | None:
        """What it raised, if anything; nothing may be held afterwards."""
        settings = Settings.model_validate({"timeouts": {"queue_timeout": self.queue_timeout}})
        pipeline = Pipeline(
            queue=self.queue,
            upstream=cast("Opener", self.upstream),
            settings=settings,
            statistics=self.statistics,
            guard=a_truth(),
            unreachable=lambda: None,
            now=now,
        )
        call = a_call(streaming=False, **changes)
        task = asyncio.get_running_loop().create_task(
            pipeline.perform(call, self.answer, self.record)
        )
        (result,) = await asyncio.gather(task, return_exceptions=True)

        assert self.queue.scheduler.idle
        assert self.upstream.opened == 0
        return result


@virtual_time
async def test_a_call_is_sent_again_each_second_until_there_is_room() -> None:
    """The place is given back each time, and the caller hears of the last attempt alone."""
    house = House(busy=3)
    began_at = now()

    assert await house.perform() is None
    assert house.steps.taken == [
        *["lease", "open", "read", "read", "close", "give back"] * 3,
        *["lease", "open", "read", "read", "send", "close", "give back", "end"],
    ]
    assert (house.answer.status, house.answer.body) == (200, b"{}")
    assert now() - began_at == 3.0
    assert (house.record.queue_wait, house.record.upstream_status) == (3.0, 200)


@virtual_time
async def test_it_goes_before_the_others_of_its_lane_for_what_is_left_of_its_time() -> None:
    """Its clock and the caller's patience go on from when it came."""
    house = House(busy=3)
    await house.perform(client_timeout=60.0)
    demands = house.queue.demands

    assert [demand.first for demand in demands] == [False, True, True, True]
    assert [demand.delay for demand in demands] == [0.0, 1.0, 1.0, 1.0]
    assert [demand.queue_timeout for demand in demands] == [60.0, 60.0, 59.0, 58.0]
    assert [demand.client_timeout for demand in demands] == [60.0, 60.0, 59.0, 58.0]


@virtual_time
async def test_it_waits_as_long_as_its_clock_allows() -> None:
    """Ten seconds are ten attempts, and then the truth."""
    house = House(busy=1000, queue_timeout=10.0)
    began_at = now()
    error = await house.perform()

    assert isinstance(error, QueueTimeout)
    assert "did not come through this gateway" in str(error)
    assert error.headers["Retry-After"] == "1"
    assert len(house.upstream.requests) == 10
    assert now() - began_at == 9.0
    assert (house.record.phase, house.record.queue_wait) == (Phase.QUEUE, 9.0)
    assert house.queue.demands[-1].client_timeout == inf


@virtual_time
async def test_nothing_is_learned_from_being_busy() -> None:
    """It took no time at the model: only the answer did."""
    house = House(busy=2)
    await house.perform()
    figures = house.statistics.get("llama3.2:1b")

    assert house.statistics.revision == 1
    assert figures is not None
    assert figures.service.mean == 0.0
