"""Asking a server through the gateway's own client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from yarl import URL

from gateway.timeouts import Deadlines
from gateway.upstream import Outgoing, Upstream

GET = Outgoing("GET", "/api/tags")
POST = Outgoing("POST", "/v1/chat/completions", b'{"model":"m"}', "req_1")


def timeouts(**changes: float) -> Deadlines:
    """Deadlines of which none is reached in a test that did not ask for it."""
    named = {name.removesuffix("_timeout"): seconds for name, seconds in changes.items()}
    long = dict.fromkeys(
        ("queue", "connect", "first_byte", "first_byte_loaded", "idle", "total", "write"), 30.0
    )
    return msgspec.convert({**long, **named}, Deadlines)


@asynccontextmanager
async def upstream_at(url: URL) -> AsyncIterator[Upstream]:
    upstream = Upstream(url, version="test")
    async with upstream.pool:
        yield upstream
        lent = repr(upstream.pool)

    assert "0 lent" in lent


async def ask(upstream: Upstream, request: Outgoing = POST, **changes: Any) -> tuple[int, bytes]:
    """Status and whole body of one request."""
    return await upstream.fetch(request, timeouts(**changes))
