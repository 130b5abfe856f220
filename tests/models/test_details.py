import asyncio

import pytest

from gateway.errors import UpstreamProtocolError, UpstreamUnreachable
from gateway.models import ShowReply
from gateway.models.details import Details
from tests.models.fakes import FakeSource, model_of
from tests.models.virtual import now, ticks, virtual_time

TINY = model_of("tiny:latest", "d1")


class Known:
    """Details over a fake Ollama; ``doubts`` counts how often Ollama was doubted."""

    def __init__(self) -> None:
        self.source = FakeSource("tiny:latest")
        self.doubts = 0
        self.details = Details(
            self.source,
            ttl=60.0,
            stale_limit=600.0,
            now=now,
            fetch_timeout=2.0,
            doubt=self._doubt,
        )

    def _doubt(self) -> None:
        self.doubts += 1


@virtual_time
async def test_show_is_asked_once_for_a_digest() -> None:
    """The same model with the same digest is served from the cache, while Ollama hangs too."""
    known = Known()
    first = await known.details.show(TINY, verbose=False)
    known.source.latency = 3600.0
    started = now()

    assert first == await known.details.show(TINY, verbose=False)
    assert now() == started
    assert known.source.asked == ["show tiny:latest"]


@virtual_time
async def test_show_is_asked_again_for_a_new_digest() -> None:
    """A model that was made anew is described anew."""
    known = Known()
    await known.details.show(TINY, verbose=False)
    known.source.show_reply = ShowReply(200, b'{"license":"new"}')

    assert (await known.details.show(model_of("tiny:latest", "d2"), verbose=False)).body == (
        b'{"license":"new"}'
    )


@virtual_time
async def test_verbose_is_another_answer() -> None:
    """Each is asked for once."""
    known = Known()
    for _ in range(2):
        await known.details.show(TINY, verbose=False)
        await known.details.show(TINY, verbose=True)

    assert known.source.asked == ["show tiny:latest", "show tiny:latest verbose"]


@virtual_time
async def test_errors_of_show_are_not_kept() -> None:
    """A refusal of Ollama's passes as it is, and the next caller asks again."""
    known = Known()
    known.source.show_reply = ShowReply(404, b'{"error":"not found"}')
    assert (await known.details.show(TINY, verbose=False)).status == 404
    known.source.show_reply = ShowReply(200, b"{}")
    await asyncio.sleep(1.1)

    assert (await known.details.show(TINY, verbose=False)).status == 200


@virtual_time
async def test_nonsense_is_not_kept() -> None:
    """An answer that is no JSON object is a protocol error once, not until the digest changes."""
    known = Known()
    known.source.show_reply = ShowReply(200, b"<html>")
    with pytest.raises(UpstreamProtocolError):
        await known.details.show(TINY, verbose=False)
    known.source.show_reply = ShowReply(200, b"{}")

    assert (await known.details.show(TINY, verbose=False)).body == b"{}"


@virtual_time
async def test_show_of_one_model_does_not_wait_for_another() -> None:
    """A hanging question holds up only those who ask the same."""
    known = Known()
    known.source.latency = 1.0
    async with asyncio.TaskGroup() as group:
        for name in ("a:1", "b:1", "a:1"):
            group.create_task(known.details.show(model_of(name), verbose=False))

    assert now() == 1001.0
    assert sorted(known.source.asked) == ["show a:1", "show b:1"]


@pytest.mark.parametrize("steps", range(8))
@virtual_time
async def test_a_cancelled_show_does_not_fail_the_others(steps: int) -> None:
    """Wherever the first caller leaves, the second one gets the answer."""
    known = Known()
    known.source.latency = 0.5
    async with asyncio.TaskGroup() as group:
        first = group.create_task(known.details.show(TINY, verbose=False))
        second = group.create_task(known.details.show(TINY, verbose=False))
        await ticks(steps)
        first.cancel()

    assert second.result().status == 200


@virtual_time
async def test_a_slow_show_is_asked_for_once() -> None:
    """Who comes long after it was asked takes the answer too: the digest is the same."""
    known = Known()
    known.source.latency = 1.5
    async with asyncio.TaskGroup() as group:
        group.create_task(known.details.show(TINY, verbose=False))
        await asyncio.sleep(1.2)
        group.create_task(known.details.show(TINY, verbose=False))

    assert known.source.asked == ["show tiny:latest"]


@virtual_time
async def test_show_without_an_answer() -> None:
    """A model that was never shown cannot be while Ollama hangs: 502 after two seconds."""
    known = Known()
    known.source.latency = 3600.0
    with pytest.raises(UpstreamUnreachable, match="within 2 s"):
        await known.details.show(TINY, verbose=False)

    assert now() == 1002.0
    assert known.doubts == 1


@virtual_time
async def test_finished_shows_leave_nothing_behind() -> None:
    """Names that callers ask for do not pile up."""
    known = Known()
    for n in range(20):
        await known.details.show(model_of(f"m{n}:latest", ""), verbose=False)

    assert len(known.details._flights) == 0
    assert repr(known.details).startswith("<Details <ShownModels 0 answers, 0 bytes>")


@virtual_time
async def test_version_is_asked_once_within_its_ttl() -> None:
    """The bytes are Ollama's own."""
    known = Known()
    assert await known.details.version() == b'{"version":"0.33.0"}'
    await asyncio.sleep(60)
    await known.details.version()
    assert known.source.asked_for("version") == 1

    await asyncio.sleep(0.1)
    known.source.version_body = b'{"version":"0.34.0"}'
    assert await known.details.version() == b'{"version":"0.34.0"}'


@virtual_time
async def test_the_last_version_is_served_while_ollama_hangs() -> None:
    """Within a second, and for as long as stale_limit."""
    known = Known()
    await known.details.version()
    known.source.latency = 3600.0
    await asyncio.sleep(500)
    assert await known.details.version() == b'{"version":"0.33.0"}'
    assert now() == 1501.0

    await asyncio.sleep(100)
    with pytest.raises(UpstreamUnreachable):
        await known.details.version()


@virtual_time
async def test_version_of_something_else() -> None:
    """What is no version of Ollama's is not served, the last good one is."""
    known = Known()
    known.source.version_body = b"<html>"
    with pytest.raises(UpstreamProtocolError):
        await known.details.version()
    known.source.version_body = b'{"version":"0.33.0"}'
    await known.details.version()
    await asyncio.sleep(61)
    known.source.version_body = b"<html>"

    assert await known.details.version() == b'{"version":"0.33.0"}'


@virtual_time
async def test_ps_is_asked_for_at_most_once_a_second() -> None:
    """What is loaded is served as it is now, or was a second ago."""
    known = Known()
    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(known.details.ps())
    await asyncio.sleep(1.1)
    await known.details.ps()

    assert known.source.asked == ["ps", "ps"]


@virtual_time
async def test_ps_is_never_old() -> None:
    """While Ollama hangs or is away there is no answer rather than a wrong one."""
    known = Known()
    await known.details.ps()
    await asyncio.sleep(2)
    known.source.latency = 3600.0
    with pytest.raises(UpstreamUnreachable, match="within 2 s"):
        await known.details.ps()
    known.source.latency = 0.0
    known.source.error = UpstreamUnreachable("connection refused")
    with pytest.raises(UpstreamUnreachable, match="connection refused"):
        await known.details.ps()

    assert known.doubts == 2


@virtual_time
async def test_ps_of_something_else() -> None:
    """Nonsense is a protocol error, and no reason to look whether Ollama runs."""
    known = Known()
    known.source.ps_body = b"[]"
    with pytest.raises(UpstreamProtocolError):
        await known.details.ps()

    assert known.doubts == 0
