"""Every family of calls that generates text, asked by the client that people use for it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from .clients import MODEL, Clients, user

WORDS = "SAY: one two three four"
TURN: Any = [{"role": "user", "content": WORDS}]


@dataclass(frozen=True, slots=True)
class Family:
    """One family of calls, and how its client is asked: for a whole answer, or for its pieces."""

    path: str
    body: dict[str, Any]
    complete: Callable[[Clients], Awaitable[str | None]]
    pieces: Callable[[Clients], AsyncIterator[str | None]]

    def __str__(self) -> str:
        return self.path.removeprefix("/").replace("/", "-")

    async def stream(self, clients: Clients, said: list[str]) -> None:
        """Put down each piece as it comes, so that they are there when the stream breaks."""
        async for piece in self.pieces(clients):
            said.append(piece or "")  # noqa: PERF401  - a comprehension would lose them then


async def chat_complete(clients: Clients) -> str | None:
    answer = await clients.openai.chat.completions.create(model=MODEL, messages=[user(WORDS)])
    return answer.choices[0].message.content


async def chat_pieces(clients: Clients) -> AsyncIterator[str | None]:
    stream = await clients.openai.chat.completions.create(
        model=MODEL, messages=[user(WORDS)], stream=True
    )
    async for chunk in stream:
        yield chunk.choices[0].delta.content


async def completions_complete(clients: Clients) -> str | None:
    return (await clients.openai.completions.create(model=MODEL, prompt=WORDS)).choices[0].text


async def completions_pieces(clients: Clients) -> AsyncIterator[str | None]:
    completions = clients.openai.completions
    async for chunk in await completions.create(model=MODEL, prompt=WORDS, stream=True):
        yield chunk.choices[0].text


async def responses_complete(clients: Clients) -> str | None:
    return (await clients.openai.responses.create(model=MODEL, input=WORDS)).output_text


async def responses_pieces(clients: Clients) -> AsyncIterator[str | None]:
    responses = clients.openai.responses
    async for event in await responses.create(model=MODEL, input=WORDS, stream=True):
        if event.type == "response.output_text.delta":
            yield event.delta


async def messages_complete(clients: Clients) -> str | None:
    answer = await clients.anthropic.messages.create(model=MODEL, max_tokens=50, messages=TURN)
    block = answer.content[0]
    return block.text if block.type == "text" else None


async def messages_pieces(clients: Clients) -> AsyncIterator[str | None]:
    async with clients.anthropic.messages.stream(
        model=MODEL, max_tokens=50, messages=TURN
    ) as stream:
        async for text in stream.text_stream:
            yield text
        await stream.get_final_message()


async def native_chat_complete(clients: Clients) -> str | None:
    return (await clients.ollama.chat(MODEL, TURN)).message.content


async def native_chat_pieces(clients: Clients) -> AsyncIterator[str | None]:
    async for part in await clients.ollama.chat(MODEL, TURN, stream=True):
        yield part.message.content


async def generate_complete(clients: Clients) -> str | None:
    return (await clients.ollama.generate(MODEL, WORDS)).response


async def generate_pieces(clients: Clients) -> AsyncIterator[str | None]:
    async for part in await clients.ollama.generate(MODEL, WORDS, stream=True):
        yield part.response


CHAT = Family(
    "/v1/chat/completions", {"model": MODEL, "messages": TURN}, chat_complete, chat_pieces
)
COMPLETIONS = Family(
    "/v1/completions", {"model": MODEL, "prompt": WORDS}, completions_complete, completions_pieces
)
RESPONSES = Family(
    "/v1/responses", {"model": MODEL, "input": WORDS}, responses_complete, responses_pieces
)
MESSAGES = Family(
    "/v1/messages",
    {"model": MODEL, "messages": TURN, "max_tokens": 50},
    messages_complete,
    messages_pieces,
)
NATIVE_CHAT = Family(
    "/api/chat", {"model": MODEL, "messages": TURN}, native_chat_complete, native_chat_pieces
)
GENERATE = Family(
    "/api/generate", {"model": MODEL, "prompt": WORDS}, generate_complete, generate_pieces
)

EVERY_FAMILY = pytest.mark.parametrize(
    "family", [CHAT, COMPLETIONS, RESPONSES, MESSAGES, NATIVE_CHAT, GENERATE], ids=str
)
