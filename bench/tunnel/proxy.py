"""A plain reverse proxy on aiohttp that passes on what comes when it comes, and knows no tunnel.

    python -m bench.tunnel.proxy UPSTREAM_PORT SCALE

It has the defaults of aiohttp's server, under which a handler runs on when its caller has gone, and
with it the request to Ollama. The limits of its client are lifted, as they must be for Ollama.
"""

import sys

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

from bench.goodput.fast_loop import serve
from bench.goodput.processes import tell, until_alone


async def _serve(upstream: str) -> None:
    async def forward(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        try:
            async with session.request(
                request.method,
                upstream + request.path_qs,
                data=body,
                headers={"Content-Type": request.content_type},
            ) as reply:
                answer = web.StreamResponse(status=reply.status)
                answer.content_type = reply.content_type
                await answer.prepare(request)
                async for data in reply.content.iter_any():
                    await answer.write(data)
                await answer.write_eof()
                return answer
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
