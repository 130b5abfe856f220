"""Connections: bytes to requests and back, with a task per request that dies with its client."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import cast

from gateway.simulator.answer import Answer, Request
from gateway.simulator.http import MAX_HEAD, ChunkedBody, Head, Malformed, parse_head

Handler = Callable[[Request, Answer], Awaitable[None]]
Welcome = Callable[[Head, Answer], bool]


class Server:
    """All connections of one simulated Ollama, and the tasks that answer on them."""

    def __init__(
        self,
        *,
        handle: Handler,
        welcome: Welcome,
        on_connection: Callable[[], None],
        on_failure: Callable[[BaseException], None],
        blocked: Callable[[int], None],
    ) -> None:
        self.handle = handle
        self.welcome = welcome
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
        task = asyncio.get_running_loop().create_task(self._answer(request, connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Close every connection where it stands, as a process that was told to end does."""
        self.is_closed = True
        for connection in list(self.connections):
            connection.hang_up()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # A closed transport says so in the next round of the loop.
        await asyncio.sleep(0)

    async def _answer(self, request: Request, connection: "Connection") -> None:
        answer = connection.answer
        if answer is None:
            return
        try:
            await self.handle(request, answer)
            await answer.room()
        except Exception as error:  # noqa: BLE001  - a bug of the simulator, reported by its owner
            self.on_failure(error)
            answer.cut()
        connection.answered()


class Connection(asyncio.Protocol):
    """One connection. It reads ahead while a request is answered, and so notices an end at once."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._head: Head | None = None
        self._length = 0
        self._chunked: ChunkedBody | None = None
        self._task: asyncio.Task[None] | None = None
        self.answer: Answer | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Only ever a full transport; that of uvloop is one in all but its class.
        self._transport = cast("asyncio.Transport", transport)
        if self._server.is_closed:
            # Accepted in the same moment in which the listener went away.
            self._transport.abort()
            return
        self._server.connections.add(self)
        self._server.on_connection()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  - asyncio's signature
        self._server.connections.discard(self)
        self._transport = None
        if self._task is not None:
            self._task.cancel()
        if self.answer is not None:
            self.answer.resume()

    def pause_writing(self) -> None:
        if self.answer is not None:
            self.answer.pause()

    def resume_writing(self) -> None:
        if self.answer is not None:
            self.answer.resume()

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

    def answered(self) -> None:
        """The request's task is done; go on with the next one, or close."""
        stays = self.answer is not None and self.answer.stays
        self._task = None
        self.answer = None
        if self._transport is None:
            return
        if not stays:
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
        self.answer = Answer(head, self._transport, self._server.blocked)
        if head.expects_continue:
            if self._server.welcome(head, self.answer):
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            else:
                self.answer.cut()
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
