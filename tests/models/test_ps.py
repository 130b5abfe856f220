import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError, UpstreamProtocolError, UpstreamUnreachable
from gateway.models.ps import BUSY_EVERY, IDLE_EVERY, PsWatch, parse_ps
from gateway.models.residency import ResidencyTracker
from tests.models.recorded import PS_0_24
from tests.models.virtual import now, ticks, virtual_time

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


def ps_of(**expires: object) -> bytes:
    entries = [{"name": name, "model": name, "expires_at": at} for name, at in expires.items()]
    return msgspec.json.encode({"models": entries})


def test_a_recorded_answer() -> None:
    """Nanoseconds are cut to microseconds."""
    assert parse_ps(PS_0_24, NOON) == {"tiny:latest": 13 * 60 + 14.933234}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-22T12:05:00Z", 300.0),
        ("2026-11-22T14:05:00.123456789+02:00", 300.123456),
        ("2026-11-22T04:05:00-08:00", 300.0),
        ("2026-11-22T11:59:59.5Z", -0.5),
        ("2318-03-04T11:59:59.775808Z", math.inf),
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("9999-12-31T23:59:59-14:00", math.inf),
        ("292277-01-01T00:00:00Z", None),
        ("2026-11-22T12:05:00", None),
        ("2026-11-22T12:05:00+99:00", None),
        ("soon", None),
        ("", None),
        ("2026-11-22T12:05:00." + "0" * 5000 + "Z", None),
        (1795349452, None),
        (None, None),
        ([], None),
    ],
)
def test_when_a_model_is_unloaded(text: object, seconds: float | None) -> None:
    """Any offset; never is infinity; what is no time, or Go's zero time, is unknown."""
    assert parse_ps(ps_of(a=text), NOON) == {"a": seconds}


def test_entries_without_a_name_are_skipped() -> None:
    """One entry that is garbage does not cost the others."""
    body = b'{"models":[7,null,{"expires_at":"x"},{"name":"a"}],"more":1}'

    assert parse_ps(body, NOON) == {"a": None}
    assert parse_ps(b'{"models":null}', NOON) == {}


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"<html>", b'{"error":"x"}', b'{"models":7}', b"\xff"]
)
def test_what_is_not_ollamas(body: bytes) -> None:
    """Nonsense is a failure, and not the news that nothing is loaded."""
    with pytest.raises(UpstreamProtocolError):
        parse_ps(body, NOON)


@given(st.text())
def test_no_text_is_too_strange(text: str) -> None:
    """Whatever stands there, it is seconds, for ever or unknown; never NaN."""
    seconds = parse_ps(ps_of(a=text), NOON)["a"]

    assert seconds is None or seconds == seconds  # noqa: PLR0124  - NaN is not


class Ollama:
    """Lists ``loaded`` as staying five minutes; ``asked_at`` records when it was asked."""

    def __init__(self, *loaded: str) -> None:
        self.loaded = loaded
        self.error: GatewayError | None = None
        self.body: bytes | None = None
        self.asked_at: list[float] = []
        self.busy = False

    async def ps(self) -> bytes:
        self.asked_at.append(now() - 1000.0)
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.body or ps_of(**dict.fromkeys(self.loaded, "2026-11-22T12:05:00Z"))


@asynccontextmanager
async def watched(ollama: Ollama) -> AsyncIterator[ResidencyTracker]:
    residency_tracker = ResidencyTracker(max_loaded=None, now=now)
    watch = PsWatch(
        ollama.ps, residency_tracker, busy=lambda: ollama.busy, now=now, now_utc=lambda: NOON
    )
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(watch.run())
        await ticks(5)
        yield residency_tracker
        loop.cancel()


@virtual_time
async def test_it_looks_at_once() -> None:
    """What Ollama had loaded before us is known before the first call."""
    async with watched(Ollama("a")) as residency_tracker:
        assert residency_tracker.view().proven == {"a"}


@virtual_time
async def test_it_looks_seldom_while_nobody_calls() -> None:
    """Once a minute."""
    ollama = Ollama("a")
    async with watched(ollama):
        await asyncio.sleep(3 * IDLE_EVERY + 1)

    assert ollama.asked_at == [0.0, 60.0, 120.0, 180.0]


@virtual_time
async def test_it_looks_often_while_somebody_calls() -> None:
    """Every five seconds, from the moment when work comes."""
    ollama = Ollama("a")
    async with watched(ollama):
        await asyncio.sleep(20)
        ollama.busy = True
        await asyncio.sleep(2 * BUSY_EVERY + 1)

    assert ollama.asked_at == pytest.approx([0.0, 20.5, 25.5, 30.5], abs=0.5)


@virtual_time
async def test_it_looks_a_moment_after_a_load() -> None:
    """Whether two models fit together is known soon after the second was loaded, asked once."""
    ollama = Ollama("a")
    async with watched(ollama) as residency_tracker:
        await asyncio.sleep(10)
        residency_tracker.began("b")
        await asyncio.sleep(8)
        residency_tracker.ended("b", answered=True)
        ollama.loaded = ("a", "b")
        await asyncio.sleep(2)
        assert residency_tracker.view().resident == {"a", "b"}
        assert residency_tracker.view().together == {frozenset("ab")}
        await asyncio.sleep(30)

    assert ollama.asked_at == pytest.approx([0.0, 19.0], abs=0.6)


@virtual_time
async def test_a_call_that_loaded_nothing_is_no_reason_to_look() -> None:
    """Many calls to one model cost no more looks than none."""
    ollama = Ollama("a")
    async with watched(ollama) as residency_tracker:
        for _ in range(50):
            residency_tracker.began("a")
            await asyncio.sleep(0.5)
            residency_tracker.ended("a", answered=True)

    assert ollama.asked_at == [0.0]


@pytest.mark.parametrize("body", [None, b"<html>"])
@virtual_time
async def test_a_failure_is_no_news(body: bytes | None) -> None:
    """What was believed stays so, and Ollama is not hammered for an answer."""
    ollama = Ollama("a")
    async with watched(ollama) as residency_tracker:
        ollama.error = None if body else UpstreamUnreachable("connection refused")
        ollama.body = body
        residency_tracker.began("b")
        residency_tracker.ended("b", answered=True)
        await asyncio.sleep(IDLE_EVERY + 5)
        assert residency_tracker.view().proven == {"b"}

    assert ollama.asked_at == pytest.approx([0.0, 1.0, 61.0], abs=0.6)


@virtual_time
async def test_a_cached_answer_may_be_a_second_old() -> None:
    """A model that was used within that second is not believed gone for an older list."""
    ollama = Ollama()
    async with watched(ollama) as residency_tracker:
        ollama.busy = True
        await asyncio.sleep(4.4)
        residency_tracker.began("a")
        residency_tracker.ended("a", answered=True)
        await asyncio.sleep(0.8)
        assert len(ollama.asked_at) == 2
        assert residency_tracker.view().proven == {"a"}
        await asyncio.sleep(2)
        assert residency_tracker.view().resident == frozenset()


@pytest.mark.parametrize("steps", range(6))
@virtual_time
async def test_run_can_be_cancelled_anywhere(steps: int) -> None:
    """A shutdown ends the loop at whatever await it is."""
    residency_tracker = ResidencyTracker(max_loaded=None, now=now)
    watch = PsWatch(Ollama("a").ps, residency_tracker, busy=lambda: True, now=now)
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(watch.run())
        await ticks(steps)
        loop.cancel()

    assert loop.cancelled()
    assert repr(watch).startswith("<PsWatch busy, <Residents ")
