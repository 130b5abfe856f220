"""When heartbeats are sent: the schedule of a request, and the timer."""

import asyncio
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.public.heartbeat import HeartbeatSchedule, HeartbeatTimer, heartbeat_schedule
from gateway.public.response import ResponseKind, State
from gateway.settings import TunnelSettings
from gateway.telemetry.record import Phase, RequestRecord
from gateway.timeouts import ClientTimeout
from tests.models.virtual import now, virtual_time

TICK = 1e-6
"""Seconds: what sums of floats may be off by."""


FREQUENT = HeartbeatSchedule(20.0, 15.0)
RARE = HeartbeatSchedule(90.0, 60.0)


# The schedule of a request.


@pytest.mark.parametrize(
    ("headers", "schedule"),
    [
        ({}, FREQUENT),
        ({"cf-ray": "8a"}, FREQUENT),
        ({"cf-connecting-ip": "1.2.3.4", "host": "a.ngrok.app"}, FREQUENT),
        ({"host": "brave-cat.ngrok-free.app"}, RARE),
        ({"host": "brave-cat.NGROK.app:443"}, RARE),
        ({"host": "ngrok.app.example.com"}, FREQUENT),
        ({"host": "box.tail1234.ts.net"}, RARE),
        ({"tailscale-user-login": "ann@example.com", "host": "localhost:11435"}, RARE),
        ({"host": "127.0.0.1:11435", "x-forwarded-for": "1.2.3.4"}, FREQUENT),
    ],
)
def test_tunnel_is_recognized_by_the_headers_it_adds(
    headers: dict[str, str], schedule: HeartbeatSchedule
) -> None:
    """Without such a header, the shortest timeout of all tunnels is assumed."""
    assert heartbeat_schedule(headers, None, TunnelSettings()) == schedule


@pytest.mark.parametrize(
    ("tunnel", "schedule"),
    [
        (TunnelSettings(profile="cloudflare"), FREQUENT),
        (TunnelSettings(profile="ngrok"), RARE),
        (TunnelSettings(profile="tailscale"), RARE),
        (TunnelSettings(profile="none"), None),
    ],
)
def test_profile_in_the_settings_overrides_the_headers(
    tunnel: TunnelSettings, schedule: HeartbeatSchedule | None
) -> None:
    """The owner knows the tunnel."""
    headers = {"cf-ray": "8a", "host": "a.ngrok.app"}

    assert heartbeat_schedule(headers, None, tunnel) == schedule


def test_number_in_the_settings_overrides_the_profile() -> None:
    """Each by itself; ``commit_after`` switches heartbeats on again for the profile "none"."""
    ngrok = TunnelSettings(profile="ngrok", heartbeat_interval=7.0)
    none = TunnelSettings(profile="none", commit_after=30.0)

    assert heartbeat_schedule({}, None, ngrok) == HeartbeatSchedule(90.0, 7.0)
    assert heartbeat_schedule({}, None, none) == HeartbeatSchedule(30.0, 15.0)


@given(st.floats(1, 86_400), st.booleans(), st.sampled_from(["auto", "ngrok", "cloudflare"]))
def test_heartbeats_come_within_the_client_timeout(
    seconds: float, per_read: bool, profile: str
) -> None:
    """At most half of the timeout passes without a byte."""
    client_timeout = ClientTimeout(seconds, per_read=per_read)
    tunnel = TunnelSettings.model_validate({"profile": profile})
    schedule = heartbeat_schedule({}, client_timeout, tunnel)

    assert schedule is not None
    assert 0 < schedule.commit_after <= seconds / 2
    assert 0 < schedule.interval <= seconds / 2
    assert schedule.commit_after < inf


# The timer.


@dataclass(slots=True)
class FakeResponse:
    """Notes when it is asked for a heartbeat, and writes it unless it is ``full``."""

    state: State = State.PENDING
    wrote_at: float | None = None
    full: bool = False
    heartbeats: list[float] = field(default_factory=list)
    arguments: list[tuple[ResponseKind, str]] = field(default_factory=list)

    def send_heartbeat(self, kind: ResponseKind, note: str = "") -> None:
        self.heartbeats.append(now())
        self.arguments.append((kind, note))
        if not self.full:
            self.state = State.COMMITTED
            self.wrote_at = now()

    def write(self) -> None:
        self.state = State.COMMITTED
        self.wrote_at = now()


@dataclass(frozen=True, slots=True)
class FakeQueuePosition:
    """A place in the queue."""

    position: int
    wait: float


def a_record() -> RequestRecord:
    """The record of a request that waits in the queue."""
    return RequestRecord(request_id="req_1", method="POST", started=0.0, phase=Phase.QUEUE)


def timer_for(
    response: FakeResponse,
    schedule: HeartbeatSchedule | None = FREQUENT,
    *,
    arrived: float = 0.0,
    record: RequestRecord | None = None,
) -> HeartbeatTimer:
    """A timer for a request that arrived so many seconds ago."""
    return HeartbeatTimer(
        response,
        schedule,
        kind=ResponseKind.STREAM,
        since=now() - arrived,
        record=record or a_record(),
    )


@virtual_time
async def test_first_heartbeat_after_commit_after_and_then_each_interval() -> None:
    """For as long as the request lasts."""
    response, start = FakeResponse(), now()
    with timer_for(response):
        await asyncio.sleep(70)

    assert [at - start for at in response.heartbeats] == [20, 35, 50, 65]


@virtual_time
async def test_time_counts_from_the_arrival_of_the_request() -> None:
    """The time before the timer is part of the silence; an overdue heartbeat is sent at once."""
    soon, late, start = FakeResponse(), FakeResponse(), now()
    with timer_for(soon, arrived=12), timer_for(late, arrived=40):
        await asyncio.sleep(10)

    assert [at - start for at in soon.heartbeats] == [8]
    assert [at - start for at in late.heartbeats] == [0]


@virtual_time
async def test_fast_request_gets_no_heartbeat() -> None:
    """Nor after its end: no timer is left over."""
    response = FakeResponse()
    with timer_for(response):
        await asyncio.sleep(19.9)
    await asyncio.sleep(100)

    assert response.heartbeats == []


@virtual_time
async def test_failed_request_gets_no_further_heartbeat() -> None:
    """The timer ends with its block, however that ends."""
    response = FakeResponse()
    try:
        with timer_for(response):
            await asyncio.sleep(25)
            raise LookupError
    except LookupError:
        await asyncio.sleep(100)

    assert len(response.heartbeats) == 1


@virtual_time
async def test_written_bytes_postpone_the_next_heartbeat() -> None:
    """It is due when nothing was written for a complete interval."""
    response, start = FakeResponse(), now()
    with timer_for(response):
        for _ in range(8):
            await asyncio.sleep(10)
            response.write()
        await asyncio.sleep(31)

    assert [at - start for at in response.heartbeats] == [95, 110]


@virtual_time
async def test_response_that_begins_early_and_falls_silent_gets_heartbeats() -> None:
    """Its silence counts by the interval, even before ``commit_after``."""
    response, start = FakeResponse(), now()
    with timer_for(response, HeartbeatSchedule(90, 15)):
        await asyncio.sleep(20)
        response.write()
        await asyncio.sleep(20)

    assert [at - start for at in response.heartbeats] == [35]


@virtual_time
async def test_heartbeat_that_may_not_stand_is_retried_after_an_interval() -> None:
    """Inside an event, for example; never more often."""
    response, start = FakeResponse(full=True), now()
    response.write()
    with timer_for(response):
        await asyncio.sleep(50)

    assert [at - start for at in response.heartbeats] == [15, 30, 45]


@virtual_time
async def test_heartbeat_that_raises_is_not_the_last_one() -> None:
    """The event loop reports each exception."""

    def position() -> FakeQueuePosition:
        asked.append(now())
        if len(asked) == 1:
            raise LookupError
        return FakeQueuePosition(1, inf)

    asked: list[float] = []
    raised: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: raised.append(context.get("exception")))
    record = a_record()
    record.queue_position = position
    response, start = FakeResponse(), now()
    with timer_for(response, record=record):
        await asyncio.sleep(60)

    assert [at - start for at in response.heartbeats] == [35, 50]
    assert [type(error) for error in raised] == [LookupError]


@given(st.lists(st.floats(0.1, 40), max_size=12), st.floats(0, 5))
def test_no_silence_exceeds_the_schedule(gaps: list[float], tail: float) -> None:
    """Whenever the model generates; before the first byte only ``commit_after`` counts."""

    @virtual_time
    async def script() -> None:
        response, start = FakeResponse(), now()
        written: list[float] = []
        with timer_for(response):
            for gap in gaps:
                await asyncio.sleep(gap)
                response.write()
                written.append(now())
            await asyncio.sleep(tail)
        sent = sorted([*written, *response.heartbeats])
        silences = [after - before for before, after in pairwise([start, *sent, now()])]

        assert silences[0] <= 20 + TICK
        assert all(silence <= 15 + TICK for silence in silences[1:])
        for at in response.heartbeats:
            before = max([start, *(each for each in sent if each < at)])
            assert at - before >= (20 if before == start else 15) - TICK

    script()


@virtual_time
async def test_heartbeats_end_with_the_response() -> None:
    """Ended or aborted, though the request is not quite over."""
    for state in (State.ENDED, State.ABORTED):
        response = FakeResponse()
        with timer_for(response):
            await asyncio.sleep(21)
            response.state = state
            await asyncio.sleep(100)

        assert len(response.heartbeats) == 1


@virtual_time
async def test_heartbeat_has_the_kind_and_the_current_progress() -> None:
    """The record is read for each heartbeat."""
    response, record = FakeResponse(), a_record()
    record.queue_position = lambda: FakeQueuePosition(3, 40.4)
    with timer_for(response, record=record):
        await asyncio.sleep(21)
        record.queue_position = lambda: FakeQueuePosition(1, inf)
        await asyncio.sleep(15)
        record.phase = Phase.FIRST_BYTE
        await asyncio.sleep(15)

    assert response.arguments == [
        (ResponseKind.STREAM, "queued: number 3, about 40 s"),
        (ResponseKind.STREAM, "queued: number 1"),
        (ResponseKind.STREAM, "the model is loading or reading the prompt"),
    ]


@virtual_time
async def test_without_a_schedule_there_are_no_heartbeats() -> None:
    """The owner has switched them off, or the client speaks HTTP/1.0."""
    response = FakeResponse()
    with timer_for(response, None, arrived=1e6):
        await asyncio.sleep(1e6)

    assert response.heartbeats == []
