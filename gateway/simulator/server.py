"""Connections: parses requests, and runs a task for each, cancelled with its connection."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import cast

from gateway.simulator.http import MAX_HEAD, ChunkedBody, Head, Malformed, parse_head
from gateway.simulator.response import Request, Response

Handler = Callable[[Request, Response], Awaitable[None]]
Accepts = Callable[[Head, Response], bool]


class Server:
    """All connections of one simulated Ollama, and the tasks of their requests."""

    def __init__(
        self,
        *,
        handle: Handler,
        accepts: Accepts,
        on_connection: Callable[[], None],
        on_failure: Callable[[BaseException], None],
        blocked: Callable[[int], None],
    ) -> None:
        self.handle = handle
        self.accepts = accepts
        self.on_connection = on_connection
        self.on_failure = on_failure
        self.blocked = blocked
        self.connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_closed = True

    def open(self) -> None:
        self.is_closed = False

    def factory(self) -> "Connection":
        return Connection(self)

    def run(self, request: Request, connection: "Connection") -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._respond(request, connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Close all connections at once, like a process that was told to stop."""
        self.is_closed = True
        for connection in list(self.connections):
            connection.hang_up()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # A transport reports its closing in the next iteration of the loop.
        await asyncio.sleep(0)

    async def _respond(self, request: Request, connection: "Connection") -> None:
        response = connection.response
        if response is None:
            return
        try:
            await self.handle(request, response)
            await response.drain()
        except Exception as error:  # noqa: BLE001  - a bug of the simulator, reported by the Simulator
            self.on_failure(error)
            response.abort()
        connection.request_done()


class Connection(asyncio.Protocol):
    """One connection. It reads while a request is processed, to notice a disconnect at once."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._head: Head | None = None
        self._length = 0
        self._chunked: ChunkedBody | None = None
        self._task: asyncio.Task[None] | None = None
        self.response: Response | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A stream transport; that of uvloop is not a subclass of asyncio.Transport.
        self._transport = cast("asyncio.Transport", transport)
        if self._server.is_closed:
            # Accepted while the listener was closed.
            self._transport.abort()
            return
        self._server.connections.add(self)
        self._server.on_connection()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  - asyncio's signature
        self._server.connections.discard(self)
        self._transport = None
        if self._task is not None:
            self._task.cancel()
        if self.response is not None:
            self.response.resume()

    def pause_writing(self) -> None:
        if self.response is not None:
            self.response.pause()

    def resume_writing(self) -> None:
        if self.response is not None:
            self.response.resume()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._task is None:
            self._advance()

    def hang_up(self) -> None:
        transport = self._transport
        if transport is None:
            return
        if transport.get_write_buffer_size():
            transport.abort()
        else:
            transport.close()

    def request_done(self) -> None:
        """Continue with the next request, or close the connection."""
        reusable = self.response is not None and self.response.reusable
        self._task = None
        self.response = None
        if self._transport is None:
            return
        if not reusable:
            self._transport.close()
        elif self._buffer:
            self._advance()

    def _advance(self) -> None:
        try:
            if self._head is None and not self._read_head():
                return
            body = self._read_body()
        except Malformed as error:
            self._refuse(error)
            return
        if body is not None and self._head is not None:
            head, self._head = self._head, None
            self._task = self._server.run(Request(head, body), self)

    def _read_head(self) -> bool:
        while self._buffer.startswith(b"\r\n"):
            del self._buffer[:2]
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD:
                raise Malformed
            return False
        head = parse_head(bytes(self._buffer[:end]))
        del self._buffer[: end + 4]
        self._length = head.length
        self._chunked = ChunkedBody(bytearray()) if head.is_chunked else None
        if self._transport is None:
            return False
        self.response = Response(head, self._transport, self._server.blocked)
        if head.expects_continue:
            if self._server.accepts(head, self.response):
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            else:
                self.response.abort()
                return False
        self._head = head
        return True

    def _read_body(self) -> bytes | None:
        if self._chunked is not None:
            self._chunked.feed(self._buffer)
            return bytes(self._chunked.body) if self._chunked.done else None
        if len(self._buffer) < self._length:
            return None
        body = bytes(self._buffer[: self._length])
        del self._buffer[: self._length]
        return body

    def _refuse(self, error: Malformed) -> None:
        if self._transport is None:
            return
        self._transport.write(
            b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
            b"Connection: close\r\n\r\n400 Bad Request" + error.text.encode()
        )
        with contextlib.suppress(OSError):
            self._transport.close()
