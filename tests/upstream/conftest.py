"""Every test of this folder runs on both event loops: sockets are where they differ."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from gateway.upstream import Upstream

from .requests import upstream_at
from .scripted import ScriptedServer


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    """A server on a free port that does what a test wrote down."""
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
async def upstream(server: ScriptedServer) -> AsyncIterator[Upstream]:
    """The gateway's client for that server."""
    async with upstream_at(server.url) as upstream:
        yield upstream
