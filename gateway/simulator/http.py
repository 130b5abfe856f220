"""HTTP/1.x: parsing requests and rendering response heads. No I/O."""

import re
from dataclasses import dataclass
from typing import Literal

Headers = tuple[tuple[str, str], ...]

MAX_HEAD = 1 << 20
"""Go's limit for the head of a request, in bytes."""

_REQUEST_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+) (\S+) HTTP/1\.([01])")
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Malformed(ValueError):
    """Not a request; ``text`` follows ``400 Bad Request`` in the response."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.text = text


@dataclass(frozen=True, slots=True)
class Head:
    """A request without its body."""

    method: str
    target: str
    minor: int
    """1 for HTTP/1.1, 0 for HTTP/1.0."""
    headers: Headers

    def header(self, name: str) -> str | None:
        for known, value in self.headers:
            if known.lower() == name:
                return value
        return None

    @property
    def wants_keep_alive(self) -> bool:
        connection = (self.header("connection") or "").lower()
        return "keep-alive" in connection if self.minor == 0 else "close" not in connection

    @property
    def expects_continue(self) -> bool:
        return (self.header("expect") or "").lower() == "100-continue"

    @property
    def is_chunked(self) -> bool:
        return (self.header("transfer-encoding") or "").lower() == "chunked"

    @property
    def length(self) -> int:
        text = self.header("content-length") or "0"
        if not text.isascii() or not text.isdigit():
            raise Malformed(f": bad Content-Length {text!r}")
        return int(text)


def parse_head(raw: bytes) -> Head:
    """Parse everything before the empty line; raise ``Malformed``."""
    line, *fields = raw.decode("latin-1").split("\r\n")
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise Malformed
    head = Head(match[1], match[2], int(match[3]), tuple(_field(text) for text in fields))
    if head.minor == 1 and head.header("host") is None:
        raise Malformed(": missing required Host header")
    return head


def _field(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    value = value.strip(" \t")
    if not colon or _FIELD_NAME.fullmatch(name) is None or _CONTROL.search(value):
        raise Malformed
    return name, value


@dataclass(slots=True)
class ChunkedBody:
    """Decodes the chunked body of a request."""

    body: bytearray
    done: bool = False

    def feed(self, buffer: bytearray) -> None:
        """Consume complete chunks from the front of ``buffer``; raise ``Malformed``."""
        while not self.done:
            end = buffer.find(b"\r\n")
            if end < 0:
                return
            size = _chunk_size(bytes(buffer[:end]))
            stop = end + 2 + size + 2
            if size == 0:
                self._finish(buffer, end + 2)
                return
            if len(buffer) < stop:
                return
            self.body += buffer[end + 2 : stop - 2]
            del buffer[:stop]

    def _finish(self, buffer: bytearray, start: int) -> None:
        if buffer.startswith(b"\r\n", start):
            del buffer[: start + 2]
            self.done = True
            return
        end = buffer.find(b"\r\n\r\n", start)
        if end >= 0:
            del buffer[: end + 4]
            self.done = True


def _chunk_size(line: bytes) -> int:
    try:
        return int(line.partition(b";")[0].strip(), 16)
    except ValueError:
        raise Malformed from None


Framing = Literal["length", "chunked", "close", "none"]

REASONS = {
    200: "OK",
    204: "No Content",
    301: "Moved Permanently",
    307: "Temporary Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Request Entity Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


def render_head(
    *,
    status: int,
    minor: int,
    headers: Headers,
    date: str,
    framing: Framing,
    length: int = 0,
    close: bool = False,
) -> bytes:
    """Render a head as Go does: the headers of the handler by name, ``Date``, the framing."""
    lines = [f"HTTP/1.{minor} {status} {REASONS.get(status, f'status code {status}')}"]
    lines += [f"{name}: {value}" for name, value in sorted(headers, key=lambda pair: pair[0])]
    lines.append(f"Date: {date}")
    if framing == "length":
        lines.append(f"Content-Length: {length}")
    elif framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
    if close and minor == 1:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
