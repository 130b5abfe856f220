"""Answers on a real connection, without the rest of the gateway."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from gateway.dialects import OPENAI, Dialect
from gateway.errors import (
    GatewayError,
)
from gateway.public.connection import ConnectionLimits, Server
from gateway.public.memory import MemoryBudget
from gateway.public.response import Response
from gateway.public.writer import Pace
from tests.behaviour.wire import Caller, Told, caller, request

MIB = 1 << 20
PACE = Pace(write_timeout=5.0, answer_bytes=MIB)
EVENT = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'
SSE = [("Content-Type", "text/event-stream")]

Story = Callable[[Response], Awaitable[None]]


@dataclass(slots=True)
class Stage:
    """A listener whose handler follows ``story``, and what became of each answer."""

    story: Story
    pace: Pace = PACE
    dialect: Dialect = OPENAI
    memory_budget: MemoryBudget = field(default_factory=lambda: MemoryBudget(64 * MIB))
    late_object: bool = False
    port: int = 0
    answers: list[Response] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        with self.memory_budget.reservation() as share:
            answer = Response(
                request,
                self.dialect,
                share=share,
                pace=self.pace,
                late_object=self.late_object,
            )
            answer.headers["x-request-id"] = "req_1"
            self.answers.append(answer)
            try:
                await self.story(answer)
            except (GatewayError, asyncio.CancelledError) as error:
                self.errors.append(error)
                answer.abort()
            finally:
                self.over.set()
            return answer.response

    async def is_over(self) -> None:
        async with asyncio.timeout(5):
            await self.over.wait()


@asynccontextmanager
async def staged(stage: Stage) -> AsyncIterator[Caller]:
    """One caller of ``stage``."""

    def unread(_: object) -> str:
        raise AssertionError("what is sent here is good HTTP, and no story crashes")

    limits = ConnectionLimits(connections=9, head_timeout=5.0, keepalive_timeout=5.0)
    server = Server(stage.handle, limits=limits, unreadable=unread, crashed=unread)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    stage.port = listener.sockets[0].getsockname()[1]
    try:
        async with caller(stage.port, limit=1 << 16) as one:
            yield one
    finally:
        listener.close()
        await server.shutdown(0.1)


async def told(story: Story, *, method: str = "POST", dialect: Dialect = OPENAI) -> Told:
    """What one caller gets."""
    async with staged(Stage(story, dialect=dialect)) as one:
        one.send(request("/", None, method=method))
        return await one.answer(method)


def stream(*steps: bytes | GatewayError | None) -> Story:
    """A stream of these pieces; None ends it, an error fails it."""

    async def story(answer: Response) -> None:
        scanner = answer.dialect.scanner()
        await answer.begin_stream(200, SSE, length=None, scanner=scanner)
        for step in steps:
            if step is None:
                await answer.end()
            elif isinstance(step, bytes):
                scanner.feed(step)
                await answer.write(step)
            else:
                await answer.fail(step, "req_1")

    return story
