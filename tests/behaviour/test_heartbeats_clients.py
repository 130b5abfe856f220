"""Real clients read the same response with heartbeats as without, only later."""

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
from .dialect_specs import OPENAI
from .failing import Scene
from .heartbeats import QUICK, all_get_heartbeats

Vectors = Callable[[Clients], Coroutine[Any, Any, list[list[float]]]]

SAID = "one two three four"
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": f"SAY: {SAID}"}]}


@dataclass(frozen=True, slots=True)
class SetUp:
    scene: Scene
    clients: Clients

    async def last_line(self) -> dict[str, Any]:
        """The log last_line of the last request that got a response."""
        await left_empty(self.scene.gateway)
        lines = self.scene.gateway.log("request.finished")
        return [last_line for last_line in lines if last_line["outcome"] == "ok"][-1]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def setup(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SetUp]:
    """One for all tests: making a client takes longer than a test."""
    folder = tmp_path_factory.mktemp("held")
    async with (
        Simulator(time_scale=0) as sim,
        running(sim.url, folder, tunnel=QUICK) as gateway,
        clients_of(gateway) as clients,
    ):
        yield SetUp(Scene(sim, gateway, OPENAI), clients)
        await left_empty(gateway)


IN_ONE_SET_UP = pytest.mark.asyncio(loop_scope="module")


@IN_ONE_SET_UP
@EVERY_FAMILY
async def test_complete_response_with_heartbeats(setup: SetUp, family: Family) -> None:
    """JSON may begin with spaces, for every client."""
    scene = setup.scene

    async def fetch() -> str | None:
        return await family.complete(setup.clients)

    async with asyncio.TaskGroup() as group:
        with scene.sim.hold() as hold:
            seen_request = group.create_task(fetch())
            await scene.sim.wait_for(lambda: hold.waiting == 1)
            await all_get_heartbeats(scene)
    last_line = await setup.last_line()

    assert seen_request.result() == SAID
    assert last_line["heartbeats"] >= 1


@IN_ONE_SET_UP
@EVERY_FAMILY
async def test_stream_with_heartbeats(setup: SetUp, family: Family) -> None:
    """Before its first event, and once more in the middle."""
    scene, said = setup.scene, list[str]()
    async with asyncio.TaskGroup() as group:
        with scene.sim.hold() as hold:
            group.create_task(family.stream(setup.clients, said))
            await scene.sim.wait_for(lambda: hold.waiting == 1)
            await all_get_heartbeats(scene)
            hold.release(2)
            await scene.sim.wait_for(lambda: hold.waiting == 1)
            await all_get_heartbeats(scene, 2)
    last_line = await setup.last_line()

    assert "".join(said) == SAID
    assert (last_line["heartbeats"] >= 2, last_line["tokens_out"]) == (True, 4)


async def openai_vectors(clients: Clients) -> list[list[float]]:
    created = await clients.openai.embeddings.create(model=EMBEDDER, input=["one", "two"])
    return [each.embedding for each in created.data]


async def ollama_vectors(clients: Clients) -> list[list[float]]:
    embedded = await clients.ollama.embed(EMBEDDER, ["one", "two"])
    return [list(each) for each in embedded.embeddings]


@IN_ONE_SET_UP
@pytest.mark.parametrize("vectors", [openai_vectors, ollama_vectors])
async def test_embeddings_with_heartbeats(setup: SetUp, vectors: Vectors) -> None:
    """The same vectors, however long they took."""
    scene = setup.scene
    fast = await vectors(setup.clients)
    scene.sim.fault(Fault.slow_headers())
    async with asyncio.TaskGroup() as group:
        slow = group.create_task(vectors(setup.clients))
        await scene.sim.wait_for(lambda: scene.sim.stats.active == 1)
        await all_get_heartbeats(scene, model=EMBEDDER)
        scene.sim.release()
    last_line = await setup.last_line()

    assert slow.result() == fast
    assert last_line["heartbeats"] >= 1


@IN_ONE_SET_UP
async def test_heartbeats_keep_an_httpx_read_timeout_from_expiring(setup: SetUp) -> None:
    """Every byte restarts it; the client need not know what heartbeats are."""
    scene = setup.scene
    gateway = scene.gateway
    async with (
        httpx.AsyncClient(headers=gateway.bearer, timeout=httpx.Timeout(5, read=0.5)) as client,
        asyncio.TaskGroup() as group,
    ):
        with scene.sim.hold() as hold:
            post = client.post(f"{gateway.url}/v1/chat/completions", json=CHAT)
            seen_request = group.create_task(post)
            await scene.sim.wait_for(lambda: hold.waiting == 1)
            # Longer than the client's timeout.
            await all_get_heartbeats(scene, 14)
    response = seen_request.result()

    assert response.json()["choices"][0]["message"]["content"] == SAID
    assert response.text.startswith(" " * 10)


@IN_ONE_SET_UP
@pytest.mark.parametrize("stream", [False, True])
async def test_curl_prints_the_response_and_heartbeats(setup: SetUp, stream: bool) -> None:
    """Blanks before it, or comments between its events."""
    scene = setup.scene
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
        await all_get_heartbeats(scene, 2)
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
