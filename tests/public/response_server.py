"""A listener that sends scripted responses over real connections, without the rest of a gateway."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from gateway.dialects import OPENAI, Dialect
from gateway.errors import GatewayError
from gateway.public.body import MemoryBudget
from gateway.public.connection import Server
from gateway.public.response import Response
from gateway.settings import Settings
from tests.behaviour.wire import RawClient, RawResponse, raw_client, request

MIB = 1 << 20
EVENT = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'
SSE = [("Content-Type", "text/event-stream")]

Script = Callable[[Response], Awaitable[None]]


def settings_with(
    *, write_timeout: float = 5.0, read_ahead_bytes: int = MIB, late_error: str = "abort"
) -> Settings:
    """The settings that a response depends on."""
    return Settings.model_validate(
        {
            "timeouts": {"write_timeout": write_timeout},
            "limits": {"read_ahead_bytes": read_ahead_bytes},
            "tunnel": {"late_error": late_error},
        }
    )


@dataclass(slots=True)
class ResponseServer:
    """A server whose handler follows ``script``, and what became of each response."""

    script: Script
    settings: Settings = field(default_factory=settings_with)
    dialect: Dialect = OPENAI
    memory_budget: MemoryBudget = field(default_factory=lambda: MemoryBudget(64 * MIB))
    port: int = 0
    responses: list[Response] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        with self.memory_budget.reservation() as reservation:
            response = Response(
                request,
                self.dialect,
                request_id="req_1",
                reservation=reservation,
                settings=self.settings,
            )
            self.responses.append(response)
            try:
                await self.script(response)
            except (GatewayError, asyncio.CancelledError) as error:
                self.errors.append(error)
                response.abort()
            finally:
                self.over.set()
            return response.aiohttp_response

    async def wait_until_over(self) -> None:
        async with asyncio.timeout(5):
            await self.over.wait()


@asynccontextmanager
async def connected(served: ResponseServer) -> AsyncIterator[RawClient]:
    """One client of ``served``."""

    def unexpected(_: object) -> str:
        raise AssertionError("all requests are valid HTTP, and no script crashes")

    server = Server(
        served.handle,
        settings=served.settings,
        record_bad_request=unexpected,
        record_crash=unexpected,
    )
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    served.port = listener.sockets[0].getsockname()[1]
    try:
        async with raw_client(served.port, limit=1 << 16) as client:
            yield client
    finally:
        listener.close()
        await server.shutdown(0.1)


async def fetch(script: Script, *, method: str = "POST", dialect: Dialect = OPENAI) -> RawResponse:
    """What one client gets."""
    async with connected(ResponseServer(script, dialect=dialect)) as client:
        client.send(request("/", None, method=method))
        return await client.response(method)


def stream(*steps: bytes | GatewayError | None) -> Script:
    """A stream of these pieces; None ends it, an error fails it."""

    async def script(response: Response) -> None:
        scanner = response.dialect.scanner()
        await response.begin_stream(200, SSE, length=None, scanner=scanner)
        for step in steps:
            if step is None:
                await response.end()
            elif isinstance(step, bytes):
                scanner.feed(step)
                await response.write(step)
            else:
                await response.fail(step)

    return script
