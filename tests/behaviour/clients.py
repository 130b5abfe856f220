"""Real clients, pointed at a gateway under test."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import anthropic
import ollama
import openai
from openai.types.chat import ChatCompletionMessageParam

from gateway.simulator import Simulator
from tests.harness import Running

REAL_OLLAMA = os.environ.get("GATEWAY_TEST_OLLAMA", "")  # noqa: TID251  - a switch for the person who runs the tests
"""Where a real Ollama listens, for the tests that can do without the simulated one."""

TIMEOUT = 300.0 if REAL_OLLAMA else 10.0
"""Seconds that a client waits: a real model may have to be loaded."""

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


@dataclass(slots=True)
class Clients:
    """One of each, none of which retries, each with the gateway's key in its own way.

    Made when first used: each reads all root certificates, which is most of a test's time.
    """

    gateway: Running
    stack: AsyncExitStack
    _openai: openai.AsyncOpenAI | None = None
    _anthropic: anthropic.AsyncAnthropic | None = None
    _ollama: ollama.AsyncClient | None = None

    @property
    def openai(self) -> openai.AsyncOpenAI:
        if self._openai is None:
            self._openai = openai_at(self.gateway)
            self.stack.push_async_exit(self._openai)
        return self._openai

    @property
    def anthropic(self) -> anthropic.AsyncAnthropic:
        if self._anthropic is None:
            self._anthropic = anthropic.AsyncAnthropic(
                base_url=self.gateway.url, api_key=self.gateway.key, max_retries=0, timeout=TIMEOUT
            )
            self.stack.push_async_exit(self._anthropic)
        return self._anthropic

    @property
    def ollama(self) -> ollama.AsyncClient:
        if self._ollama is None:
            self._ollama = ollama.AsyncClient(
                host=self.gateway.url, headers=self.gateway.bearer, timeout=TIMEOUT
            )
            self.stack.push_async_exit(self._ollama)
        return self._ollama


@asynccontextmanager
async def clients_of(gateway: Running) -> AsyncIterator[Clients]:
    async with AsyncExitStack() as stack:
        yield Clients(gateway, stack)


def openai_at(
    gateway: Running, *, key: str | None = None, retries: int = 0, path: str = "/v1"
) -> openai.AsyncOpenAI:
    """OpenAI's client with its ``base_url`` at ``path`` of the gateway."""
    return openai.AsyncOpenAI(
        base_url=gateway.url + path,
        api_key=key or gateway.key,
        max_retries=retries,
        timeout=TIMEOUT,
    )


def user(text: str) -> ChatCompletionMessageParam:
    """A message; the simulator generates what follows ``SAY:``."""
    return {"role": "user", "content": text}


def seen_request(simulator: Simulator) -> list[str]:
    """The paths of the inference requests that reached Ollama, in order."""
    return [each.path for each in simulator.requests if each.path in INFERENCE]
