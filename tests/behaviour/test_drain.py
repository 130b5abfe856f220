"""Signals: running requests may end, queued ones fail, new ones are rejected."""

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest

from gateway.simulator import Hold, Simulator
from tests.behaviour.dialect_specs import OPENAI
from tests.behaviour.process import Home, Process
from tests.behaviour.wire import RawClient, fetch, raw_client, request

RESPONSE_TOKENS = 8
"""Tokens of a response of the simulator."""

either_signal = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """What ``init`` makes."""
    home = Home(tmp_path_factory.mktemp("home"))
    assert home.run("init").returncode == 0
    return home


@pytest.fixture(scope="module")
def key(home: Home) -> str:
    return home.key("tester")


@pytest.fixture
def hold(sim: Simulator) -> Iterator[Hold]:
    """Ollama generates two tokens of the first stream, then nothing until it is let go on."""
    with sim.hold() as hold:
        hold.release(2)
        yield hold


@asynccontextmanager
async def streaming(process: Process, key: str) -> AsyncIterator[RawClient]:
    """A stream of which the first events have arrived."""
    async with raw_client(process.port) as client:
        bearer = {"Authorization": f"Bearer {key}"}
        client.send(request(OPENAI.path, OPENAI.body(stream=True), headers=bearer))
        status, _ = await client.head()
        assert status == 200
        assert await client.chunk()
        yield client


@either_signal
async def test_running_request_may_end(
    number: signal.Signals, home: Home, key: str, sim: Simulator, hold: Hold
) -> None:
    """The stream completes, queued and new requests fail at once, and the exit code is 0."""
    bearer = {"Authorization": f"Bearer {key}"}
    with home.serves(sim.url) as process:
        async with streaming(process, key) as stream, raw_client(process.port) as waiting:
            waiting.send(request(OPENAI.path, OPENAI.body(), headers=bearer))
            await process.until(lambda: _waiting(process) == 1)
            process.signal(number)
            waiter = await waiting.response()
            ready = process.ready()
            new = await fetch(process.port, OPENAI.path, OPENAI.body(), headers=bearer)
            hold.release(RESPONSE_TOKENS)
            rest, complete = await stream.rest()
        code = await process.ended()

    assert (waiter.status, waiter.json()["error"]["code"]) == (503, "draining")
    assert (ready.status_code, "draining" in ready.text) == (503, True)
    assert (new.status, new.headers["connection"]) == (503, "close")
    assert (new.headers["retry-after"], new.json()["error"]["code"]) == ("5", "draining")
    assert (complete, rest.endswith(b"data: [DONE]\n\n")) == (True, True)
    assert code == 0
    _assert_log_is_complete(process, "draining", "draining", "ok")


async def test_client_that_disconnects_during_the_drain_is_logged_as_such(
    home: Home, key: str, sim: Simulator, hold: Hold
) -> None:
    with home.serves(sim.url) as process:
        async with streaming(process, key):
            process.signal(signal.SIGTERM)
            await process.until(lambda: bool(process.log("gateway.draining")))
        code = await process.ended()
        finished = process.log("request.finished")[-1]

    assert code == 0
    assert (finished["outcome"], finished["status"]) == ("client_disconnected", 499)


@either_signal
async def test_request_is_aborted_after_the_drain_timeout(
    number: signal.Signals, home: Home, key: str, sim: Simulator, hold: Hold
) -> None:
    """The stream ends with an error event and no end."""
    with home.serves(sim.url, GATEWAY_TIMEOUTS__DRAIN_TIMEOUT="0.2") as process:
        async with streaming(process, key) as stream:
            process.signal(number)
            rest, complete = await stream.rest()
        code = await process.ended()
        await sim.wait_for(lambda: sim.stats.active == 0)

    assert OPENAI.late_failure(rest).code == "shutdown"
    assert (complete, code) == (False, 0)
    assert sim.stats.generations_abandoned == 1
    _assert_log_is_complete(process, "shutdown")


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_second_signal_ends_at_once(
    second: signal.Signals, home: Home, key: str, sim: Simulator, hold: Hold
) -> None:
    """Whichever signal it is, and however much of the drain timeout is left."""
    with home.serves(sim.url) as process:
        async with streaming(process, key) as stream:
            process.signal(signal.SIGTERM)
            await process.until(lambda: bool(process.log("gateway.draining")))
            process.signal(second)
            rest, complete = await stream.rest()
        code = await process.ended()

    assert OPENAI.late_failure(rest).code == "shutdown"
    assert (complete, code) == (False, 0)
    _assert_log_is_complete(process, "shutdown")


async def test_many_signals_are_like_two(home: Home, key: str, sim: Simulator, hold: Hold) -> None:
    """Holding Ctrl-C down ends the gateway as cleanly."""
    with home.serves(sim.url) as process:
        async with streaming(process, key) as stream:
            process.signal(signal.SIGINT)
            await process.until(lambda: bool(process.log("gateway.draining")))
            for _ in range(20):
                process.signal(signal.SIGINT)
            await stream.rest()
            for _ in range(20):
                process.signal(signal.SIGINT)
        code = await process.ended()

    assert code == 0
    _assert_log_is_complete(process, "shutdown")


async def test_idle_gateway_ends_at_once(home: Home, key: str, sim: Simulator) -> None:
    """Even if clients keep connections open."""
    with home.serves(sim.url) as process:
        async with raw_client(process.port) as idle, raw_client(process.port) as half:
            idle.send(request("/healthz"))
            assert (await idle.response()).status == 200
            half.send(b"POST /v1/chat/comp")
            process.signal(signal.SIGTERM)
            code = await process.ended()
            assert await idle.read_until_closed() == b""
            assert await half.read_until_closed() == b""

    assert code == 0
    _assert_log_is_complete(process, "ok")


async def test_health_is_ok_during_the_drain(
    home: Home, key: str, sim: Simulator, hold: Hold
) -> None:
    """It says that the process lives; ``readyz`` says that it takes no more requests."""
    with home.serves(sim.url) as process:
        async with streaming(process, key) as stream:
            before = process.ready().status_code
            process.signal(signal.SIGTERM)
            await process.until(lambda: process.ready().status_code == 503)
            for port in (process.port, process.admin_port):
                assert (await fetch(port, "/healthz")).body == b"ok\n"
            hold.release(RESPONSE_TOKENS)
            _, complete = await stream.rest()
        code = await process.ended()

    assert (before, complete, code) == (200, True, 0)


def _assert_log_is_complete(process: Process, *outcomes: str) -> None:
    """One line for each request, no traceback, and a last line."""
    lines = process.log("request.finished")
    assert sorted(line["outcome"] for line in lines) == sorted(outcomes)
    assert "Traceback" not in process.stderr
    assert '"level":"error"' not in process.stderr
    assert '"event":"gateway.stopped"' in process.stderr.splitlines()[-1]


def _waiting(process: Process) -> int:
    scheduler = httpx.get(f"{process.admin_url}/status.json").json()["scheduler"]
    return int(scheduler["queued"])
