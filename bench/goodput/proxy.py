"""A plain reverse proxy on aiohttp, as one writes it at first: with the defaults of its server.

    python -m bench.goodput.proxy UPSTREAM_PORT SCALE

The default that matters: a handler runs on when its caller has gone, and with it the request to
Ollama. aiohttp's limits of 100 connections and 300 seconds are lifted, as they must be for Ollama.
"""

import sys

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

from bench.goodput.fast_loop import serve
from bench.goodput.processes import tell, until_alone


async def _serve(upstream: str) -> None:
    async def forward(request: web.Request) -> web.Response:
        body = await request.read()
        kind = {"Content-Type": request.content_type}
        try:
            async with session.request(
                request.method, upstream + request.path_qs, data=body, headers=kind
            ) as reply:
                return web.Response(
                    status=reply.status,
                    body=await reply.read(),
                    content_type=reply.content_type,
                )
        except ClientError as error:
            raise web.HTTPBadGateway(text=str(error)) from None

    async with ClientSession(
        connector=TCPConnector(limit=0), timeout=ClientTimeout(total=None)
    ) as session:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        tell(runner.addresses[0][1])
        await until_alone()


if __name__ == "__main__":
    serve(_serve(f"http://127.0.0.1:{sys.argv[1]}"), scale=float(sys.argv[2]))
