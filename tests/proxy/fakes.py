"""Both sides of the pipeline without a network, and an Ollama that answers what a test wants."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from gateway.auth.keys import Principal, Scope
from gateway.dialects import OPENAI, Scanner
from gateway.errors import GatewayError, UpstreamUnreachable
from gateway.models.catalog import ShowReply
from gateway.models.context_window import ContextWindows
from gateway.models.listing import Model
from gateway.models.statistics import Statistics
from gateway.proxy.integrity import Headers, TruncationGuard
from gateway.proxy.request import Fingerprint, InferenceRequest
from gateway.scheduler import QueuePosition, Scheduler, Slot, SlotRequest
from gateway.settings import IntegritySettings
from gateway.telemetry.record import RequestRecord
from gateway.timeouts import Deadlines
from gateway.upstream import Outgoing


@dataclass(slots=True)
class FakeReply:
    """Gives ``pieces`` one by one, then ends, or fails with ``error``."""

    pieces: Iterable[bytes]
    error: GatewayError | None = None
    status: int = 200
    content_type: str = "text/event-stream"
    content_length: int | None = None
    first_byte_at: float | None = 12.5
    reads: int = 0

    @property
    def headers(self) -> list[tuple[str, str]]:
        return [("Content-Type", self.content_type)]

    def header(self, name: str) -> str:
        return self.content_type if name == "content-type" else ""

    async def read(self) -> bytes:
        self.reads += 1
        self.pieces = iter(self.pieces)
        piece = next(self.pieces, b"")
        if not piece and self.error is not None:
            raise self.error
        return piece


@dataclass(slots=True)
class FakeResponse:
    """Records what it is asked to do. ``leaves_after`` pieces its client is gone."""

    leaves_after: int | None = None
    leaving: GatewayError | None = None
    begun: tuple[int, list[tuple[str, str]]] | None = None
    length: int | None = None
    scanner: Scanner | None = None
    was_complete: bool = False
    pieces: list[bytes] = field(default_factory=list)
    ended: bool = False
    added: list[tuple[str, str]] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def add_header(self, name: str, value: str) -> None:
        self.added.append((name, value))

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        assert self.begun is None
        self.begun = status, list(headers)
        self.was_complete = True
        self.pieces.append(body)

    async def begin_stream(
        self, status: int, headers: Headers, *, length: int | None, scanner: Scanner | None
    ) -> None:
        assert self.begun is None
        self.begun = status, list(headers)
        self.length, self.scanner = length, scanner

    async def write(self, data: bytes) -> None:
        assert self.begun is not None
        if self.leaving is not None and len(self.pieces) == self.leaves_after:
            raise self.leaving
        self.pieces.append(data)

    async def end(self) -> None:
        self.ended = True


def request_record() -> RequestRecord:
    return RequestRecord(request_id="req_1", method="POST", started=10.0)


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """``data`` in pieces that end at these places; none of them is empty."""
    places = sorted({cut for cut in cuts if 0 < cut < len(data)})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True) if data[a:b]]


JSON = (("Content-Type", "application/json"),)
BUSY = b'{"error":"server busy, please try again.  maximum pending requests exceeded"}'


@dataclass(slots=True)
class Steps:
    """What happened, in order.

    At the step number ``last`` the task that takes it is cancelled; the step that ``error`` names
    raises its error, after it succeeded ``good`` times.
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
class StepScheduler:
    """The real scheduler, with a step before and after each slot."""

    steps: Steps
    real: Scheduler
    requests: list[SlotRequest] = field(default_factory=list)

    def slot(self, request: SlotRequest) -> "StepSlot":
        return StepSlot(self, request, self.real.slot(request))


@dataclass(slots=True)
class StepSlot(AbstractAsyncContextManager[Slot]):
    """One slot of a ``StepScheduler``."""

    scheduler: StepScheduler
    request: SlotRequest
    slot: Slot

    def position(self) -> QueuePosition | None:
        return self.slot.position()

    async def __aenter__(self) -> Slot:
        self.scheduler.requests.append(self.request)
        await self.scheduler.steps.take("slot")
        return await self.slot.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.scheduler.steps.note("release")
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
    """Answers each request in the same way; counts open replies."""

    steps: Steps
    pieces: Sequence[bytes] = ()
    headers: Sequence[tuple[str, str]] = (("Content-Type", "text/event-stream"),)
    status: int = 200
    requests: list[Outgoing] = field(default_factory=list)
    timeouts: list[Deadlines] = field(default_factory=list)
    busy: int = 0
    """How many requests find it busy before one is answered."""
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
class StepResponse:
    """Takes what it is given, in steps."""

    steps: Steps
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    added: dict[str, str] = field(default_factory=dict)

    def add_header(self, name: str, value: str) -> None:
        self.added[name] = value

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


@dataclass(slots=True)
class FakeOllama:
    """Answers ``ps`` and ``show``, and counts how often; without a body it is unreachable."""

    loaded: dict[str, int] | None = None
    shown: dict[str, Any] | None = None
    asked: list[str] = field(default_factory=list)

    async def ps(self) -> bytes:
        self.asked.append("ps")
        if self.loaded is None:
            raise UpstreamUnreachable("away")
        models = [
            {"name": name, "model": name, "digest": "d", "context_length": context}
            for name, context in self.loaded.items()
        ]
        return json.dumps({"models": models}).encode()

    async def show(self, _: Model) -> ShowReply:
        self.asked.append("show")
        if self.shown is None:
            raise UpstreamUnreachable("away")
        return ShowReply(200, json.dumps(self.shown).encode())


def truncation_guard(
    ollama: FakeOllama | None = None,
    *,
    contexts: ContextWindows | None = None,
    statistics: Statistics | None = None,
    incomplete_is_error: bool = False,
    truncated_is_error: bool = False,
) -> TruncationGuard:
    """A guard that knows nothing and refuses nothing, unless the arguments say otherwise."""
    ollama = ollama or FakeOllama()
    return TruncationGuard(
        IntegritySettings(
            incomplete="error" if incomplete_is_error else "pass",
            truncated_prompt="error" if truncated_is_error else "pass",
        ),
        contexts=contexts or ContextWindows(),
        statistics=statistics or Statistics(),
        ps=ollama.ps,
        show=ollama.show,
    )


def inference_request(**changes: Any) -> InferenceRequest:
    """A streaming chat request for llama3.2:1b by the key ``tester``."""
    model = Model(
        name="llama3.2:1b",
        digest="d",
        size_bytes=1,
        parameters=1.2,
        remote=False,
        created=0,
        raw={},
    )
    values: dict[str, Any] = {
        "request_id": "req_1",
        "principal": Principal(key="tester", scopes=frozenset({Scope.INFERENCE}), max_active=3),
        "path": "/v1/chat/completions",
        "dialect": OPENAI,
        "model": model,
        "streaming": True,
        "body": b"{}",
        **changes,
    }
    fingerprint = Fingerprint("tester", values["path"], values["body"])
    return InferenceRequest(fingerprint=fingerprint, **values)
