"""On which event loops these tests run."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Modules with ``BOTH_LOOPS = True`` are about sockets, where the two loops differ."""
    module = item.getparent(pytest.Module)
    default = {"asyncio": asyncio.new_event_loop}
    if module is not None and getattr(module.obj, "BOTH_LOOPS", False):
        return {**default, "uvloop": uvloop.new_event_loop}
    return default
