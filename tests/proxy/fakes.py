"""Both ends of a relay, without a network."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gateway.dialects import Scanner
from gateway.errors import GatewayError
from gateway.proxy.response import Headers
from gateway.telemetry.record import RequestRecord


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
class FakeAnswer:
    """Puts down what it is asked to do. ``leaves_after`` pieces its caller is gone."""

    leaves_after: int | None = None
    leaving: GatewayError | None = None
    begun: tuple[int, list[tuple[str, str]]] | None = None
    length: int | None = None
    scanner: Scanner | None = None
    was_whole: bool = False
    pieces: list[bytes] = field(default_factory=list)
    ended: bool = False
    announced: list[tuple[str, str]] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def add_header(self, name: str, value: str) -> None:
        self.announced.append((name, value))

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        assert self.begun is None
        self.begun = status, list(headers)
        self.was_whole = True
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


def an_exchange() -> RequestRecord:
    return RequestRecord(request_id="req_1", method="POST", started=10.0)


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """``data`` in pieces that end at these places; none of them is empty."""
    places = sorted({cut for cut in cuts if 0 < cut < len(data)})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True) if data[a:b]]
