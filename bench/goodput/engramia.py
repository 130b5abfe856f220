"""A caller as Engramia is one: the OpenAI SDK as it comes, and Engramia's own retries around it.

Three attempts with pauses of 1 and 2 s, on everything but 400, 401 and 403; each of them the SDK's
three, with its own backoff, and with its obedience to ``Retry-After`` and ``x-should-retry``.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from openai import (
    APIConnectionError,
    APIError,
    AsyncOpenAI,
    AuthenticationError,
    BadRequestError,
    DefaultAsyncHttpxClient,
    PermissionDeniedError,
)

from bench.goodput.world import Model

_PAUSES: Final = (1.0, 2.0, 0.0)
_FINAL: Final = (BadRequestError, AuthenticationError, PermissionDeniedError)


@dataclass(slots=True)
class Call:
    """One logical call; ``ended_at`` is None while it is open. ``tokens`` 0 means: no answer."""

    model: Model
    began_at: float
    ended_at: float | None = None
    tokens: int = 0


ABORTED: Final = "aborted"
"""Of a response that ended without its end: how a gateway fails that has sent heartbeats."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error status, or ``ABORTED``, ``after`` so many seconds from its request.

    One for each request: what a logical call waits between its requests does not count.
    """

    code: str
    after: float


@dataclass(slots=True)
class Journal:
    """What all callers of a run have seen so far: all of its mutable state is here."""

    calls: list[Call] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    requests: int = 0
    unreachable: int = 0

    def clear(self) -> None:
        """Forget what was seen."""
        self.calls.clear()
        self.refusals.clear()
        self.requests = self.unreachable = 0


class Engramia:
    """One client: a base URL and a key."""

    def __init__(self, client: AsyncOpenAI, journal: Journal) -> None:
        self._client = client
        self._journal = journal
        self._now = asyncio.get_running_loop().time

    async def ask(self, model: Model, prompt: str, *, stream: bool = False) -> None:
        """One logical call, to its end. Engramia itself never streams."""
        call = Call(model, self._now())
        self._journal.calls.append(call)
        for pause in _PAUSES:
            try:
                attempt = self._streamed if stream else self._attempt
                call.tokens = await attempt(model, prompt)
                break
            except _FINAL:
                break
            except APIError as error:
                self._journal.unreachable += type(error) is APIConnectionError
            await asyncio.sleep(pause)
        call.ended_at = self._now()

    async def _attempt(self, model: Model, prompt: str) -> int:
        answer = await self._client.chat.completions.create(
            model=model.name,
            messages=[{"role": "user", "content": prompt}],
            timeout=model.client_timeout,
        )
        assert answer.choices[0].message.content
        assert answer.usage is not None
        return answer.usage.completion_tokens

    async def _streamed(self, model: Model, prompt: str) -> int:
        stream = await self._client.chat.completions.create(
            model=model.name,
            messages=[{"role": "user", "content": prompt}],
            timeout=model.client_timeout,
            stream=True,
            stream_options={"include_usage": True},
        )
        usage = None
        async for event in stream:
            usage = event.usage or usage
        assert usage is not None
        return usage.completion_tokens


@asynccontextmanager
async def engramia(port: int, key: str, journal: Journal) -> AsyncIterator[Engramia]:
    """A client of this port, with its connections."""
    now = asyncio.get_running_loop().time

    async def on_request(request: Any) -> None:
        request.extensions["sent_at"] = now()
        journal.requests += 1

    async def on_response(reply: Any) -> None:
        sent_at = reply.request.extensions["sent_at"]
        if reply.status_code < 400:
            reply.aread = partial(read, reply.aread, sent_at)
            return
        after = now() - sent_at
        await reply.aread()
        journal.refusals.append(Refusal(_code(reply), after))

    async def read(aread: Callable[[], Awaitable[bytes]], sent_at: float) -> bytes:
        try:
            return await aread()
        except Exception as error:
            # By name: newer SDKs bring another httpx along.
            if type(error).__name__ == "RemoteProtocolError":
                journal.refusals.append(Refusal(ABORTED, now() - sent_at))
            raise

    hooks: dict[str, list[Callable[..., Any]]] = {
        "request": [on_request],
        "response": [on_response],
    }
    async with (
        DefaultAsyncHttpxClient(event_hooks=hooks) as http,
        AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key=key, http_client=http
        ) as client,
    ):
        yield Engramia(client, journal)


def _code(reply: Any) -> str:
    """The word for it, or the status where there is none."""
    try:
        code = reply.json()["error"]["code"]
    except (ValueError, TypeError, KeyError):
        code = None
    return str(code or reply.status_code)
