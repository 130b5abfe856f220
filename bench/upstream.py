"""A stand-in for Ollama that costs next to nothing: fixed responses, streams at an exact pace.

    python -m bench.upstream [--awake]

It prints its port and serves until it is terminated. With ``--awake`` it never sleeps.
"""

import asyncio
import sys
from typing import cast

from bench import wire
from bench.loop import run_until_stopped, stay_awake

_KEPT_BODY = 64 * 1024
"""A small body contains a plan; of a larger one only the size counts."""

_DATE = b"Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    + _DATE
    + b"Transfer-Encoding: chunked\r\n\r\n"
)
_CHUNKED_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    + _DATE
    + b"Transfer-Encoding: chunked\r\n\r\n"
)
_END = b"0\r\n\r\n"


def _complete(body: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n" % status
    return head + _DATE + b"Content-Length: %d\r\n\r\n" % len(body) + body


_RESPONSE = _complete(wire.ANSWER)
_PAGES = {
    b"/api/tags": _complete(wire.TAGS),
    b"/api/version": _complete(wire.VERSION),
    b"/api/ps": _complete(wire.PS),
}
_UNKNOWN = _complete(b'{"error":"not found"}', b"404 Not Found")
_LARGE = (
    b'{"object":"list","data":[{"object":"embedding","embedding":['
    + b"0.015625," * (wire.LARGE_BYTES // 9)
    + b'0],"index":0}],"model":"llama3.2:1b","usage":{"prompt_tokens":9,"total_tokens":9}}\n'
)
_LARGE_RESPONSE = _CHUNKED_HEAD + wire.framed(_LARGE) + _END
_FRAMED_EVENT = wire.framed(wire.EVENT)
_FRAMED_LAST = wire.framed(wire.LAST_EVENTS) + _END


class Connection(asyncio.Protocol):
    """One connection. Mutable state: the request that arrives, the stream that goes out."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._path = b""
        self._body = b""
        self._missing = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self._missing == 0:
            data = self._begin(data)
            if not self._path:
                return
        else:
            self._missing -= len(data)
        if len(self._body) < _KEPT_BODY:
            self._body += data[:_KEPT_BODY]
        if self._missing == 0:
            path, self._path = self._path, b""
            self._respond(path)

    def _begin(self, data: bytes) -> bytes:
        """Read the head; what follows it, or nothing while the head is incomplete."""
        self._head += data
        head, end, body = self._head.partition(b"\r\n\r\n")
        if not end:
            return b""
        self._head = self._body = b""
        self._path = head.split(b" ", 2)[1]
        _, _, length = head.lower().partition(b"\r\ncontent-length:")
        self._missing = int(length.split(b"\r\n", 1)[0] or 0) - len(body)
        return body

    def _respond(self, path: bytes) -> None:
        if path.startswith(b"/v1/"):
            plan = wire.plan_in(self._body) if len(self._body) < _KEPT_BODY else None
            if plan is None:
                self._write(_RESPONSE)
            elif plan.large:
                self._write(_LARGE_RESPONSE)
            else:
                # As with Ollama, the head leaves together with the first event.
                self._write(_STREAM_HEAD + _FRAMED_EVENT)
                self._continue(plan, self._loop.time(), 1)
        else:
            self._write(_PAGES.get(path, _UNKNOWN))

    def _continue(self, plan: wire.Plan, began: float, sent: int) -> None:
        """Plan the next event by the stream's own beginning, so that no delay adds up."""
        if sent < plan.chunks or not plan.hold:
            when = began + sent * plan.gap
            self._timer = self._loop.call_at(when, self._tick, plan, began, sent)

    def _tick(self, plan: wire.Plan, began: float, sent: int) -> None:
        if sent >= plan.chunks:
            self._write(_FRAMED_LAST)
            return
        self._write(_FRAMED_EVENT)
        self._continue(plan, began, sent + 1)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


async def _serve(*, awake: bool) -> None:
    loop = asyncio.get_running_loop()
    if awake:
        stay_awake(loop)
    server = await loop.create_server(lambda: Connection(loop), "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    run_until_stopped(_serve(awake="--awake" in sys.argv), uvloop=True)
