"""The clients that people use, pointed at a gateway under test."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import anthropic
import ollama
import openai
from openai.types.chat import ChatCompletionMessageParam

from gateway.simulator import Simulator
from tests.harness import Running

MODEL = "llama3.2:1b"
EMBEDDER = "nomic-embed-text"

INFERENCE = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
        "/api/chat",
        "/api/generate",
        "/api/embed",
        "/api/embeddings",
    }
)


@dataclass(frozen=True, slots=True)
class Clients:
    """One of each, none of which repeats a failed request."""

    openai: openai.AsyncOpenAI
    anthropic: anthropic.AsyncAnthropic
    ollama: ollama.AsyncClient


@asynccontextmanager
async def clients_of(gateway: Running) -> AsyncIterator[Clients]:
    """The clients, each with the gateway's own key presented in its own way."""
    async with AsyncExitStack() as stack:
        yield Clients(
            await stack.enter_async_context(openai_at(gateway)),
            await stack.enter_async_context(
                anthropic.AsyncAnthropic(
                    base_url=gateway.url, api_key=gateway.key, max_retries=0, timeout=10
                )
            ),
            await stack.enter_async_context(
                ollama.AsyncClient(host=gateway.url, headers=gateway.bearer, timeout=10)
            ),
        )


def openai_at(
    gateway: Running, *, key: str | None = None, retries: int = 0, path: str = "/v1"
) -> openai.AsyncOpenAI:
    """OpenAI's client with its ``base_url`` at ``path`` of the gateway."""
    return openai.AsyncOpenAI(
        base_url=gateway.url + path, api_key=key or gateway.key, max_retries=retries, timeout=10
    )


def user(text: str) -> ChatCompletionMessageParam:
    """A message; the simulator says whatever follows ``SAY:``."""
    return {"role": "user", "content": text}


def asked(simulator: Simulator) -> list[str]:
    """The paths of the inference requests that reached Ollama, in order."""
    return [each.path for each in simulator.requests if each.path in INFERENCE]
