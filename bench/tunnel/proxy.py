"""A plain reverse proxy that passes on what comes when it comes, and knows no tunnel.

    python -m bench.tunnel.proxy UPSTREAM_PORT SCALE

``bench.plain_proxy`` says what it is like otherwise.
"""

from aiohttp import ClientSession, web

from bench.plain_proxy import serve_as_told


async def _forward(session: ClientSession, request: web.Request, target: str) -> web.StreamResponse:
    body = await request.read()
    kind = {"Content-Type": request.content_type}
    async with session.request(request.method, target, data=body, headers=kind) as reply:
        answer = web.StreamResponse(status=reply.status)
        answer.content_type = reply.content_type
        await answer.prepare(request)
        async for data in reply.content.iter_any():
            await answer.write(data)
        await answer.write_eof()
        return answer


if __name__ == "__main__":
    serve_as_told(_forward)
