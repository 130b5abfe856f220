"""Every timeout that a client meets before, between and after its requests."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from gateway.server import drain
from gateway.simulator import Fault
from tests.behaviour.dialect_specs import OPENAI
from tests.behaviour.failing import scene_of, until
from tests.behaviour.wire import RawClient, raw_client, request

SHORT = 0.2
"""Seconds of the clock that is meant to ring."""
MIB = 1 << 20

both_loops = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
Loop = Callable[[], asyncio.AbstractEventLoop]


def run(loop: Loop, story: Awaitable[None]) -> None:
    async def result() -> None:
        await story

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(result())


async def drained(one: RawClient) -> int:
    """Take all that there is until the other side closes; how much it was."""
    taken = 0
    while data := await one.read_until_closed():
        taken += len(data)
    return taken


async def trickle(one: RawClient, data: bytes) -> None:
    """Send ``data`` over and over, a little at a time, until the other side has had enough."""
    while not one.reader.at_eof() and not one.writer.is_closing():
        one.send(data)
        await asyncio.sleep(0.01)


# The head.


@both_loops
def test_head_timeout_closes_a_slow_head(loop: Loop, tmp_path: Path) -> None:
    """Other connections are not affected."""

    async def story() -> None:
        settings = {"timeouts": {"head_timeout": SHORT}}
        async with (
            scene_of(tmp_path, OPENAI, settings) as scene,
            scene.occupied() as (in_time, hold),
        ):
            async with raw_client(scene.gateway.port) as slow, asyncio.TaskGroup() as tasks:
                slow.send(b"POST /v1/chat/completions HTTP/1.1\r\nX-Slow: ")
                tasks.create_task(trickle(slow, b"x"))
                assert await slow.read_until_closed() == b""
            hold.end()
            assert (await in_time.response()).status == 200

    run(loop, story())


async def test_head_timeout_closes_a_silent_connection(tmp_path: Path) -> None:
    """By the same timeout."""
    settings = {"timeouts": {"head_timeout": SHORT}}
    async with (
        scene_of(tmp_path, OPENAI, settings) as scene,
        raw_client(scene.gateway.port) as mute,
    ):
        assert await mute.read_until_closed() == b""


# The body.


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/show"])
async def test_body_timeout_answers_408(path: str, tmp_path: Path) -> None:
    """Whatever comes meanwhile; no advice to retry."""
    settings = {"timeouts": {"body_timeout": SHORT}}
    async with (
        scene_of(tmp_path, OPENAI, settings) as scene,
        raw_client(scene.gateway.port) as slow,
        asyncio.TaskGroup() as tasks,
    ):
        head = {**scene.gateway.bearer, "Content-Length": "50000"}
        slow.send(request(path, b"{", headers=head))
        trickling = tasks.create_task(trickle(slow, b" "))
        result = await slow.response()
        trickling.cancel()
        line = (await scene.gateway.finished())[0]

    assert (result.status, result.headers["x-should-retry"]) == (408, "false")
    assert (line["outcome"], line["phase"]) == ("request_body_timeout", "body")


async def test_body_timeout_stops_with_the_last_byte(tmp_path: Path) -> None:
    """A request may wait and run for longer."""
    settings = {"timeouts": {"body_timeout": SHORT}}
    async with scene_of(tmp_path, OPENAI, settings) as scene, scene.occupied() as (in_time, hold):
        async with raw_client(scene.gateway.port) as slow:
            head = {**scene.gateway.bearer, "Content-Length": "100"}
            slow.send(request(OPENAI.path, b"{", headers=head))
            refused = await slow.response()
        hold.end()
        result = await in_time.response()

    assert (refused.status, result.status) == (408, 200)


# Taking the answer.


@both_loops
@pytest.mark.parametrize("stream", [False, True])
def test_write_timeout_aborts_a_client_that_takes_nothing(
    loop: Loop, stream: bool, tmp_path: Path
) -> None:
    """Its slot is released."""

    async def story() -> None:
        # No memory to read the answer ahead into: the place is held until the caller is given up.
        limits = {"body_bytes": MIB, "buffered_bytes": MIB, "read_ahead_bytes": MIB}
        settings = {"timeouts": {"write_timeout": SHORT}, "limits": limits}
        async with scene_of(tmp_path, OPENAI, settings) as scene:
            scene.sim.fault(Fault.huge(32 * MIB))
            async with scene.waiting(OPENAI.body(stream=stream)) as deaf:
                line = (await scene.gateway.finished())[0]
                assert (line["status"], line["outcome"]) == (499, "client_write_timeout")
                assert line["bytes_out"] < 32 * MIB
                assert scene.gateway.gateway.host.scheduler.idle
                assert (await scene.fetch()).status == 200
                assert await drained(deaf) < 32 * MIB

    run(loop, story())


async def test_write_timeout_is_logged_in_the_relay_phase(tmp_path: Path) -> None:
    """Ollama had responded."""
    settings = {"timeouts": {"write_timeout": SHORT}}
    async with scene_of(tmp_path, OPENAI, settings) as scene:
        scene.sim.fault(Fault.huge(24 * MIB))
        async with scene.waiting():
            line = (await scene.gateway.finished())[0]

    assert (line["outcome"], line["phase"]) == ("client_write_timeout", "relay")


async def test_slow_client_keeps_its_connection(tmp_path: Path) -> None:
    """As long as it takes something in time."""
    settings = {"timeouts": {"write_timeout": 0.5}}
    async with scene_of(tmp_path, OPENAI, settings) as scene:
        scene.sim.fault(Fault.huge(24 * MIB))
        async with scene.waiting() as slow:
            taken = b""
            while not taken.endswith(b"\r\n0\r\n\r\n"):
                taken = await slow.reader.read(2 * MIB)
                await asyncio.sleep(0.08)
        line = (await scene.gateway.finished())[0]

    assert line["outcome"] == "ok"
    assert line["duration"] > 0.5


# Between two requests.


async def test_keepalive_timeout_closes_an_idle_connection(tmp_path: Path) -> None:
    """Not while a request is served."""
    settings = {"timeouts": {"keepalive_timeout": SHORT}}
    async with (
        scene_of(tmp_path, OPENAI, settings) as scene,
        raw_client(scene.gateway.port) as busy,
        raw_client(scene.gateway.port) as idle,
    ):
        await _served(busy)
        with scene.sim.hold() as hold:
            busy.send(request(OPENAI.path, OPENAI.body(), headers=scene.gateway.bearer))
            await scene.sim.wait_for(lambda: hold.waiting == 1)
            await _served(idle)
            assert await idle.read_until_closed() == b""
        assert (await busy.response()).status == 200


async def test_keepalive_timeout_limits_the_next_head(tmp_path: Path) -> None:
    """It has no more time than an idle connection."""
    settings = {"timeouts": {"keepalive_timeout": SHORT}}
    async with (
        scene_of(tmp_path, OPENAI, settings) as scene,
        raw_client(scene.gateway.port) as slow,
        asyncio.TaskGroup() as tasks,
    ):
        await _served(slow)
        slow.send(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
        tasks.create_task(trickle(slow, b"x"))
        assert await slow.read_until_closed() == b""


async def _served(one: RawClient) -> None:
    one.send(request("/healthz"))
    assert (await one.response()).status == 200


# The end.


async def test_drain_ends_with_the_last_response(tmp_path: Path) -> None:
    """Whatever ``drain_timeout`` would allow."""
    async with scene_of(tmp_path, OPENAI) as scene, asyncio.TaskGroup() as tasks:
        handler = scene.gateway.gateway.handler
        async with scene.occupied() as (last, hold):
            draining = tasks.create_task(drain(scene.gateway.gateway))
            await until(lambda: handler.draining)
            assert not draining.done()
            hold.end()
            result = await last.response()
        async with asyncio.timeout(5):
            await draining

    assert (result.status, result.complete) == (200, True)


async def test_drain_timeout_ends_running_requests(tmp_path: Path) -> None:
    """They are told so."""
    settings = {"timeouts": {"drain_timeout": SHORT}}
    async with scene_of(tmp_path, OPENAI, settings) as scene, scene.occupied() as (last, _):
        async with asyncio.timeout(5):
            await drain(scene.gateway.gateway)
        result = await last.response()

    assert (result.status, result.json()["error"]["code"]) == (503, "shutdown")


async def test_second_shutdown_changes_nothing(tmp_path: Path) -> None:
    """While the first one takes effect."""
    async with scene_of(tmp_path, OPENAI) as scene, scene.occupied() as (last, _):
        handler = scene.gateway.gateway.handler
        handler.abort_all()
        await asyncio.sleep(0)
        handler.abort_all()
        result = await last.response()

    assert result.json()["error"]["code"] == "shutdown"
