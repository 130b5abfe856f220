"""A plain reverse proxy that collects an answer before it passes it on.

    python -m bench.goodput.proxy UPSTREAM_PORT SCALE

``bench.plain_proxy`` says what it is like otherwise.
"""

from aiohttp import ClientSession, web

from bench.plain_proxy import serve_as_told


async def _forward(session: ClientSession, request: web.Request, target: str) -> web.Response:
    body = await request.read()
    kind = {"Content-Type": request.content_type}
    async with session.request(request.method, target, data=body, headers=kind) as reply:
        return web.Response(
            status=reply.status, body=await reply.read(), content_type=reply.content_type
        )


if __name__ == "__main__":
    serve_as_told(_forward)
