import asyncio

import pytest

from gateway.errors import UpstreamProtocolError, UpstreamUnreachable
from gateway.models.list_cache import CachedList, Lists
from tests.models.fakes import FakeSource, tags_of
from tests.models.virtual import now, ticks, virtual_time


class Kept:
    """Lists over a fake Ollama, with the changes that it told."""

    def __init__(self, *names: str) -> None:
        self.source = FakeSource(*names)
        self.changes: list[tuple[bool, str]] = []
        self.lists = Lists(
            self.source,
            ttl=60.0,
            stale_limit=600.0,
            now=now,
            fetch_timeout=2.0,
            on_change=lambda up, reason: self.changes.append((up, reason)),
        )

    def goes_away(self) -> None:
        self.source.error = UpstreamUnreachable("connection refused")

    def hangs(self) -> None:
        self.source.latency = 3600.0

    def comes_back(self) -> None:
        self.source.error = None
        self.source.latency = 0.0

    @property
    def fetches(self) -> int:
        return self.source.asked_for("tags")


def names_of(served: CachedList) -> list[str]:
    return [model.name for model in served.listing.models]


@virtual_time
async def test_a_list_is_asked_for_once_within_its_ttl() -> None:
    """Callers are served from the cache, with its age."""
    kept = Kept("tiny:latest")
    await kept.lists.cached()
    await asyncio.sleep(60)
    served = await kept.lists.cached()

    assert (served.age, served.stale) == (60.0, False)
    assert kept.fetches == 1


@virtual_time
async def test_an_expired_list_is_asked_for_again() -> None:
    """Older than ttl, and Ollama there: callers get a new one."""
    kept = Kept("old:latest")
    await kept.lists.cached()
    await asyncio.sleep(60.1)
    kept.source.tags_body = tags_of("new:latest")
    served = await kept.lists.cached()

    assert (names_of(served), served.age, served.stale) == (["new:latest"], 0.0, False)


@pytest.mark.parametrize("fault", ["goes_away", "hangs"])
@virtual_time
async def test_the_last_list_is_served_while_ollama_is_away(fault: str) -> None:
    """Marked stale, with its age, for as long as stale_limit."""
    kept = Kept("tiny:latest")
    await kept.lists.cached()
    getattr(kept, fault)()
    await asyncio.sleep(500)
    served = await kept.lists.cached()

    assert (names_of(served), served.stale) == (["tiny:latest"], True)
    assert served.age >= 500.0


@pytest.mark.parametrize("within", [0.0, 1.0])
@virtual_time
async def test_a_list_older_than_stale_limit_is_not_served(within: float) -> None:
    """An answer that old would be a lie."""
    kept = Kept("tiny:latest")
    await kept.lists.cached()
    kept.goes_away()
    await asyncio.sleep(600)

    with pytest.raises(UpstreamUnreachable, match="connection refused"):
        await kept.lists.asked(within=within)
    with pytest.raises(UpstreamUnreachable):
        await kept.lists.cached()


@virtual_time
async def test_without_any_list_a_failure_is_told() -> None:
    """Nothing can be served before Ollama answered once."""
    kept = Kept("tiny:latest")
    kept.goes_away()
    with pytest.raises(UpstreamUnreachable, match="connection refused"):
        await kept.lists.cached()

    kept.source.error = None
    kept.source.tags_body = b"<html>"
    with pytest.raises(UpstreamProtocolError):
        await kept.lists.asked(within=0.0)


@virtual_time
async def test_while_ollama_is_known_to_be_away_nobody_waits_for_it_in_vain() -> None:
    """One call in two seconds tries; the others have the last list at once."""
    kept = Kept("tiny:latest")
    await kept.lists.cached()
    kept.hangs()
    await asyncio.sleep(100)
    await kept.lists.cached()
    assert now() == 1102.0

    async with asyncio.TaskGroup() as group:
        trying = group.create_task(kept.lists.cached())
        await asyncio.sleep(1)
        before = now()
        served = await kept.lists.cached()
        assert (now(), served.stale) == (before, True)

    assert trying.result().stale
    assert kept.fetches == 3


@virtual_time
async def test_a_call_finds_ollama_back() -> None:
    """Without anybody else looking, a call notices within two seconds."""
    kept = Kept("tiny:latest")
    await kept.lists.cached()
    kept.goes_away()
    await asyncio.sleep(100)
    await kept.lists.cached()
    kept.comes_back()
    await asyncio.sleep(2)

    assert not (await kept.lists.cached()).stale


@virtual_time
async def test_fresh_means_asked_within_the_last_second() -> None:
    """A model that was pulled a moment ago is there."""
    kept = Kept("old:latest")
    await kept.lists.asked(within=1.0)
    await asyncio.sleep(1.0)
    await kept.lists.asked(within=1.0)
    assert kept.fetches == 1

    await asyncio.sleep(0.1)
    kept.source.tags_body = tags_of("old:latest", "new:latest")

    assert names_of(await kept.lists.asked(within=1.0)) == ["old:latest", "new:latest"]
    assert kept.fetches == 2


@virtual_time
async def test_a_slow_ollama_does_not_hold_a_fresh_list_up() -> None:
    """After two seconds the last good list is served, marked stale."""
    kept = Kept("tiny:latest")
    await kept.lists.asked(within=1.0)
    kept.hangs()
    await asyncio.sleep(30)
    served = await kept.lists.asked(within=1.0)

    assert (served.age, served.stale) == (32.0, True)
    assert now() == 1032.0


@virtual_time
async def test_a_failed_question_does_not_count_as_asked() -> None:
    """The next fresh list is asked for at once."""
    kept = Kept("tiny:latest")
    kept.goes_away()
    with pytest.raises(UpstreamUnreachable):
        await kept.lists.asked(within=1.0)
    kept.comes_back()

    assert names_of(await kept.lists.asked(within=1.0)) == ["tiny:latest"]


@virtual_time
async def test_every_fetch_updates_the_one_cache() -> None:
    """Who asks afresh does so for everybody."""
    kept = Kept("old:latest")
    await kept.lists.cached()
    await asyncio.sleep(5)
    kept.source.tags_body = tags_of("new:latest")
    await kept.lists.asked(within=0.0)

    assert names_of(await kept.lists.cached()) == ["new:latest"]


@virtual_time
async def test_asking_again_is_limited_to_once_a_second() -> None:
    """However often a name is missed, Ollama is asked once a second, failures included."""
    kept = Kept("tiny:latest")
    had = await kept.lists.cached()
    for _ in range(100):
        await kept.lists.asked_again(had)
    assert kept.fetches == 1

    await asyncio.sleep(1.1)
    kept.goes_away()
    for _ in range(100):
        await kept.lists.asked_again(had)
    assert kept.fetches == 2


@virtual_time
async def test_changes_are_told_once() -> None:
    """Coming up and going away are told when they happen, the first time included."""
    kept = Kept("tiny:latest")
    kept.goes_away()
    for _ in range(2):
        with pytest.raises(UpstreamUnreachable):
            await kept.lists.asked(within=0.0)
    kept.comes_back()
    for _ in range(2):
        await asyncio.sleep(1)
        await kept.lists.asked(within=0.0)

    assert kept.changes == [(False, "connection refused"), (True, "")]
    assert kept.lists.up


@pytest.mark.parametrize("steps", range(8))
@virtual_time
async def test_cancelled_anywhere(steps: int) -> None:
    """A caller who leaves leaves the cache as useful as before."""
    kept = Kept("tiny:latest")
    kept.source.latency = 0.5
    async with asyncio.TaskGroup() as group:
        leaving = group.create_task(kept.lists.cached())
        staying = group.create_task(kept.lists.cached())
        await ticks(steps)
        leaving.cancel()

    assert names_of(staying.result()) == ["tiny:latest"]
    assert kept.changes == [(True, "")]
    assert repr(kept.lists) == "<Lists <Latest an answer of 1000, 0 failures>, up>"
