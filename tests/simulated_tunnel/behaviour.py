"""What a tunnel or a reverse proxy does to requests and responses that pass through it.

The profiles follow measurements where possible (nginx 1.22, HAProxy 2.6), else source code or
documentation (cloudflared, Tailscale, ngrok). Limits that depend on a plan are those of the free
one.
"""

from dataclasses import dataclass, replace
from typing import Self

from gateway.simulator.http import Headers

CALLER = "203.0.113.7"
"""The client address that a tunnel reports: reserved for documentation (RFC 5737)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelBehaviour:
    """All times are real seconds; None means never. By default everything passes unchanged.

    A response is aborted, and the connection to the target closed, when ``silence`` or ``longest``
    has passed. If none of it was forwarded, the client gets ``timeout_status``; otherwise its
    connection closes without the end of the body.
    """

    silence: float | None = None
    """The longest time without a byte of the response's body, from the request or from the last
    byte. The head does not count unless ``head_counts``."""
    head_counts: bool = False
    longest: float | None = None
    """The longest time for a response in total."""
    timeout_status: int = 504
    delays_head: bool = False
    """Forward the head only with the first byte of the body. A response aborted between the two is
    answered with ``timeout_status``; otherwise the client would get the head alone."""

    buffer_bytes: int | None = None
    """Buffer this many bytes of a body (or all of it) before forwarding it with the head.
    Buffered bytes are lost when the response is aborted."""
    honours_x_accel: bool = False
    """``X-Accel-Buffering: no`` in a response switches buffering off; the header is removed."""
    flushes_streams: bool = False
    """Do not buffer ``text/event-stream``, ``application/x-ndjson`` and gRPC."""
    flushes_without_length: bool = False
    """Do not buffer a response without ``Content-Length``."""

    drop_at: int | None = None
    """Close the client's connection after this many bytes of the response (head, and body as sent
    on the wire). 0 is before the first byte."""
    drop_count: int | None = None
    """How many responses are dropped; one shorter than ``drop_at`` is not counted."""

    request_bytes: int | None = None
    """A larger request body is refused with 413."""
    minor: int = 1
    """The HTTP/1 minor version used towards the target. With 0 the target sends no chunks."""
    host: str | None = None
    """The ``Host`` sent to the target: None keeps the client's, "" is the target's address."""
    sets: Headers = ()
    """Headers set for the target, replacing the client's."""
    appends: Headers = ()
    """Values appended to the client's headers of these names, after a comma."""
    strips: tuple[str, ...] = ()
    """Lower-case names of headers removed from the request."""

    def scaled(self, scale: float) -> Self:
        """Return a copy with ``scale`` real seconds for each second of the real tunnel."""
        return replace(
            self,
            silence=None if self.silence is None else self.silence * scale,
            longest=None if self.longest is None else self.longest * scale,
        )

    @classmethod
    def cloudflare(cls) -> Self:
        """A Cloudflare Tunnel: 524 after 100 s without a byte of the body, heads do not count.

        The documented limit has been 100, 120 and 125 s; this is the strictest. The edge answers
        524 although it received the head, so it does not forward the head before the body.
        cloudflared buffers only responses with a length that are no streams, over HTTP/2.
        """
        return cls(
            silence=100.0,
            timeout_status=524,
            delays_head=True,
            buffer_bytes=4096,
            flushes_streams=True,
            flushes_without_length=True,
            request_bytes=100_000_000,
            host="ollama.example.com",
            sets=(
                ("Accept-Encoding", "gzip, br"),
                ("Cdn-Loop", "cloudflare; loops=1"),
                ("Cf-Connecting-Ip", CALLER),
                ("Cf-Ipcountry", "XX"),
                ("Cf-Ray", "8f0000000000beef-VIE"),
                ("Cf-Visitor", '{"scheme":"https"}'),
                ("Cf-Warp-Tag-Id", "00000000-0000-4000-8000-000000000000"),
                ("X-Forwarded-Proto", "https"),
            ),
            appends=(("X-Forwarded-For", CALLER),),
        )

    @classmethod
    def tailscale(cls, user: str | None = "someone@example.com") -> Self:
        """Tailscale Serve for a ``user`` of the tailnet; None is Funnel, which adds no identity."""
        identity: Headers = (("Tailscale-Funnel-Request", "?1"),)
        if user is not None:
            identity = (
                ("Tailscale-User-Login", user),
                ("Tailscale-User-Name", "Some One"),
                ("Tailscale-User-Profile-Pic", "https://example.com/someone.png"),
                ("Tailscale-Headers-Info", "https://tailscale.com/s/serve-headers"),
            )
        return cls(
            buffer_bytes=4096,
            flushes_streams=True,
            flushes_without_length=True,
            host="gpu.example.ts.net",
            sets=(
                ("X-Forwarded-For", CALLER),
                ("X-Forwarded-Host", "gpu.example.ts.net"),
                ("X-Forwarded-Proto", "https"),
                *identity,
            ),
            strips=(
                "tailscale-user-login",
                "tailscale-user-name",
                "tailscale-user-profile-pic",
                "tailscale-headers-info",
                "tailscale-funnel-request",
            ),
        )

    @classmethod
    def ngrok(cls) -> Self:
        """ngrok: 504 after about 300 s of silence, and the public name in ``Host``."""
        return cls(
            silence=300.0,
            host="something.ngrok-free.app",
            sets=(("X-Forwarded-Host", "something.ngrok-free.app"),),
            appends=(("X-Forwarded-For", CALLER), ("X-Forwarded-Proto", "https")),
        )

    @classmethod
    def nginx(cls) -> Self:
        """Nginx with ``proxy_pass`` and nothing else: 60 s, HTTP/1.0, its own ``Host``, no headers
        about the client, and streams buffered unless ``X-Accel-Buffering`` forbids it.
        """
        return cls(
            silence=60.0,
            head_counts=True,
            buffer_bytes=4096,
            honours_x_accel=True,
            request_bytes=1 << 20,
            minor=0,
            host="",
        )

    @classmethod
    def haproxy(cls) -> Self:
        """HAProxy with ``timeout server 60s``: no buffering, no added headers."""
        return cls(silence=60.0, head_counts=True)
