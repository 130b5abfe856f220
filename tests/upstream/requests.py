"""Requests to a server through the gateway's own client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from yarl import URL

from gateway.timeouts import Deadlines
from gateway.upstream import Outgoing, Upstream

GET = Outgoing("GET", "/api/tags")
POST = Outgoing("POST", "/v1/chat/completions", b'{"model":"m"}', "req_1")


def deadlines(**changes: float) -> Deadlines:
    """Timeouts that are too long to pass, except those that a test sets."""
    names = ("queue", "connect", "first_byte", "first_byte_loaded", "idle", "total", "write")
    return msgspec.convert({**dict.fromkeys(names, 30.0), **changes}, Deadlines)


@asynccontextmanager
async def upstream_at(url: URL) -> AsyncIterator[Upstream]:
    upstream = Upstream(url, version="test")
    async with upstream:
        yield upstream
        state = repr(upstream)

    assert "0 in use" in state


async def fetch(
    upstream: Upstream, request: Outgoing = POST, **changes: float
) -> tuple[int, bytes]:
    """Return status and complete body of one response."""
    return await upstream.fetch(request, deadlines(**changes))
