"""The clients that people use find nothing strange about the simulator."""

from collections.abc import AsyncIterator

import anthropic
import ollama
import openai
import pytest
from anthropic.types import MessageParam
from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionUserMessageParam
from openai.types.responses import FunctionToolParam

from gateway.simulator import Fault, Simulator

MODEL = "llama3.2:1b"
USER = {"role": "user", "content": "SAY: all is well"}


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator() as running:
        yield running


@pytest.fixture
async def openai_client(sim: Simulator) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{sim.url}/v1", api_key="x", max_retries=0, timeout=10
    ) as client:
        yield client


@pytest.fixture
async def anthropic_client(sim: Simulator) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        base_url=sim.url, api_key="x", max_retries=0, timeout=10
    ) as client:
        yield client


@pytest.fixture
async def ollama_client(sim: Simulator) -> AsyncIterator[ollama.AsyncClient]:
    client = ollama.AsyncClient(host=sim.url, timeout=10)
    yield client
    await client._client.aclose()


def user(text: str) -> ChatCompletionUserMessageParam:
    return {"role": "user", "content": text}


async def test_openai_chat_and_stream(openai_client: openai.AsyncOpenAI) -> None:
    """Streaming and non-streaming give the same text, with usage."""
    messages = [user("SAY: all is well")]
    complete = await openai_client.chat.completions.create(model=MODEL, messages=messages)
    stream = await openai_client.chat.completions.create(
        model=MODEL, messages=messages, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]

    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert complete.choices[0].message.content == text == "all is well"
    assert complete.usage == chunks[-1].usage


async def test_openai_tools(openai_client: openai.AsyncOpenAI) -> None:
    """Tool calls arrive as objects of the SDK, streaming or not."""
    tool: ChatCompletionFunctionToolParam = {"type": "function", "function": {"name": "look"}}
    messages = [user("CALL_TOOL up")]
    completions = openai_client.chat.completions
    complete = await completions.create(model=MODEL, messages=messages, tools=[tool])
    stream = await completions.create(model=MODEL, messages=messages, tools=[tool], stream=True)
    chunks = [chunk async for chunk in stream]

    calls = complete.choices[0].message.tool_calls or []
    assert calls[0].type == "function"
    assert (calls[0].function.name, calls[0].function.arguments) == ("look", '{"text":"up"}')
    assert len([chunk for chunk in chunks if chunk.choices[0].delta.tool_calls]) == 1
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_openai_models_embeddings_completions(openai_client: openai.AsyncOpenAI) -> None:
    """Lists, vectors in the SDK's base64, and legacy completions."""
    models = [model.id async for model in openai_client.models.list()]
    one = await openai_client.models.retrieve(MODEL)
    vectors = await openai_client.embeddings.create(model="nomic-embed-text", input=["a", "b"])
    text = await openai_client.completions.create(model=MODEL, prompt="SAY: yes")

    assert one.id in models
    assert [len(entry.embedding) for entry in vectors.data] == [768, 768]
    assert text.choices[0].text == "yes"


async def test_openai_responses(openai_client: openai.AsyncOpenAI) -> None:
    """Non-streaming, and a stream that completes."""
    complete = await openai_client.responses.create(model=MODEL, input="SAY: all is well")
    stream = await openai_client.responses.create(
        model=MODEL, input="SAY: all is well", stream=True
    )
    events = [event.type async for event in stream]

    assert complete.output_text == "all is well"
    assert events[0] == "response.created"
    assert events[-1] == "response.completed"


async def test_openai_responses_with_thoughts_and_tools(openai_client: openai.AsyncOpenAI) -> None:
    """Thinking and tool calls are items of their own."""
    thought = await openai_client.responses.create(model="deepseek-r1:8b", input="SAY: yes")
    tool: FunctionToolParam = {
        "type": "function",
        "name": "look",
        "parameters": {},
        "strict": False,
    }
    stream = await openai_client.responses.create(
        model=MODEL,
        input="CALL_TOOL",
        tools=[tool],
        stream=True,
    )
    events = [event.type async for event in stream]

    assert [item.type for item in thought.output] == ["reasoning", "message"]
    assert "response.function_call_arguments.done" in events


async def test_openai_errors(openai_client: openai.AsyncOpenAI) -> None:
    """A missing model raises the SDK's NotFoundError."""
    with pytest.raises(openai.NotFoundError, match="model 'nope' not found"):
        await openai_client.chat.completions.create(
            model="nope", messages=[{"role": "user", "content": "x"}]
        )


async def test_openai_takes_a_dead_runner_for_a_normal_end(
    sim: Simulator, openai_client: openai.AsyncOpenAI
) -> None:
    """The problem that the gateway solves: half a stream raises nothing."""
    sim.fault(Fault.die(after_tokens=2))
    stream = await openai_client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "SAY: one two three"}], stream=True
    )
    chunks = [chunk async for chunk in stream]

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two"
    assert chunks[-1].choices[0].finish_reason is None


async def test_anthropic_messages(anthropic_client: anthropic.AsyncAnthropic) -> None:
    """Non-streaming and streaming, with their stop reason."""
    messages: list[MessageParam] = [{"role": "user", "content": "SAY: all is well"}]
    complete = await anthropic_client.messages.create(model=MODEL, max_tokens=50, messages=messages)
    async with anthropic_client.messages.stream(
        model=MODEL,
        max_tokens=50,
        messages=messages,
    ) as stream:
        streamed = await stream.get_final_message()

    assert complete.content[0].type == streamed.content[0].type == "text"
    assert complete.content[0].text == streamed.content[0].text == "all is well"
    assert complete.stop_reason == streamed.stop_reason == "end_turn"
    assert complete.usage.output_tokens == streamed.usage.output_tokens == 3


async def test_anthropic_thinking_and_tools(anthropic_client: anthropic.AsyncAnthropic) -> None:
    """A thinking block, then a tool use block."""
    async with anthropic_client.messages.stream(
        model="deepseek-r1:8b",
        max_tokens=50,
        messages=[{"role": "user", "content": "SAY: yes"}],
    ) as stream:
        thought = await stream.get_final_message()
    async with anthropic_client.messages.stream(
        model=MODEL,
        max_tokens=50,
        messages=[{"role": "user", "content": 'CALL_TOOL {"at": 1}'}],
        tools=[{"name": "look", "input_schema": {"type": "object"}}],
    ) as stream:
        called = await stream.get_final_message()

    assert [block.type for block in thought.content] == ["thinking", "text"]
    assert called.content[0].type == "tool_use"
    assert called.content[0].input == {"at": 1}
    assert called.stop_reason == "tool_use"


async def test_ollama_lists(ollama_client: ollama.AsyncClient) -> None:
    """Ollama's own library reads list, show and ps."""
    listed = await ollama_client.list()
    shown = await ollama_client.show(MODEL)
    await ollama_client.generate(MODEL, "hi")
    running = await ollama_client.ps()

    assert MODEL in [model.model for model in listed.models]
    assert shown.details is not None
    assert shown.details.parameter_size == "1.2B"
    assert [model.model for model in running.models] == [MODEL]


async def test_ollama_chat_and_generate(ollama_client: ollama.AsyncClient) -> None:
    """Non-streaming and streaming, with the statistics at the end."""
    complete = await ollama_client.chat(MODEL, [USER])
    parts = [part async for part in await ollama_client.chat(MODEL, [USER], stream=True)]
    text = await ollama_client.generate(MODEL, "SAY: yes")

    assert complete.message.content == "".join(part.message.content or "" for part in parts)
    assert complete.message.content == "all is well"
    assert parts[-1].done
    assert parts[-1].eval_count == 3
    assert text.response == "yes"
    assert text.context


async def test_ollama_embeddings_and_tools(ollama_client: ollama.AsyncClient) -> None:
    """Both embedding routes, and a tool call with its arguments."""
    vectors = await ollama_client.embed("nomic-embed-text", ["a", "b"])
    older = await ollama_client.embeddings("nomic-embed-text", "a")
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    called = await ollama_client.chat(
        MODEL, [{"role": "user", "content": 'CALL_TOOL {"at": 1}'}], tools=[tool]
    )

    assert [len(vector) for vector in vectors.embeddings] == [768, 768]
    assert list(older.embedding) == pytest.approx(list(vectors.embeddings[0]), abs=1e-6)
    assert called.message.tool_calls is not None
    assert called.message.tool_calls[0].function.arguments == {"at": 1}


async def test_ollama_errors(ollama_client: ollama.AsyncClient) -> None:
    """Errors have Ollama's status and message."""
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as caught:
        await ollama_client.chat("nope", [USER])

    assert caught.value.status_code == 404
