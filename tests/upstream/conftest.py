"""Every test of this folder runs on both event loops: sockets are where they differ."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from .scripted import Scripted


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    """A server on a free port that does what a test wrote down."""
    async with Scripted() as server:
        yield server
