"""What stands between callers and a gateway: what a tunnel or a proxy does to what passes it.

The habits of those in use are as far as possible the measured ones (nginx 1.22, HAProxy 2.6) or
read in their source or documentation (cloudflared, Tailscale, ngrok). What of them depends on an
account or a plan is told here as it is for one that pays nothing.
"""

from dataclasses import dataclass, replace
from typing import Self

from gateway.simulator.http import Headers

CALLER = "203.0.113.7"
"""Where all callers seem to come from: an address that exists in documentation only (RFC 5737)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelHabits:
    """Seconds are real ones; None means never. By default everything passes as it is.

    An answer is cut, with the connection to the target, when ``silence`` or ``longest`` has passed.
    If nothing of it was passed on, the caller is told ``cut_status``; else his connection closes
    without the end of the body.
    """

    silence: float | None = None
    """How long no byte of an answer's body may come: since the request was sent, or since the last
    one. The head of an answer is none, unless ``head_counts``."""
    head_counts: bool = False
    longest: float | None = None
    """How long an answer may take in all, whatever comes."""
    cut_status: int = 504
    holds_head: bool = False
    """The head of an answer is passed on with the first byte of its body. An answer that is cut
    between the two is told by ``cut_status``, where else its head would be all that there is."""

    buffer_bytes: int | None = None
    """So many bytes of a body are gathered, or all of it, before they are passed on with its head.
    What is gathered when an answer is cut is lost."""
    obeys_accel: bool = False
    """``X-Accel-Buffering: no`` in an answer is obeyed: nothing is gathered. It is not passed on"""
    flushes_streams: bool = False
    """Nothing is gathered of what is ``text/event-stream``, ``application/x-ndjson`` or gRPC."""
    flushes_unmeasured: bool = False
    """Nothing is gathered of an answer without a ``Content-Length``."""

    drop_at: int | None = None
    """The caller's connection closes when so many bytes of an answer of the target were sent to
    him: of its head, and its body as it stands on the wire. 0 is before its first byte."""
    drop_times: int | None = None
    """How many answers are dropped; what is shorter than ``drop_at`` is none of them."""

    request_bytes: int | None = None
    """A body that is longer is refused with 413."""
    minor: int = 1
    """The target is asked in HTTP/1.1; at 0 in HTTP/1.0, and so answers without chunks."""
    host: str | None = None
    """What ``Host`` becomes. None leaves it as the caller sent it, "" is the target's address."""
    sets: Headers = ()
    """What the target is told, whatever the caller said under these names."""
    appends: Headers = ()
    """What is added to the caller's own values of these names, behind a comma."""
    strips: tuple[str, ...] = ()
    """Names, in lower case, of what the caller may not say."""

    def scaled(self, scale: float) -> Self:
        """The same with ``scale`` real seconds for each of a real tunnel's."""
        return replace(
            self,
            silence=None if self.silence is None else self.silence * scale,
            longest=None if self.longest is None else self.longest * scale,
        )

    @classmethod
    def cloudflare(cls) -> Self:
        """A Cloudflare Tunnel: 524 after 100 s without a byte of the body, heads do not count.

        The documented limit has been 100, 120 and 125 s; this is the strictest. Their edge tells
        524 though the head had come, so it cannot have passed it on. cloudflared gathers only what
        has a length and is no stream, over HTTP/2.
        """
        return cls(
            silence=100.0,
            cut_status=524,
            holds_head=True,
            buffer_bytes=4096,
            flushes_streams=True,
            flushes_unmeasured=True,
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
        """Tailscale Serve for a ``user`` of the tailnet; None is Funnel, which knows nobody."""
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
            flushes_unmeasured=True,
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
        """Nginx with ``proxy_pass`` and nothing else: 60 s, HTTP/1.0, its own ``Host``, no word
        about the caller, and streams gathered by the page unless they forbid it.
        """
        return cls(
            silence=60.0,
            head_counts=True,
            buffer_bytes=4096,
            obeys_accel=True,
            request_bytes=1 << 20,
            minor=0,
            host="",
        )

    @classmethod
    def haproxy(cls) -> Self:
        """HAProxy with ``timeout server 60s``: it gathers nothing and says nothing."""
        return cls(silence=60.0, head_counts=True)
