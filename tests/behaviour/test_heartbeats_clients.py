"""Real clients do not notice heartbeats: they read the same answer, only later."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.simulator import Fault, Simulator
from tests.conftest import left_empty
from tests.harness import running

from .clients import EMBEDDER, MODEL, Clients, clients_of
from .dialect_cases import EVERY_FAMILY, Family
from .failing import Scene
from .held import QUICK, all_are_held
from .speech import OPENAI

Vectors = Callable[[Clients], Coroutine[Any, Any, list[list[float]]]]

SAID = "one two three four"
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": f"SAY: {SAID}"}]}


@dataclass(frozen=True, slots=True)
class House:
    scene: Scene
    clients: Clients

    async def line(self) -> dict[str, Any]:
        """What was logged about the last request that was answered."""
        await left_empty(self.scene.gateway)
        lines = self.scene.gateway.log("request.finished")
        return [line for line in lines if line["outcome"] == "ok"][-1]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """One for all: a client takes longer to be made than a test takes."""
    folder = tmp_path_factory.mktemp("held")
    async with (
        Simulator(time_scale=0) as sim,
        running(sim.url, folder, tunnel=QUICK) as gateway,
        clients_of(gateway) as clients,
    ):
        yield House(Scene(sim, gateway, OPENAI), clients)
        await left_empty(gateway)


IN_ONE_HOUSE = pytest.mark.asyncio(loop_scope="module")


@IN_ONE_HOUSE
@EVERY_FAMILY
async def test_an_answer_in_one_piece(house: House, family: Family) -> None:
    """JSON may begin with spaces, for every one of them."""
    scene = house.scene

    async def ask() -> str | None:
        return await family.whole(house.clients)

    async with asyncio.TaskGroup() as group:
        with scene.sim.hold() as hold:
            asked = group.create_task(ask())
            await scene.sim.wait_for(lambda: hold.waiting == 1)
            await all_are_held(scene)
    line = await house.line()

    assert asked.result() == SAID
    assert line["heartbeats"] >= 1


@IN_ONE_HOUSE
@EVERY_FAMILY
async def test_a_stream(house: House, family: Family) -> None:
    """Kept alive before its first event, and once more in the middle."""
    scene, said = house.scene, list[str]()
    async with asyncio.TaskGroup() as group:
        with scene.sim.hold() as hold:
            group.create_task(family.stream(house.clients, said))
            await scene.sim.wait_for(lambda: hold.waiting == 1)
            await all_are_held(scene)
            hold.release(2)
            await scene.sim.wait_for(lambda: hold.waiting == 1)
            await all_are_held(scene, 2)
    line = await house.line()

    assert "".join(said) == SAID
    assert (line["heartbeats"] >= 2, line["tokens_out"]) == (True, 4)


async def openai_vectors(clients: Clients) -> list[list[float]]:
    created = await clients.openai.embeddings.create(model=EMBEDDER, input=["one", "two"])
    return [each.embedding for each in created.data]


async def ollama_vectors(clients: Clients) -> list[list[float]]:
    embedded = await clients.ollama.embed(EMBEDDER, ["one", "two"])
    return [list(each) for each in embedded.embeddings]


@IN_ONE_HOUSE
@pytest.mark.parametrize("vectors", [openai_vectors, ollama_vectors])
async def test_embeddings(house: House, vectors: Vectors) -> None:
    """The same vectors, however long they took."""
    scene = house.scene
    fast = await vectors(house.clients)
    scene.sim.fault(Fault.slow_headers())
    async with asyncio.TaskGroup() as group:
        slow = group.create_task(vectors(house.clients))
        await scene.sim.wait_for(lambda: scene.sim.stats.active == 1)
        await all_are_held(scene, model=EMBEDDER)
        scene.sim.release()
    line = await house.line()

    assert slow.result() == fast
    assert line["heartbeats"] >= 1


@IN_ONE_HOUSE
async def test_httpx_with_a_short_read_timeout(house: House) -> None:
    """Each byte is a sign of life: nobody has to know what ours mean."""
    scene = house.scene
    gateway = scene.gateway
    async with (
        httpx.AsyncClient(headers=gateway.bearer, timeout=httpx.Timeout(5, read=0.5)) as client,
        asyncio.TaskGroup() as group,
    ):
        with scene.sim.hold() as hold:
            post = client.post(f"{gateway.url}/v1/chat/completions", json=CHAT)
            asked = group.create_task(post)
            await scene.sim.wait_for(lambda: hold.waiting == 1)
            # Longer than his timeout.
            await all_are_held(scene, 14)
    answer = asked.result()

    assert answer.json()["choices"][0]["message"]["content"] == SAID
    assert answer.text.startswith(" " * 10)


@IN_ONE_HOUSE
@pytest.mark.parametrize("stream", [False, True])
async def test_curl(house: House, stream: bool) -> None:
    """Its output is the answer with blanks before it, or with comments between its events."""
    scene = house.scene
    gateway = scene.gateway
    arguments = ["-H", f"Authorization: Bearer {gateway.key}", "-N", "-m", "10"]
    arguments += [
        f"{gateway.url}/v1/chat/completions",
        "-d",
        json.dumps({**CHAT, "stream": stream}),
    ]
    with scene.sim.hold() as hold:
        process = await asyncio.create_subprocess_exec(
            "curl", "-sS", *arguments, stdout=asyncio.subprocess.PIPE
        )
        await scene.sim.wait_for(lambda: hold.waiting == 1)
        await all_are_held(scene, 2)
    out, _ = await process.communicate()

    assert process.returncode == 0
    if stream:
        events = [each for each in out.split(b"\n\n") if not each.startswith(b":")]
        assert events[-2:] == [b"data: [DONE]", b""]
        texts = [json.loads(each[6:])["choices"][0]["delta"] for each in events[:4]]
        assert "".join(text["content"] for text in texts) == SAID
    else:
        assert out.startswith(b"  ")
        assert json.loads(out)["choices"][0]["message"]["content"] == SAID
