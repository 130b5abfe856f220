"""Anthropic's Python SDK, unchanged, through the gateway. It sends its key as ``x-api-key``."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import anthropic
import pytest
from anthropic.types import MessageParam

from gateway.simulator import Fault, Simulator
from tests.conftest import left_empty
from tests.harness import Running, running

from .clients import MODEL, clients_of, seen_request

WELL: list[MessageParam] = [{"role": "user", "content": "SAY: all is well"}]


@pytest.fixture
async def client(gateway: Running) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with clients_of(gateway) as clients:
        yield clients.anthropic


async def test_message_gets_a_response(client: anthropic.AsyncAnthropic, sim: Simulator) -> None:
    """Text, stop reason and usage; the key itself stays with us."""
    answer = await client.messages.create(model=MODEL, max_tokens=50, messages=WELL)

    assert answer.content[0].type == "text"
    assert answer.content[0].text == "all is well"
    assert (answer.stop_reason, answer.usage.output_tokens) == ("end_turn", 3)
    assert sim.requests[-1].header("x-api-key") is None


async def test_stream_has_the_same_text(client: anthropic.AsyncAnthropic) -> None:
    """Piece by piece, to ``message_stop``."""
    async with client.messages.stream(model=MODEL, max_tokens=50, messages=WELL) as stream:
        pieces = [text async for text in stream.text_stream]
        answer = await stream.get_final_message()

    assert pieces == ["all", " is", " well"]
    assert (answer.stop_reason, answer.usage.output_tokens) == ("end_turn", 3)


def test_the_synchronous_client_works_alike(tmp_path: Path) -> None:
    """With a bearer token, which is its other way to say who asks."""

    def call(gateway: Running) -> str:
        with (
            anthropic.Anthropic(base_url=gateway.url, auth_token=gateway.key) as client,
            client.messages.stream(model=MODEL, max_tokens=50, messages=WELL) as stream,
        ):
            return stream.get_final_text()

    async def scene() -> str:
        async with Simulator(time_scale=0) as sim, running(sim.url, tmp_path) as gateway:
            said = await asyncio.to_thread(call, gateway)
            await left_empty(gateway)
            return said

    assert asyncio.run(scene()) == "all is well"


async def test_the_beta_client_works_alike(client: anthropic.AsyncAnthropic) -> None:
    """It adds ``?beta=true`` to the path, which says nothing to Ollama and nothing to us."""
    answer = await client.beta.messages.create(
        model=MODEL, max_tokens=50, messages=[{"role": "user", "content": "SAY: all is well"}]
    )

    assert answer.content[0].type == "text"
    assert answer.content[0].text == "all is well"


async def test_thinking_and_tools_are_content_blocks(client: anthropic.AsyncAnthropic) -> None:
    """Streamed: thinking before the text, and a tool with its input."""
    async with client.messages.stream(
        model="deepseek-r1:8b",
        max_tokens=50,
        messages=[{"role": "user", "content": "SAY: yes"}],
    ) as stream:
        thought = await stream.get_final_message()
    async with client.messages.stream(
        model=MODEL,
        max_tokens=50,
        messages=[{"role": "user", "content": 'CALL_TOOL {"at": 1}'}],
        tools=[{"name": "look", "input_schema": {"type": "object"}}],
    ) as stream:
        called = await stream.get_final_message()

    assert [block.type for block in thought.content] == ["thinking", "text"]
    assert called.content[0].type == "tool_use"
    assert called.content[0].input == {"at": 1}


@pytest.mark.parametrize(
    ("key", "model", "error", "kind"),
    [
        ("nonsense", MODEL, anthropic.AuthenticationError, "authentication_error"),
        (None, "nope", anthropic.NotFoundError, "not_found_error"),
        (None, "gpt-oss:120b-cloud", anthropic.PermissionDeniedError, "permission_error"),
        (None, "", anthropic.BadRequestError, "invalid_request_error"),
    ],
)
async def test_errors_raise_the_exceptions_of_the_sdk(
    gateway: Running,
    key: str | None,
    model: str,
    error: type[anthropic.APIStatusError],
    kind: str,
) -> None:
    """In Anthropic's own shape and words, with the id that the log has."""
    async with anthropic.AsyncAnthropic(
        base_url=gateway.url, api_key=key or gateway.key, max_retries=0
    ) as client:
        with pytest.raises(error) as caught:
            await client.messages.create(model=model, max_tokens=50, messages=WELL)
    (line,) = await gateway.finished()

    body = caught.value.body
    assert isinstance(body, dict)
    assert body["type"] == "error"
    assert body["error"]["type"] == kind
    assert body["request_id"] == caught.value.response.headers["x-request-id"]
    assert body["request_id"] == line["request_id"]


async def test_web_search_does_not_leave_the_machine(
    client: anthropic.AsyncAnthropic, sim: Simulator
) -> None:
    """Ollama itself would query ollama.com as the owner; it is not even asked."""
    with pytest.raises(anthropic.PermissionDeniedError, match=r"ollama\.com"):
        await client.messages.create(
            model=MODEL,
            max_tokens=50,
            messages=WELL,
            tools=[{"type": "web_search_20250305", "name": "web_search"}],
        )

    assert seen_request(sim) == []


async def test_counting_tokens_is_not_served(client: anthropic.AsyncAnthropic) -> None:
    """Ollama has no such route, and neither have we: an honest 404."""
    with pytest.raises(anthropic.NotFoundError):
        await client.messages.count_tokens(model=MODEL, messages=WELL)


async def test_timeout_is_not_retried(sim: Simulator, tmp_path: Path) -> None:
    """With its retries on: the SDK obeys ``x-should-retry`` too."""
    async with running(sim.url, tmp_path, timeouts={"first_byte_timeout": 0.2}) as gateway:
        async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key=gateway.key) as client:
            with sim.hold(), pytest.raises(anthropic.APIStatusError) as caught:
                await client.messages.create(model=MODEL, max_tokens=50, messages=WELL, stream=True)
        lines = await gateway.finished()
        await left_empty(gateway)

    assert caught.value.status_code == 504
    assert [line["outcome"] for line in lines] == ["upstream_first_byte_timeout"]


async def test_ollama_error_passes_unchanged(
    client: anthropic.AsyncAnthropic, sim: Simulator, gateway: Running
) -> None:
    """Body and status as Ollama wrote them."""
    words = (
        b'{"type":"error","error":{"type":"api_error","message":"out of luck"},"request_id":"a"}'
    )
    sim.fault(Fault.status(500, words))
    with pytest.raises(anthropic.InternalServerError, match="out of luck"):
        await client.messages.create(model=MODEL, max_tokens=50, messages=WELL)
    (line,) = await gateway.finished()

    assert (line["outcome"], line["error"]) == ("upstream_5xx", "out of luck")
