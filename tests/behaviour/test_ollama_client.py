"""Ollama's own Python library, unchanged, through the gateway."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import ollama
import pytest

from gateway.simulator import Fault, Simulator
from tests.conftest import left_empty
from tests.harness import Running, running

from .clients import EMBEDDER, MODEL, clients_of, seen_request

WELL = [{"role": "user", "content": "SAY: all is well"}]


@pytest.fixture
async def client(gateway: Running) -> AsyncIterator[ollama.AsyncClient]:
    async with clients_of(gateway) as clients:
        yield clients.ollama


async def test_list_show_and_ps(client: ollama.AsyncClient) -> None:
    """What there is, what one of it is, what is loaded."""
    listed = await client.list()
    shown = await client.show(MODEL)
    await client.generate(MODEL, "hi")
    loaded = await client.ps()

    assert MODEL in [model.model for model in listed.models]
    assert shown.details is not None
    assert shown.details.parameter_size == "1.2B"
    assert shown.capabilities == ["completion", "tools"]
    assert [model.model for model in loaded.models] == [MODEL]


async def test_show_describes_the_model_and_not_the_host(
    client: ollama.AsyncClient,
) -> None:
    """No path with the owner's name in it, no text of the owner's."""
    shown = await client.show("qwen2.5-coder:7b")

    assert shown.modelfile is None
    assert shown.template is None
    assert "system" not in shown.model_dump()
    assert shown.modelinfo


async def test_chat_complete_and_streamed(client: ollama.AsyncClient) -> None:
    """The same words, and the numbers at the end."""
    complete = await client.chat(MODEL, WELL)
    parts = [part async for part in await client.chat(MODEL, WELL, stream=True)]

    assert complete.message.content == "all is well"
    assert [part.message.content for part in parts] == ["all", " is", " well", ""]
    assert parts[-1].done
    assert parts[-1].eval_count == complete.eval_count == 3


async def test_generate_complete_and_streamed(client: ollama.AsyncClient) -> None:
    """Its older sister, with the context that a next call may send back."""
    complete = await client.generate(MODEL, "SAY: yes we can")
    parts = [part async for part in await client.generate(MODEL, "SAY: yes we can", stream=True)]

    assert complete.response == "yes we can"
    assert "".join(part.response or "" for part in parts) == "yes we can"
    assert complete.context
    assert parts[-1].done


async def test_both_embedding_routes(client: ollama.AsyncClient) -> None:
    """The same vector from both."""
    newer = await client.embed(EMBEDDER, ["a", "b"])
    older = await client.embeddings(EMBEDDER, "a")

    assert [len(vector) for vector in newer.embeddings] == [768, 768]
    assert list(older.embedding) == pytest.approx(list(newer.embeddings[0]), abs=1e-6)


async def test_tools_are_called(client: ollama.AsyncClient) -> None:
    """A call with its arguments as an object."""
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    called = await client.chat(
        MODEL, [{"role": "user", "content": 'CALL_TOOL {"at": 1}'}], tools=[tool]
    )

    assert called.message.tool_calls is not None
    assert called.message.tool_calls[0].function.arguments == {"at": 1}


def test_the_synchronous_client_works_alike(tmp_path: Path) -> None:
    """With name and key as a user name and a password, for it has no field for a key."""

    def call(gateway: Running) -> str:
        with ollama.Client(host=gateway.url, auth=("tester", gateway.key)) as client:
            parts = client.chat(MODEL, WELL, stream=True)
            return "".join(part.message.content or "" for part in parts)

    async def scene() -> str:
        async with Simulator(time_scale=0) as sim, running(sim.url, tmp_path) as gateway:
            said = await asyncio.to_thread(call, gateway)
            await left_empty(gateway)
            return said

    assert asyncio.run(scene()) == "all is well"


async def test_tuning_is_dropped_and_named(
    client: ollama.AsyncClient, sim: Simulator, gateway: Running
) -> None:
    """Options that would reload the model for everybody do not reach Ollama; others do."""
    await client.generate(MODEL, "hi", keep_alive=-1, options={"num_ctx": 64, "seed": 1})

    assert b"keep_alive" not in sim.requests[-1].body
    assert b'"options":{"seed":1}' in sim.requests[-1].body


@pytest.mark.parametrize(
    ("model", "status", "words"),
    [
        ("nope", 404, "There is no model 'nope'"),
        ("gpt-oss:120b-cloud", 403, "ollama.com"),
    ],
)
async def test_errors_have_status_and_message(
    client: ollama.AsyncClient, model: str, status: int, words: str
) -> None:
    """Its library reads ``error``, of a whole answer and of a stream alike."""
    with pytest.raises(ollama.ResponseError, match=words) as complete:
        await client.chat(model, WELL)
    with pytest.raises(ollama.ResponseError, match=words) as streamed:
        async for _ in await client.chat(model, WELL, stream=True):
            pass

    assert complete.value.status_code == streamed.value.status_code == status


async def test_without_a_key_nothing_is_revealed(gateway: Running) -> None:
    """A 401 whose words say what to send."""
    async with ollama.AsyncClient(host=gateway.url) as client:
        with pytest.raises(ollama.ResponseError, match="Authorization: Bearer") as caught:
            await client.list()

    assert caught.value.status_code == 401


async def test_a_call_without_a_prompt_does_not_load_or_unload(
    client: ollama.AsyncClient, sim: Simulator
) -> None:
    """That is the owner's business, and said so."""
    with pytest.raises(ollama.ResponseError, match="loads or unloads") as caught:
        await client.generate(MODEL, keep_alive=0)

    assert caught.value.status_code == 403
    assert seen_request(sim) == []


@pytest.mark.parametrize("call", ["pull", "push", "delete", "create", "copy"])
async def test_management_routes_cannot_be_reached(
    client: ollama.AsyncClient, sim: Simulator, call: str
) -> None:
    """Every route that changes what is on the machine does not exist here."""
    arguments = {"copy": {"source": MODEL, "destination": "x"}, "create": {"model": "x"}}
    with pytest.raises(ollama.ResponseError, match="serves no such route") as caught:
        await getattr(client, call)(**arguments.get(call, {"model": MODEL}))

    assert caught.value.status_code == 404
    assert {each.path for each in sim.requests} <= {"/api/tags", "/api/version"}


async def test_ollama_error_passes_unchanged(
    client: ollama.AsyncClient, sim: Simulator, gateway: Running
) -> None:
    """Status and words as Ollama wrote them, in the log as well."""
    sim.fault(Fault.status(500, b'{"error":"out of luck"}'))
    with pytest.raises(ollama.ResponseError, match="out of luck") as caught:
        await client.chat(MODEL, WELL)
    (line,) = await gateway.finished()

    assert caught.value.status_code == 500
    assert (line["outcome"], line["error"]) == ("upstream_5xx", "out of luck")
