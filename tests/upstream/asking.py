"""Asking a server through the gateway's own client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from yarl import URL

from gateway.timeouts import RequestTimeouts
from gateway.upstream import Outgoing, Upstream

GET = Outgoing("GET", "/api/tags")
POST = Outgoing("POST", "/v1/chat/completions", b'{"model":"m"}', "req_1")


def timeouts(**changes: Any) -> RequestTimeouts:
    """Clocks of which none rings in a test that did not ask for it."""
    long = {
        "queue_timeout": 30.0,
        "connect_timeout": 30.0,
        "first_byte_timeout": 30.0,
        "idle_timeout": 30.0,
        "total_timeout": 30.0,
        "write_timeout": 30.0,
    }
    return RequestTimeouts(**{**long, **changes})


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
