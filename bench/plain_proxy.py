"""What the plain reverse proxies of the benchmarks share: all but how one request is passed on.

They are as one writes them at first, with the defaults of aiohttp's server, under which a handler
runs on when its caller has gone, and with it the request to Ollama. The limits of aiohttp's client,
100 connections and 300 seconds, are lifted, as they must be for Ollama.
"""

import sys
from collections.abc import Awaitable, Callable

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

from bench.goodput.fast_loop import serve
from bench.goodput.processes import tell, until_alone

Forward = Callable[[ClientSession, web.Request, str], Awaitable[web.StreamResponse]]
"""Answers a request, which goes to that address of Ollama's."""


def serve_as_told(forward: Forward) -> None:
    """What a proxy's process does: its command line says where Ollama is, and the loop's scale."""
    upstream, scale = f"http://127.0.0.1:{sys.argv[1]}", float(sys.argv[2])
    serve(_serve(forward, upstream), scale=scale)


async def _serve(forward: Forward, upstream: str) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await forward(session, request, upstream + request.path_qs)
        except ClientError as error:
            raise web.HTTPBadGateway(text=str(error)) from None

    async with ClientSession(
        connector=TCPConnector(limit=0), timeout=ClientTimeout(total=None)
    ) as session:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        tell(runner.addresses[0][1])
        await until_alone()
