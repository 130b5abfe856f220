"""Dialects as a test of heartbeats sees them, and what a relay does with a stream."""

from dataclasses import dataclass

import pytest

from gateway.dialects import ANTHROPIC, OLLAMA, OPENAI, RESPONSES, Dialect
from gateway.public.response import Response
from gateway.public.state import ResponseKind

from .stage import EVENT, SSE

JSON = [("Content-Type", "application/json")]
OBJECT = b'{"choices":[]}'
COMMENT = b":\n\n"
PING = b'event: ping\ndata: {"type": "ping"}\n\n'


@dataclass(frozen=True, slots=True)
class Speaks:
    """A dialect, and what its streams look like."""

    dialect: Dialect
    kind: str
    beat: bytes
    event: bytes
    final: bytes

    def __str__(self) -> str:
        return self.dialect.name


_COMPLETED = b'event: response.completed\ndata: {"type":"response.completed"}\n\n'
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
ALL = [
    Speaks(OPENAI, "text/event-stream", COMMENT, EVENT, b"data: [DONE]\n\n"),
    Speaks(RESPONSES, "text/event-stream", COMMENT, EVENT, _COMPLETED),
    Speaks(ANTHROPIC, "text/event-stream", PING, EVENT, _STOP),
    Speaks(OLLAMA, "application/x-ndjson", b" ", b'{"done":false}\n', b'{"done":true}\n'),
]
every = pytest.mark.parametrize("speaks", ALL, ids=str)


async def begun(answer: Response, *, beat: ResponseKind | None = None) -> None:
    """A stream that has begun, after a heartbeat or without."""
    if beat is not None:
        answer.send_heartbeat(beat)
    await answer.begin_stream(200, SSE, length=None, scanner=answer.dialect.scanner())


async def say(answer: Response, data: bytes) -> None:
    """What the relay does with each piece."""
    assert answer._scanner is not None
    answer._scanner.feed(data)
    await answer.write(data)
