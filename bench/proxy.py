"""The proxy that one would write instead: aiohttp's server and client, bytes passed as they come.

    python -m bench.proxy UPSTREAM_PORT [--asyncio]

It has no keys, no queue, no clocks, no log and no opinion about how an answer ends. It prints its
port and serves until it is terminated.
"""

import asyncio
import sys
from collections.abc import Mapping

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from yarl import URL

from bench.loop import run_until_stopped

_HOP = frozenset({"connection", "keep-alive", "host", "te", "trailer", "transfer-encoding"})


def _passed_on(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers.items() if name.lower() not in _HOP]


async def _serve(port: int) -> None:
    target = URL(f"http://127.0.0.1:{port}")

    async def forward(request: web.Request) -> web.StreamResponse:
        async with session.request(
            request.method,
            target.join(request.rel_url),
            headers=_passed_on(request.headers),
            data=request.content if request.can_read_body else None,
            allow_redirects=False,
        ) as reply:
            response = web.StreamResponse(status=reply.status, headers=_passed_on(reply.headers))
            await response.prepare(request)
            async for data in reply.content.iter_any():
                await response.write(data)
            await response.write_eof()
            return response

    async with ClientSession(
        connector=TCPConnector(limit=0),
        timeout=ClientTimeout(total=None),
        cookie_jar=DummyCookieJar(),
        auto_decompress=False,
    ) as session:
        app = web.Application(handler_args={"handler_cancellation": True})
        app.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=2048)
        await site.start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    run_until_stopped(_serve(int(sys.argv[1])), uvloop="--asyncio" not in sys.argv)
