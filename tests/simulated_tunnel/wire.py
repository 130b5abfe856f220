"""Requests and responses as a tunnel forwards them: parsing and rendering. No I/O."""

from dataclasses import dataclass

import httptools

from gateway.simulator.http import Framing, Head, Headers
from gateway.simulator.response import Request
from tests.simulated_tunnel.behaviour import TunnelBehaviour

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
"""Headers a proxy does not forward (RFC 9110, section 7.6.1) or sets itself."""

_STREAMS = ("text/event-stream", "application/x-ndjson", "application/grpc")


class InvalidResponse(Exception):
    """What the target sent is not an HTTP response."""


def forwarded(request: Request, behaviour: TunnelBehaviour, target: str) -> bytes:
    """Return the request as the target gets it; ``target`` is its host and port."""
    head = request.head
    host = target if behaviour.host == "" else behaviour.host or head.header("host") or target
    fields = [("Host", host), *_forwarded_headers(head, behaviour)]
    if request.body or head.header("content-length") is not None or head.is_chunked:
        fields.append(("Content-Length", str(len(request.body))))
    if behaviour.minor == 0:
        fields.append(("Connection", "close"))
    line = f"{head.method} {head.target} HTTP/1.{behaviour.minor}"
    return _rendered(line, fields) + request.body


def _forwarded_headers(head: Head, behaviour: TunnelBehaviour) -> Headers:
    """Return all headers except ``Host`` and hop-by-hop ones."""
    received = _end_to_end(head.headers)
    appended = {name.lower() for name, _ in behaviour.appends}
    gone = {"host", *behaviour.strips, *appended, *(name.lower() for name, _ in behaviour.sets)}
    kept = [(name, value) for name, value in received if name.lower() not in gone]
    for name, value in behaviour.appends:
        before = [old for known, old in received if known.lower() == name.lower()]
        kept.append((name, ", ".join([*before, value])))
    return (*kept, *behaviour.sets)


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
    """The head of the target's response; ``length`` is its Content-Length, or None."""

    status: int
    reason: str
    headers: Headers
    length: int | None
    chunked: bool
    bodiless: bool

    def header(self, name: str) -> str:
        return next((value for known, value in self.headers if known.lower() == name), "")

    def framing(self, minor: int) -> Framing:
        """Return how the body is framed for an HTTP/1.``minor`` client."""
        if self.length is not None:
            return "length"
        if self.bodiless:
            return "none"
        return "chunked" if minor else "close"

    def is_buffered(self, behaviour: TunnelBehaviour) -> bool:
        """Return True if the tunnel buffers the body."""
        if behaviour.buffer_bytes is None:
            return False
        if behaviour.honours_x_accel and self.header("x-accel-buffering").lower() == "no":
            return False
        if behaviour.flushes_without_length and self.length is None:
            return False
        kind = self.header("content-type").lower()
        return not (behaviour.flushes_streams and kind.startswith(_STREAMS))

    def rendered(self, framing: Framing, behaviour: TunnelBehaviour, *, closes: bool) -> bytes:
        """Return the head as the client gets it."""
        hidden = "x-accel-buffering" if behaviour.honours_x_accel else ""
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
    """Parses one response of the target, which is untrusted.

    Mutable state: the parser, the head once it is complete, and whether the response is complete.
    """

    def __init__(self, method: str) -> None:
        self.head: ReplyHead | None = None
        self.complete = False
        self._is_head = method == "HEAD"
        self._parser = httptools.HttpResponseParser(self)
        self._reason = ""
        self._fields: list[tuple[str, str]] = []
        self._body: list[bytes] = []
        self._interim = False

    def feed(self, data: bytes) -> bytes:
        """Return the body bytes in ``data``; bytes after the response are ignored.

        Raises:
            InvalidResponse: not HTTP.
        """
        if self.complete:
            return b""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self.complete:
                raise InvalidResponse from None
        body = b"".join(self._body)
        self._body.clear()
        return body

    def close(self) -> None:
        """Note that the target closed its connection.

        Raises:
            EOFError: the response is not complete.
        """
        if self.head is None or self.head.length is not None or self.head.chunked:
            raise EOFError
        self.complete = True

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
        if self._interim or self.complete:
            return
        bodiless = self._is_head or status in (204, 304)
        values = {name.lower(): value for name, value in self._fields}
        length = values.get("content-length")
        self.head = ReplyHead(
            status=status,
            reason=self._reason,
            headers=tuple(self._fields),
            length=None if length is None else int(length),
            chunked="transfer-encoding" in values,
            bodiless=bodiless,
        )
        # The parser does not know the request method: a response to HEAD has no body.
        self.complete = bodiless

    def on_body(self, data: bytes) -> None:
        if not self.complete:
            self._body.append(data)

    def on_message_complete(self) -> None:
        if not self._interim:
            self.complete = True
