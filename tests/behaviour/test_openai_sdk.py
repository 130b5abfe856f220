"""OpenAI's Python SDK, unchanged, through the gateway."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionFunctionToolParam

from gateway.simulator import SimulatedModel, Simulator
from tests.conftest import left_empty
from tests.harness import Running, running

from .clients import EMBEDDER, MODEL, openai_at, seen_request, user

WELL = [user("SAY: all is well")]
LOOK: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object"}},
}


@pytest.fixture
async def client(gateway: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai_at(gateway) as client:
        yield client


# What works directly works through us.


async def test_chat_response_has_usage(client: openai.AsyncOpenAI) -> None:
    """``choices[0].message.content`` and ``usage`` are what callers read."""
    answer = await client.chat.completions.create(model=MODEL, messages=WELL)

    assert answer.choices[0].message.content == "all is well"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


async def test_stream_has_the_same_text_and_usage(client: openai.AsyncOpenAI) -> None:
    """Piece by piece, a finish reason, and the usage that was asked for."""
    stream = await client.chat.completions.create(
        model=MODEL, messages=WELL, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]

    said = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert [text for text in said if text] == ["all", " is", " well"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


def test_the_synchronous_client_works_alike(tmp_path: Path) -> None:
    """Whole and streamed, from a thread that knows nothing of an event loop."""

    def call(gateway: Running) -> tuple[str | None, str]:
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key) as client:
            complete = client.chat.completions.create(model=MODEL, messages=WELL)
            stream = client.chat.completions.create(model=MODEL, messages=WELL, stream=True)
            said = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            return complete.choices[0].message.content, said

    async def scene() -> tuple[str | None, str]:
        async with Simulator(time_scale=0) as sim, running(sim.url, tmp_path) as gateway:
            said = await asyncio.to_thread(call, gateway)
            await left_empty(gateway)
            return said

    said = asyncio.run(scene())

    assert said == ("all is well", "all is well")


async def test_older_completions_work(client: openai.AsyncOpenAI) -> None:
    """Whole and streamed."""
    complete = await client.completions.create(model=MODEL, prompt="SAY: yes we can")
    stream = await client.completions.create(model=MODEL, prompt="SAY: yes we can", stream=True)
    streamed = [chunk.choices[0].text async for chunk in stream]

    assert complete.choices[0].text == "yes we can"
    assert "".join(streamed) == "yes we can"


async def test_embeddings_are_requested_in_base64_and_decoded(
    sim: Simulator, client: openai.AsyncOpenAI
) -> None:
    """The SDK asks for base64 unless told otherwise; that wish goes to Ollama as it is."""
    packed = await client.embeddings.create(model=EMBEDDER, input=["a", "b"])
    plain = await client.embeddings.create(
        model=EMBEDDER, input=["a", "b"], encoding_format="float"
    )

    formats = [
        json.loads(each.body)["encoding_format"] for each in sim.requests if each.method == "POST"
    ]
    assert formats == ["base64", "float"]
    assert [len(each.embedding) for each in packed.data] == [768, 768]
    assert packed.data[1].embedding == pytest.approx(plain.data[1].embedding, abs=1e-6)


async def test_responses_work(client: openai.AsyncOpenAI) -> None:
    """Whole, and as a stream that completes."""
    complete = await client.responses.create(model=MODEL, input="SAY: all is well")
    stream = await client.responses.create(model=MODEL, input="SAY: all is well", stream=True)
    events = [event async for event in stream]

    assert complete.output_text == "all is well"
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == "all is well"


async def test_models_are_listed_and_retrieved(client: openai.AsyncOpenAI, sim: Simulator) -> None:
    """The list and one of it; a name may have a slash and a colon in it."""
    sim.pull(SimulatedModel(name="hf.co/someone/Small-GGUF:Q4_K_M", parameter_size="1B", size=9))
    fresh = {"Cache-Control": "no-cache"}
    listed = [model.id async for model in client.models.list(extra_headers=fresh)]
    one = await client.models.retrieve(MODEL)
    slashed = await client.models.retrieve("hf.co/someone/Small-GGUF:Q4_K_M")

    assert one.id == MODEL
    assert one.object == "model"
    assert {MODEL, "nomic-embed-text:latest", slashed.id} <= set(listed)


async def test_tools_are_called_in_complete_and_streamed_responses(
    client: openai.AsyncOpenAI,
) -> None:
    """A call of a tool arrives as the SDK's own object."""
    turn = [user('CALL_TOOL {"at": 1}')]
    completions = client.chat.completions
    complete = await completions.create(model=MODEL, messages=turn, tools=[LOOK])
    stream = await completions.create(model=MODEL, messages=turn, tools=[LOOK], stream=True)
    chunks = [chunk async for chunk in stream]

    calls = complete.choices[0].message.tool_calls or []
    assert calls[0].type == "function"
    assert (calls[0].function.name, calls[0].function.arguments) == ("look", '{"at":1}')
    assert sum(bool(chunk.choices[0].delta.tool_calls) for chunk in chunks) == 1
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_unknown_fields_reach_ollama_unchanged(
    client: openai.AsyncOpenAI, sim: Simulator
) -> None:
    """JSON mode, a seed, and whatever a next version adds: value by value as it came."""
    answer = await client.chat.completions.create(
        model=MODEL,
        messages=[user("as JSON")],
        response_format={"type": "json_object"},
        seed=12345678901234567890,
        extra_body={"not_yet_invented": {"b": 1.0, "a": [1e3, "é"]}},
    )

    sent = sim.requests[-1].body
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
    assert b'"response_format":{"type":"json_object"}' in sent
    assert b'"seed":12345678901234567890' in sent
    assert b'"not_yet_invented":{"b":1.0,"a":[1000.0,"\xc3\xa9"]}' in sent


@pytest.mark.parametrize("path", ["/v1", "/v1/", "", "/"])
async def test_a_base_url_works_with_and_without_its_v1(gateway: Running, path: str) -> None:
    """Callers build both; every kind of call finds its route."""
    async with openai_at(gateway, path=path) as client:
        chat = await client.chat.completions.create(model=MODEL, messages=WELL)
        vectors = await client.embeddings.create(model=EMBEDDER, input="a")
        response = await client.responses.create(model=MODEL, input="SAY: yes")
        listed = await client.models.list()
        one = await client.models.retrieve(MODEL)

    assert chat.choices[0].message.content == "all is well"
    assert len(vectors.data[0].embedding) == 768
    assert response.output_text == "yes"
    assert one.id in [model.id for model in listed.data]


async def test_client_reuses_its_connection(client: openai.AsyncOpenAI, sim: Simulator) -> None:
    """Connections to Ollama are kept and used again, after streams too."""
    for stream in (False, True, False, True):
        answer: Any = await client.chat.completions.create(
            model=MODEL, messages=WELL, stream=stream
        )
        if stream:
            await answer.response.aread()

    assert len(seen_request(sim)) == 4
    assert sim.stats.connections <= 2  # one of them may be the catalogue's
