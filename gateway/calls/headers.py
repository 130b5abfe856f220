"""Which headers of Ollama's may go on to the caller."""

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
    withheld = _HOP_BY_HOP | _OURS | named
    if streaming:
        withheld |= _STREAM
    kept = [
        (name, value)
        for name, value in headers
        if name.lower() not in withheld and not name.lower().startswith("x-gateway-")
    ]
    return [*kept, *STREAM_HEADERS] if streaming else kept
