"""The timer beside a call: when it beats, and when it does not."""

import asyncio
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.client_timeout import HeartbeatSchedule
from gateway.public.heartbeat import Heartbeat
from gateway.public.state import ResponseKind, State
from tests.models.virtual import now, virtual_time

TICK = 1e-6
"""Seconds: what sums of floats may be off by."""


@dataclass(slots=True)
class FakeAnswer:
    """Puts down when it is asked to beat; it can, unless it is ``full``."""

    state: State = State.PENDING
    wrote_at: float | None = None
    full: bool = False
    heartbeats: list[float] = field(default_factory=list)
    said: list[tuple[ResponseKind, str]] = field(default_factory=list)

    def send_heartbeat(self, shape: ResponseKind, note: str = "") -> None:
        self.heartbeats.append(now())
        self.said.append((shape, note))
        if not self.full:
            self.state = State.COMMITTED
            self.wrote_at = now()

    def write(self) -> None:
        self.state = State.COMMITTED
        self.wrote_at = now()


def beating(
    answer: FakeAnswer,
    commit_after: float = 20.0,
    interval: float = 15.0,
    *,
    arrived: float = 0.0,
    note: str = "",
) -> Heartbeat:
    """A timer for a call that arrived so many seconds ago."""
    return Heartbeat(
        answer,
        HeartbeatSchedule(commit_after, interval),
        shape=ResponseKind.STREAM,
        since=now() - arrived,
        note=lambda: note,
    )


@virtual_time
async def test_the_first_beat_is_due_after_a_while_and_then_one_each_interval() -> None:
    """By the clock on the wall, as long as the call lasts."""
    answer, start = FakeAnswer(), now()
    with beating(answer):
        await asyncio.sleep(70)

    assert [at - start for at in answer.heartbeats] == [20, 35, 50, 65]


@virtual_time
async def test_the_time_counts_from_the_callers_request() -> None:
    """What came before the timer is part of his silence; what is overdue is done at once."""
    soon, late, start = FakeAnswer(), FakeAnswer(), now()
    with beating(soon, arrived=12), beating(late, arrived=40):
        await asyncio.sleep(10)

    assert [at - start for at in soon.heartbeats] == [8]
    assert [at - start for at in late.heartbeats] == [0]


@virtual_time
async def test_a_fast_call_has_no_beat() -> None:
    """Nor has it one after its end: no timer is left over."""
    answer = FakeAnswer()
    with beating(answer):
        await asyncio.sleep(19.9)
    await asyncio.sleep(100)

    assert answer.heartbeats == []


@virtual_time
async def test_a_call_that_fails_has_no_beat_after_it() -> None:
    """The timer ends with the block, however that ends."""
    answer = FakeAnswer()
    try:
        with beating(answer):
            await asyncio.sleep(25)
            raise LookupError
    except LookupError:
        await asyncio.sleep(100)

    assert len(answer.heartbeats) == 1


@virtual_time
async def test_what_is_written_counts_as_a_sign_of_life() -> None:
    """The next beat is due when nothing was written for a whole interval: not sooner, nor later."""
    answer, start = FakeAnswer(), now()
    with beating(answer):
        for _ in range(8):
            await asyncio.sleep(10)
            answer.write()
        await asyncio.sleep(31)

    assert [at - start for at in answer.heartbeats] == [95, 110]


@virtual_time
async def test_an_answer_that_begins_early_and_falls_silent_is_kept_alive() -> None:
    """Its silence counts by the interval, however late the first beat would have been due."""
    answer, start = FakeAnswer(), now()
    with beating(answer, commit_after=90, interval=15):
        await asyncio.sleep(20)
        answer.write()
        await asyncio.sleep(20)

    assert [at - start for at in answer.heartbeats] == [35]


@virtual_time
async def test_where_none_may_stand_it_is_tried_again() -> None:
    """Inside an event, say: after one more interval, and never more often."""
    answer, start = FakeAnswer(full=True), now()
    answer.write()
    with beating(answer):
        await asyncio.sleep(50)

    assert [at - start for at in answer.heartbeats] == [15, 30, 45]


@virtual_time
async def test_a_beat_that_fails_is_not_the_last_one() -> None:
    """What there is to say may be wrong for a moment; the loop is told of it each time."""

    def note() -> str:
        asked.append(now())
        if len(asked) == 1:
            raise LookupError
        return ""

    asked: list[float] = []
    wrong: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: wrong.append(context.get("exception")))
    answer, start = FakeAnswer(), now()
    with Heartbeat(
        answer, HeartbeatSchedule(20, 15), shape=ResponseKind.COMPLETE, since=now(), note=note
    ):
        await asyncio.sleep(60)

    assert [at - start for at in answer.heartbeats] == [35, 50]
    assert [type(error) for error in wrong] == [LookupError]


@given(st.lists(st.floats(0.1, 40), max_size=12), st.floats(0, 5))
def test_no_silence_is_longer_than_it_may_be(gaps: list[float], tail: float) -> None:
    """Whenever the model speaks: before anything was sent only the first wait counts."""

    @virtual_time
    async def story() -> None:
        answer, start = FakeAnswer(), now()
        written: list[float] = []
        with beating(answer):
            for gap in gaps:
                await asyncio.sleep(gap)
                answer.write()
                written.append(now())
            await asyncio.sleep(tail)
        sent = sorted([*written, *answer.heartbeats])
        silences = [after - before for before, after in pairwise([start, *sent, now()])]

        assert silences[0] <= 20 + TICK
        assert all(silence <= 15 + TICK for silence in silences[1:])
        for at in answer.heartbeats:
            before = max([start, *(each for each in sent if each < at)])
            assert at - before >= (20 if before == start else 15) - TICK

    story()


@virtual_time
async def test_it_ends_with_the_answer() -> None:
    """Ended or cut: nothing is to be kept alive, though the call is not quite over."""
    for state in (State.ENDED, State.ABORTED):
        answer = FakeAnswer()
        with beating(answer):
            await asyncio.sleep(21)
            answer.state = state
            await asyncio.sleep(100)

        assert len(answer.heartbeats) == 1


@virtual_time
async def test_it_says_what_kind_of_answer_it_will_be_and_what_there_is_to_say() -> None:
    """The note is asked for at each beat, for it changes."""
    answer = FakeAnswer()
    with beating(answer, note="queued: number 1"):
        await asyncio.sleep(21)

    assert answer.said == [(ResponseKind.STREAM, "queued: number 1")]


@virtual_time
async def test_without_a_pulse_there_is_none() -> None:
    """The owner said so, or the caller speaks HTTP/1.0."""
    answer = FakeAnswer()
    with Heartbeat(answer, None, shape=ResponseKind.COMPLETE, since=now() - 1e6, note=str):
        await asyncio.sleep(1e6)

    assert answer.heartbeats == []
