"""Everything around a pipeline, each step of which is put down and can be the last one.

A *step* is one place where the pipeline waits for somebody else.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType

from gateway.dialects import Scanner
from gateway.errors import GatewayError
from gateway.proxy.response import Headers
from gateway.scheduler import QueuePosition, Scheduler, Slot, SlotRequest
from gateway.timeouts import Deadlines
from gateway.upstream import Outgoing

JSON = (("Content-Type", "application/json"),)
BUSY = b'{"error":"server busy, please try again.  maximum pending requests exceeded"}'


@dataclass(slots=True)
class Steps:
    """What happened, in order.

    At the step number ``last`` whoever takes it is cancelled; the step that ``error`` names raises
    its error, after it went well ``good`` times.
    """

    last: int | None = None
    error: tuple[str, GatewayError] | None = None
    good: int = 0
    taken: list[str] = field(default_factory=list)

    async def take(self, name: str) -> None:
        self.taken.append(name)
        if self.error is not None and self.error[0] == name and self.taken.count(name) > self.good:
            raise self.error[1]
        if self.last == len(self.taken):
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        await asyncio.sleep(0)

    def note(self, name: str) -> None:
        self.taken.append(name)


@dataclass(slots=True)
class StepQueue:
    """Real admission, with a step before and after each lease."""

    steps: Steps
    scheduler: Scheduler
    demands: list[SlotRequest] = field(default_factory=list)

    def slot(self, demand: SlotRequest) -> "StepTurn":
        return StepTurn(self, demand, self.scheduler.slot(demand))


@dataclass(slots=True)
class StepTurn(AbstractAsyncContextManager[Slot]):
    """One lease of a ``StepQueue``."""

    queue: StepQueue
    demand: SlotRequest
    slot: Slot

    def position(self) -> QueuePosition | None:
        return self.slot.position()

    async def __aenter__(self) -> Slot:
        self.queue.demands.append(self.demand)
        await self.queue.steps.take("lease")
        return await self.slot.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.queue.steps.note("give back")
        await self.slot.__aexit__(kind, error, trace)


@dataclass(slots=True)
class StepReply:
    """A reply whose every read is a step."""

    steps: Steps
    pieces: list[bytes]
    headers: list[tuple[str, str]]
    status: int = 200
    content_length: int | None = None
    first_byte_at: float | None = 12.5

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")

    async def read(self) -> bytes:
        await self.steps.take("read")
        return self.pieces.pop(0) if self.pieces else b""


@dataclass(slots=True)
class StepUpstream:
    """Answers each request in the same way; counts what is open."""

    steps: Steps
    pieces: Sequence[bytes] = ()
    headers: Sequence[tuple[str, str]] = (("Content-Type", "text/event-stream"),)
    status: int = 200
    requests: list[Outgoing] = field(default_factory=list)
    timeouts: list[Deadlines] = field(default_factory=list)
    busy: int = 0
    """So many requests find it busy, before any is answered."""
    opened: int = 0

    @asynccontextmanager
    async def open(self, request: Outgoing, timeouts: Deadlines) -> AsyncIterator[StepReply]:
        self.requests.append(request)
        self.timeouts.append(timeouts)
        await self.steps.take("open")
        self.opened += 1
        try:
            if len(self.requests) <= self.busy:
                yield StepReply(self.steps, [BUSY], list(JSON), 503)
            else:
                yield StepReply(self.steps, list(self.pieces), list(self.headers), self.status)
        finally:
            self.opened -= 1
            self.steps.note("close")


@dataclass(slots=True)
class StepAnswer:
    """Takes what it is given, in steps."""

    steps: Steps
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    announced: dict[str, str] = field(default_factory=dict)

    def add_header(self, name: str, value: str) -> None:
        self.announced[name] = value

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        self.status, self.headers, self.body = status, dict(headers), body
        await self.steps.take("send")

    async def begin_stream(
        self, status: int, headers: Headers, *, length: int | None, scanner: Scanner | None
    ) -> None:
        del length, scanner
        self.status, self.headers = status, dict(headers)
        await self.steps.take("begin_stream")

    async def write(self, data: bytes) -> None:
        self.body += data
        await self.steps.take("write")

    async def end(self) -> None:
        await self.steps.take("end")
