import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.telemetry.log import FOREIGN_LOGGERS
from gateway.telemetry.record import FinishedRequest, Phase

MakeFacts = Callable[..., FinishedRequest]


@pytest.fixture
def facts() -> MakeFacts:
    def make(**changes: Any) -> FinishedRequest:
        known: dict[str, Any] = {
            "request_id": "r-1",
            "method": "POST",
            "route": "/v1/chat/completions",
            "outcome": "ok",
            "phase": Phase.DONE,
            "duration": 1.5,
            "streaming": False,
            "bytes_in": 0,
            "bytes_out": 0,
            "key": "engramia",
            "model": "llama3.2:1b",
            "status": 200,
        }
        return FinishedRequest(**(known | changes))

    return make


@pytest.fixture
def buffer() -> io.BytesIO:
    return io.BytesIO()


@pytest.fixture
def lines(buffer: io.BytesIO) -> Callable[[], list[dict[str, Any]]]:
    def read() -> list[dict[str, Any]]:
        return [json.loads(line) for line in buffer.getvalue().splitlines()]

    return read


@pytest.fixture
def standard_loggers() -> Iterator[None]:
    """Whatever a test installs on the standard library's loggers is gone after it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    filters = {name: list(logging.getLogger(name).filters) for name in FOREIGN_LOGGERS}
    yield
    root.handlers[:], root.level = handlers, level
    root.setLevel(level)
    for name, before in filters.items():
        logging.getLogger(name).filters[:] = before
