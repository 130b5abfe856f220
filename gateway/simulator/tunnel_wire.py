"""Requests and answers as a tunnel passes them on: bytes to facts and back. No I/O."""

from dataclasses import dataclass

import httptools

from gateway.simulator.answer import Request
from gateway.simulator.http import Framing, Head, Headers
from gateway.simulator.tunnel_habits import TunnelHabits

_OF_ONE_CONNECTION = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""What a proxy does not pass on (RFC 9110, section 7.6.1), and what it says itself instead."""

_STREAMS = ("text/event-stream", "application/x-ndjson", "application/grpc")


class Nonsense(Exception):
    """What the target sends is no answer."""


def forwarded(request: Request, habits: TunnelHabits, target: str) -> bytes:
    """The request as the target gets it; ``target`` is its host and port."""
    head = request.head
    host = target if habits.host == "" else habits.host or head.header("host") or target
    fields = [("Host", host), *_told(head, habits)]
    if request.body or head.header("content-length") is not None or head.is_chunked:
        fields.append(("Content-Length", str(len(request.body))))
    if habits.minor == 0:
        fields.append(("Connection", "close"))
    line = f"{head.method} {head.target} HTTP/1.{habits.minor}"
    return _rendered(line, fields) + request.body


def _told(head: Head, habits: TunnelHabits) -> Headers:
    """All header fields but ``Host`` and those of the connection."""
    said = _end_to_end(head.headers)
    appended = {name.lower() for name, _ in habits.appends}
    gone = {"host", *habits.strips, *appended, *(name.lower() for name, _ in habits.sets)}
    kept = [(name, value) for name, value in said if name.lower() not in gone]
    for name, value in habits.appends:
        before = [old for known, old in said if known.lower() == name.lower()]
        kept.append((name, ", ".join([*before, value])))
    return (*kept, *habits.sets)


def _end_to_end(headers: Headers) -> Headers:
    values = [value for name, value in headers if name.lower() == "connection"]
    named = {word.strip().lower() for value in values for word in value.split(",")}
    gone = _OF_ONE_CONNECTION | named
    return tuple((name, value) for name, value in headers if name.lower() not in gone)


def _rendered(line: str, fields: list[tuple[str, str]]) -> bytes:
    lines = [line, *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyHead:
    """The head of a target's answer; ``length`` is what it announces, if it does."""

    status: int
    reason: str
    headers: Headers
    length: int | None
    chunked: bool
    bodiless: bool

    def header(self, name: str) -> str:
        return next((value for known, value in self.headers if known.lower() == name), "")

    def framing(self, minor: int) -> Framing:
        """How its body is framed towards a caller who speaks HTTP/1.``minor``."""
        if self.length is not None:
            return "length"
        if self.bodiless:
            return "none"
        return "chunked" if minor else "close"

    def is_gathered(self, habits: TunnelHabits) -> bool:
        """Whether its body is held back until there is enough of it."""
        if habits.buffer_bytes is None:
            return False
        if habits.obeys_accel and self.header("x-accel-buffering").lower() == "no":
            return False
        if habits.flushes_unmeasured and self.length is None:
            return False
        kind = self.header("content-type").lower()
        return not (habits.flushes_streams and kind.startswith(_STREAMS))

    def rendered(self, framing: Framing, habits: TunnelHabits, *, closes: bool) -> bytes:
        """As a caller gets it."""
        hidden = "x-accel-buffering" if habits.obeys_accel else ""
        fields = [
            (name, value) for name, value in _end_to_end(self.headers) if name.lower() != hidden
        ]
        if framing == "length":
            fields.append(("Content-Length", str(self.length)))
        elif framing == "chunked":
            fields.append(("Transfer-Encoding", "chunked"))
        if closes:
            fields.append(("Connection", "close"))
        return _rendered(f"HTTP/1.1 {self.status} {self.reason}", fields)


class ReplyReader:
    """Reads one answer of the target, byte for byte untrusted.

    Its mutable state: the parser's, the head once it is there, and whether the answer is whole.
    """

    def __init__(self, method: str) -> None:
        self.head: ReplyHead | None = None
        self.whole = False
        self._is_head = method == "HEAD"
        self._parser = httptools.HttpResponseParser(self)
        self._reason = ""
        self._fields: list[tuple[str, str]] = []
        self._body: list[bytes] = []
        self._interim = False

    def feed(self, data: bytes) -> bytes:
        """What of the body is in it; raise ``Nonsense``. What follows the answer is ignored."""
        if self.whole:
            return b""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self.whole:
                raise Nonsense from None
        body = b"".join(self._body)
        self._body.clear()
        return body

    def close(self) -> None:
        """The target has closed the connection; raise ``EOFError`` if that is no end."""
        if self.head is None or self.head.length is not None or self.head.chunked:
            raise EOFError
        self.whole = True

    # The parser's callbacks.

    def on_message_begin(self) -> None:
        self._reason = ""
        self._fields.clear()

    def on_status(self, status: bytes) -> None:
        self._reason += status.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._interim = status < 200
        if self._interim or self.whole:
            return
        bodiless = self._is_head or status in (204, 304)
        said = {name.lower(): value for name, value in self._fields}
        length = said.get("content-length")
        self.head = ReplyHead(
            status=status,
            reason=self._reason,
            headers=tuple(self._fields),
            length=None if length is None else int(length),
            chunked="transfer-encoding" in said,
            bodiless=bodiless,
        )
        # The parser cannot know what the method says: nothing follows.
        self.whole = bodiless

    def on_body(self, data: bytes) -> None:
        if not self.whole:
            self._body.append(data)

    def on_message_complete(self) -> None:
        if not self._interim:
            self.whole = True
