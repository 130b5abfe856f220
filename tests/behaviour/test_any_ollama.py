"""What holds of every Ollama: the simulated one, or the one that GATEWAY_TEST_OLLAMA names.

With ``GATEWAY_TEST_OLLAMA=http://127.0.0.1:11434`` these tests run against a real Ollama, with its
smallest model that chats and its smallest that embeds; a test whose kind of model is not pulled is
skipped.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.simulator import Simulator
from tests.behaviour.clients import REAL_OLLAMA, clients_of, user
from tests.conftest import left_empty
from tests.harness import Running, running

EMBEDDING = ("embed", "bert", "minilm")

pytestmark = pytest.mark.timeout(600 if REAL_OLLAMA else 60)


@pytest.fixture
async def before_ollama(tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway in front of whichever Ollama is meant."""
    if REAL_OLLAMA:
        async with running(REAL_OLLAMA, tmp_path) as gateway:
            yield gateway
            await left_empty(gateway)
        return
    async with Simulator(time_scale=0) as sim, running(sim.url, tmp_path) as gateway:
        yield gateway
        await left_empty(gateway)


async def listed(gateway: Running) -> list[dict[str, Any]]:
    async with httpx.AsyncClient(base_url=gateway.url, headers=gateway.bearer) as client:
        models = (await client.get("/api/tags")).json()["models"]
    return sorted(models, key=lambda model: int(model["size"]))


async def model_that(gateway: Running, *, embeds: bool) -> str:
    """The smallest model of the kind, by its name or family."""
    for model in await listed(gateway):
        name, family = model["name"], model["details"]["family"]
        if embeds is any(word in f"{name} {family}" for word in EMBEDDING):
            return str(name)
    pytest.skip("no model of this kind is pulled")


async def test_chat_response_is_complete_and_counted(before_ollama: Running) -> None:
    """Text, usage and a reason to end; the log has the same numbers."""
    model = await model_that(before_ollama, embeds=False)
    async with clients_of(before_ollama) as clients:
        answer = await clients.openai.chat.completions.create(
            model=model, messages=[user("Count to five.")], max_tokens=16
        )

    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in {"stop", "length"}
    assert answer.usage is not None
    (line,) = [line for line in await before_ollama.finished(2) if line["method"] == "POST"]
    assert line["tokens_out"] == answer.usage.completion_tokens


async def test_a_stream_ends_with_its_final_event(before_ollama: Running) -> None:
    """Piece by piece, to the end, without a complaint of the client's."""
    model = await model_that(before_ollama, embeds=False)
    async with clients_of(before_ollama) as clients:
        stream = await clients.openai.chat.completions.create(
            model=model, messages=[user("Count to five.")], max_tokens=16, stream=True
        )
        reasons = [choice.finish_reason async for chunk in stream for choice in chunk.choices]

    assert reasons[-1] in {"stop", "length"}


async def test_anthropic_client_works(before_ollama: Running) -> None:
    """The same model through the other dialect."""
    model = await model_that(before_ollama, embeds=False)
    async with clients_of(before_ollama) as clients:
        answer = await clients.anthropic.messages.create(
            model=model, max_tokens=16, messages=[{"role": "user", "content": "Count to five."}]
        )

    assert answer.content
    assert answer.stop_reason in {"end_turn", "max_tokens"}


async def test_ollama_client_works(before_ollama: Running) -> None:
    """Its own API, and what it says of the model."""
    model = await model_that(before_ollama, embeds=False)
    async with clients_of(before_ollama) as clients:
        answer = await clients.ollama.generate(model, "Count to five.", options={"num_predict": 16})
        shown = await clients.ollama.show(model)

    assert answer.done
    assert shown.details is not None
    assert shown.modelfile is None


async def test_text_is_embedded(before_ollama: Running) -> None:
    """As the SDK asks for it, in base64."""
    model = await model_that(before_ollama, embeds=True)
    async with clients_of(before_ollama) as clients:
        answer = await clients.openai.embeddings.create(model=model, input=["one", "two"])

    assert len(answer.data) == 2
    assert len(answer.data[0].embedding) > 1
