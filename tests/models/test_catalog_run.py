import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.errors import UpstreamUnreachable
from gateway.models import Catalog, Source
from tests.models.fakes import FakeSource
from tests.models.virtual import now, ticks, virtual_time

AWAY = UpstreamUnreachable("connection refused")


def catalog_of(source: Source, *, changes: list[bool] | None = None) -> Catalog:
    told = [] if changes is None else changes
    return Catalog(
        source,
        ttl=60.0,
        stale_limit=600.0,
        now=now,
        on_change=lambda up, _: told.append(up),
    )


@asynccontextmanager
async def running(catalog: Catalog) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(catalog.run())
        await ticks(5)
        yield
        loop.cancel()


@virtual_time
async def test_run_renews_the_list_before_it_expires() -> None:
    """With the loop running no caller ever waits for the list."""
    source = FakeSource("tiny:latest")
    catalog = catalog_of(source)
    async with running(catalog):
        assert catalog.up
        for _ in range(100):
            await asyncio.sleep(7)
            source.latency = 0.01
            before = now()
            served = await catalog.listing()
            assert (now(), served.stale) == (before, False)

    assert 12 <= source.asked_for("tags") <= 20


@virtual_time
async def test_run_notices_an_ollama_that_is_started_later() -> None:
    """Ready within two seconds, however long it was away, and asked gently meanwhile."""
    source = FakeSource("tiny:latest")
    source.error = AWAY
    changes: list[bool] = []
    catalog = catalog_of(source, changes=changes)
    async with running(catalog):
        await asyncio.sleep(3600)
        assert not catalog.snapshot().up
        assert source.asked_for("tags") <= 1803
        source.error = None
        await asyncio.sleep(2)
        assert catalog.snapshot().up

    assert changes == [False, True]


@virtual_time
async def test_run_outlives_an_ollama_that_hangs() -> None:
    """Silence is noticed, and so is its end."""
    source = FakeSource("tiny:latest")
    catalog = catalog_of(source)
    async with running(catalog):
        source.latency = 3600.0
        await asyncio.sleep(50)
        assert not catalog.snapshot().up
        source.latency = 0.0
        await asyncio.sleep(4)
        assert catalog.snapshot().up


@virtual_time
async def test_a_doubt_makes_the_loop_look() -> None:
    """Who could not reach Ollama need not wait for the list to expire until it shows."""
    source = FakeSource("tiny:latest")
    catalog = catalog_of(source)
    async with running(catalog):
        await asyncio.sleep(5)
        source.error = AWAY
        with pytest.raises(UpstreamUnreachable):
            await catalog.ps()
        await ticks(10)
        assert not catalog.up


@virtual_time
async def test_a_doubt_just_after_a_good_answer() -> None:
    """That Ollama answered a moment before proves nothing: a second later the loop knows."""
    source = FakeSource("tiny:latest")
    catalog = catalog_of(source)
    async with running(catalog):
        source.error = AWAY
        catalog.doubt()
        await asyncio.sleep(1.1)
        assert not catalog.up


@virtual_time
async def test_doubts_do_not_hammer_ollama() -> None:
    """Many failing calls make the loop look no more often than it does anyway."""
    source = FakeSource("tiny:latest")
    catalog = catalog_of(source)
    async with running(catalog):
        await asyncio.sleep(5)
        for _ in range(500):
            catalog.doubt()
            await asyncio.sleep(0.01)
        assert source.asked_for("tags") <= 7
        source.error = AWAY
        for _ in range(500):
            catalog.doubt()
            await asyncio.sleep(0.01)

    assert source.asked_for("tags") <= 15


@pytest.mark.parametrize("steps", range(12))
@virtual_time
async def test_run_can_be_cancelled_anywhere(steps: int) -> None:
    """A shutdown ends the loop at whatever await it is, and the catalog stays usable."""
    source = FakeSource("tiny:latest")
    catalog = catalog_of(source)
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(catalog.run())
        await ticks(steps)
        loop.cancel()

    assert loop.cancelled()
    assert not (await catalog.refresh()).stale
