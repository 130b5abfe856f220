"""What a signal does: what runs may end, what waits is told, what comes is sent away."""

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest

from gateway.simulator import Hold, Simulator
from tests.behaviour.process import Home, Process
from tests.behaviour.speech import OPENAI
from tests.behaviour.wire import Caller, ask, caller, request

ANSWER = 8
"""Tokens of an answer of the simulator's."""

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
    """Ollama answers two tokens of the first stream, then nothing until it is let go on."""
    with sim.hold() as hold:
        hold.release(2)
        yield hold


@asynccontextmanager
async def streaming(process: Process, key: str) -> AsyncIterator[Caller]:
    """A stream of which the first events have come."""
    async with caller(process.port) as one:
        bearer = {"Authorization": f"Bearer {key}"}
        one.send(request(OPENAI.path, OPENAI.body(stream=True), headers=bearer))
        status, _ = await one.head()
        assert status == 200
        assert await one.chunk()
        yield one


@either_signal
async def test_what_runs_may_end(
    number: signal.Signals, home: Home, key: str, sim: Simulator, hold: Hold
) -> None:
    """The stream completes, waiters and newcomers are told at once, and the exit code is 0."""
    bearer = {"Authorization": f"Bearer {key}"}
    with home.serves(sim.url) as process:
        async with streaming(process, key) as stream, caller(process.port) as waiting:
            waiting.send(request(OPENAI.path, OPENAI.body(), headers=bearer))
            await process.until(lambda: _waiting(process) == 1)
            process.signal(number)
            waiter = await waiting.answer()
            ready = process.ready()
            new = await ask(process.port, OPENAI.path, OPENAI.body(), headers=bearer)
            hold.release(ANSWER)
            rest, whole = await stream.rest()
        code = await process.ended()

    assert (waiter.status, waiter.json()["error"]["code"]) == (503, "draining")
    assert (ready.status_code, "draining" in ready.text) == (503, True)
    assert (new.status, new.headers["connection"]) == (503, "close")
    assert (new.headers["retry-after"], new.json()["error"]["code"]) == ("5", "draining")
    assert (whole, rest.endswith(b"data: [DONE]\n\n")) == (True, True)
    assert code == 0
    _logged(process, "draining", "draining", "ok")


@either_signal
async def test_what_runs_for_too_long_is_cut(
    number: signal.Signals, home: Home, key: str, sim: Simulator, hold: Hold
) -> None:
    """``drain_timeout``: the stream ends with an error event and a cut."""
    with home.serves(sim.url, GATEWAY_TIMEOUTS__DRAIN_TIMEOUT="0.2") as process:
        async with streaming(process, key) as stream:
            process.signal(number)
            rest, whole = await stream.rest()
        code = await process.ended()
        await sim.wait_for(lambda: sim.stats.active == 0)

    assert OPENAI.late_failure(rest).code == "shutdown"
    assert (whole, code) == (False, 0)
    assert sim.stats.generations_abandoned == 1
    _logged(process, "shutdown")


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_at_once(
    second: signal.Signals, home: Home, key: str, sim: Simulator, hold: Hold
) -> None:
    """Whichever it is, and however much time the drain had left."""
    with home.serves(sim.url) as process:
        async with streaming(process, key) as stream:
            process.signal(signal.SIGTERM)
            await process.until(lambda: bool(process.log("gateway.draining")))
            process.signal(second)
            rest, whole = await stream.rest()
        code = await process.ended()

    assert OPENAI.late_failure(rest).code == "shutdown"
    assert (whole, code) == (False, 0)
    _logged(process, "shutdown")


async def test_many_signals_are_no_more_than_two(
    home: Home, key: str, sim: Simulator, hold: Hold
) -> None:
    """Someone who holds Ctrl-C down ends it as cleanly."""
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
    _logged(process, "shutdown")


async def test_nothing_to_wait_for(home: Home, key: str, sim: Simulator) -> None:
    """An idle gateway ends at once, whoever keeps a connection open."""
    with home.serves(sim.url) as process:
        async with caller(process.port) as idle, caller(process.port) as half:
            idle.send(request("/healthz"))
            assert (await idle.answer()).status == 200
            half.send(b"POST /v1/chat/comp")
            process.signal(signal.SIGTERM)
            code = await process.ended()
            assert await idle.hung_up() == b""
            assert await half.hung_up() == b""

    assert code == 0
    _logged(process, "ok")


async def test_health_says_ok_to_the_end(home: Home, key: str, sim: Simulator, hold: Hold) -> None:
    """It tells that the process lives; ``readyz`` tells that it takes no more."""
    with home.serves(sim.url) as process:
        async with streaming(process, key) as stream:
            before = process.ready().status_code
            process.signal(signal.SIGTERM)
            await process.until(lambda: process.ready().status_code == 503)
            for port in (process.port, process.admin_port):
                assert (await ask(port, "/healthz")).body == b"ok\n"
            hold.release(ANSWER)
            _, whole = await stream.rest()
        code = await process.ended()

    assert (before, whole, code) == (200, True, 0)


def _logged(process: Process, *outcomes: str) -> None:
    """One line for each request, no traceback, and a last word."""
    lines = process.log("request.finished")
    assert sorted(line["outcome"] for line in lines) == sorted(outcomes)
    assert "Traceback" not in process.stderr
    assert '"level":"error"' not in process.stderr
    assert '"event":"gateway.stopped"' in process.stderr.splitlines()[-1]


def _waiting(process: Process) -> int:
    scheduler = httpx.get(f"{process.admin_url}/status.json").json()["scheduler"]
    return int(scheduler["queued"])
