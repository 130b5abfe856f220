"""The simulator responds like the real Ollama, case by case.

No case is left out; ``chat-stop`` alone is sent with another text, one that holds its stop word.
Compared are the status line, the headers in order (but for dates and lengths), keys, their order,
types and all values that do not depend on text, time or chance, the events of each chunk, the
number of chunks, and the way of ending. ``replay.VOLATILE`` lists the fields of which only the
type is compared.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest

from gateway.simulator import VERSIONS, Fault, Simulator
from tests.simulator import replay
from tests.simulator.recorded_models import MID, RECORDED_MODELS, STUCK, TINY, TINYBERT
from tests.simulator.replay import Case

CASES = [(version, name) for version in VERSIONS for name in replay.recorded(version)]

# These were recorded to show a number, which is therefore compared.
EXACT = {
    "chat-context-overflow": frozenset(("prompt_tokens", "completion_tokens", "total_tokens")),
    "embeddings-long": frozenset(("prompt_tokens", "total_tokens")),
    "chat-stream-usage": frozenset(("completion_tokens",)),
    "repeat-limit-chat": frozenset(("content", "prompt_tokens", "total_tokens")),
    "repeat-limit-native-generate": frozenset(("response",)),
    "repeat-limit-messages": frozenset(("text", "input_tokens", "output_tokens")),
    "repeat-limit-responses": frozenset(("text", "input_tokens", "output_tokens")),
}
DURING_LOAD = ("ps-during-load", "show-during-load", "tags-during-load", "version-during-load")
EVENTS_BEFORE_TEXT = {"/v1/messages": 2, "/v1/responses": 4}


@pytest.fixture(scope="module")
def recordings() -> dict[str, dict[str, Case]]:
    return {version: replay.recorded(version) for version in VERSIONS}


def chunk_count(case: Case) -> int:
    response = case["response"]
    return len(response["chunks"]) + int(response.get("chunks_omitted", {}).get("count", 0))


def tokens_before_death(case: Case) -> int:
    """Return after how many tokens the runner was killed, by the recorded response."""
    if case["response"]["status_line"] != "HTTP/1.1 200 OK":
        return 5 if "unexpected EOF" in json.dumps(case["response"]) else 0
    # Those that say nothing at the end are longer at their beginning; the others say one thing.
    return chunk_count(case) - EVENTS_BEFORE_TEXT.get(case["request"]["path"], 1)


async def load(sim: Simulator, name: str) -> None:
    body = json.dumps({"model": name, "input": "x"}).encode()
    path = b"/api/embed" if name.startswith("tinybert") else b"/api/generate"
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (path, len(body))
    await replay.send(sim.port, head + body)


def queued(sim: Simulator, count: int) -> bool:
    return sim.stats.queued == count


@asynccontextmanager
async def chats_waiting(sim: Simulator, count: int) -> AsyncIterator[None]:
    """Keep so many chats waiting for the model ``mid:1b`` to load."""
    body = b'{"model": "mid:1b", "messages": [{"role": "user", "content": "x"}]}'
    raw = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with AsyncExitStack() as stack:
        for number in range(count):
            _, writer = await asyncio.open_connection("127.0.0.1", sim.port)
            stack.callback(writer.close)
            writer.write(raw + body)
            await sim.wait_for(partial(queued, sim, number + 1))
        await sim.wait_for(lambda: sim.loading == "mid:1b")
        yield


async def prepare(sim: Simulator, name: str, case: Case) -> None:
    """Bring the simulator into the state in which the case was recorded."""
    if name.startswith("ps"):
        listed = json.loads(case["response"]["body"])["models"]
        for entry in reversed(listed):
            await load(sim, entry["name"])
    if name.startswith("crash-"):
        sim.fault(Fault.die(after_tokens=tokens_before_death(case)))


async def terminated_meanwhile(sim: Simulator, case: Case) -> replay.Reply:
    """Send SIGTERM after all recorded chunks were sent."""
    with sim.hold() as hold:
        hold.release(chunk_count(case))
        call = asyncio.ensure_future(  # noqa: TID251  - the test awaits it below
            replay.send(sim.port, replay.request_bytes(case))
        )
        await sim.wait_for(lambda: sim.stats.tokens_generated == chunk_count(case))
        await sim.wait_for(lambda: hold.waiting == 1)
        await sim.stop()
        return await call


def sendable(name: str, case: Case) -> Case:
    """Return the case; the stop word is replaced by one that the simulator generates."""
    if name != "chat-stop":
        return case
    body = case["request"]["json"]
    messages = [{"role": "user", "content": "SAY: that2 over look theseh"}]
    changed = {**body, "messages": messages}
    length = str(len(json.dumps(changed)))
    headers = [[n, length if n == "Content-Length" else v] for n, v in case["request"]["headers"]]
    return {**case, "request": {**case["request"], "json": changed, "headers": headers}}


async def replayed(sim: Simulator, name: str, case: Case) -> replay.Reply:
    await prepare(sim, name, case)
    if name == "sigterm-stream":
        return await terminated_meanwhile(sim, case)
    waiting = 2 if name.startswith("busy-") else 1 if name in DURING_LOAD else 0
    async with chats_waiting(sim, waiting) if waiting else AsyncExitStack():
        return await replay.send(sim.port, replay.request_bytes(case), case["request"]["method"])


@pytest.mark.parametrize(("version", "name"), CASES)
async def test_responses_match_the_recordings(
    recordings: dict[str, dict[str, Case]], version: str, name: str
) -> None:
    """Except for what depends on chance and time."""
    case = sendable(name, recordings[version][name])
    slow = name.startswith("busy-") or name in DURING_LOAD
    models = [TINY, replace(MID, load_time=3600.0 if slow else 0.0), TINYBERT]
    if name.startswith("repeat-limit"):
        models.append(STUCK)
    async with Simulator(models, version=version, max_queue=1 if slow else 512) as sim:
        reply = await replayed(sim, name, case)

    assert replay.differences(case, reply, exact=EXACT.get(name, frozenset())) == []


def test_recorded_models_are_those_of_the_recordings(
    recordings: dict[str, dict[str, Case]],
) -> None:
    for cases in recordings.values():
        listed = json.loads(cases["tags"]["response"]["body"])["models"]

        assert {entry["name"] for entry in listed} == {model.name for model in RECORDED_MODELS}
