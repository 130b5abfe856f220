"""The head of an answer: which headers of Ollama's go on to the caller, and what we add."""

from collections.abc import Iterable

# RFC 9110, section 7.6.1, and what RFC 2616 had before it.
_HOP_BY_HOP = frozenset(
    {
        "connection",
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
# Ours to say: framing, identity of the server, and every header that we promise something with.
_OURS = frozenset(
    {"content-length", "date", "server", "x-request-id", "server-timing", "age", "set-cookie"}
)
_WITHHELD = _HOP_BY_HOP | _OURS
_STREAM = frozenset({"cache-control", "x-accel-buffering"})

STREAM_HEADERS = (
    ("Cache-Control", "no-cache, no-transform"),
    ("X-Accel-Buffering", "no"),
)
"""Tells nginx and every cache in between to pass each event on as it comes."""


def end_to_end(headers: Iterable[tuple[str, str]], *, streaming: bool) -> list[tuple[str, str]]:
    """Ollama's headers without those that mean only this connection, or that are ours to say.

    A header that ``Connection`` names is for this hop only, whatever it is called.
    """
    headers = list(headers)
    named = {
        token.strip().lower()
        for name, value in headers
        if name.lower() == "connection"
        for token in value.split(",")
    }
    withheld = _WITHHELD | _STREAM if streaming else _WITHHELD
    if named:
        withheld |= named
    kept = [
        (name, value)
        for name, value in headers
        if (lower := name.lower()) not in withheld and not lower.startswith("x-gateway-")
    ]
    return [*kept, *STREAM_HEADERS] if streaming else kept


def head_of(
    status: int,
    headers: Iterable[tuple[str, str]],
    waits: tuple[float, float],
    *,
    streaming: bool,
) -> list[tuple[str, str]]:
    """The head of an answer of Ollama's: what may go on of it, and what we say besides.

    ``waits`` are the seconds in the queue, and until Ollama's head was there.
    """
    queue, upstream = waits
    kept = end_to_end(headers, streaming=streaming)
    timing = f"queue;dur={queue * 1000:.1f}, upstream;dur={upstream * 1000:.1f}"
    kept.append(("Server-Timing", timing))
    return kept if status < 400 else kept + _advice(status, {name.lower() for name, _ in kept})


def _advice(status: int, said: set[str]) -> list[tuple[str, str]]:
    """Ours where Ollama gave none: its 4xx cannot succeed next time, its 5xx soon may."""
    if status < 500 and status not in (408, 409, 429):
        return [] if "x-should-retry" in said else [("x-should-retry", "false")]
    return [] if "retry-after" in said else [("Retry-After", "2")]
