"""Who may ask the admin listener: pure decisions about a request's head.

Whoever reaches this listener is believed to be the owner, so three ways are closed by which
somebody else could reach it:

* A tunnel or proxy that was pointed at the wrong port. All of them connect from loopback; most of
  them say in a header for whom. A proxy that says nothing and sets ``Host`` to our own address
  cannot be told from the owner: nothing in the request differs.
* A web page in the owner's browser, under a name that its author lets point here (DNS rebinding):
  then ``Host`` is that name. Or a page that posts here from its own place: then ``Origin`` is it.
* Another machine, where this listener is open to others: it needs a key with the scope ``admin``.
"""

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.auth.authenticator import Authenticator, require
from gateway.auth.principal import Scope
from gateway.errors import GatewayError, InvalidApiKey, TooManyFailures

HEALTH: Final = "/healthz"

_FORWARDED: Final = frozenset(
    {
        "forwarded",
        # RFC 9110, section 7.6.3: every proxy must add it to what it forwards.
        "via",
        "cdn-loop",
        "client-ip",
        "true-client-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-real-ip",
        "x-original-host",
    }
)
_FORWARDED_FAMILIES: Final = ("x-forwarded-", "cf-", "tailscale-", "ngrok-", "fly-", "x-envoy-")
"""What begins the names of headers that cloudflared, Tailscale, ngrok and their like add."""

_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_HTTP_PORT: Final = 80

_CHALLENGES: Final = (
    ("WWW-Authenticate", 'Bearer realm="ollama-gateway admin"'),
    # The one that a browser understands, so that a person can log in to the status page.
    ("WWW-Authenticate", 'Basic realm="ollama-gateway admin", charset="UTF-8"'),
)
_MAKE_A_KEY: Final = (
    "This address can be reached from other machines, so it needs a key with the scope admin. "
    "Send it as `Authorization: Bearer <key>`; in a browser the user is the key's name and the "
    "password the key. On the gateway's machine, `ollama-gateway keys create NAME --scope admin` "
    "makes one."
)


class Headers(Protocol):
    """Names without regard to case, to all their values; what multidict gives."""

    def getall(self, name: str, default: tuple[()], /) -> Sequence[str]: ...
    def keys(self) -> Iterable[str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request, as far as it decides who may ask.

    ``peer`` is the address at the other end of the connection; ``here`` and ``port`` are this end.
    """

    method: str
    path: str
    headers: Headers
    peer: str
    here: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What to answer instead; ``headers`` may hold a name twice."""

    status: int
    code: str
    message: str
    headers: tuple[tuple[str, str], ...] = ()


def _nobody_counts(_reason: str) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminGuard:
    """``listen_host`` is where we listen, as set; ``hosts`` are further names for ``Host``, with
    any port. ``auth_failed`` is told the reason of each credential that was not accepted.
    """

    listen_host: str
    hosts: frozenset[str]
    authenticator: Authenticator
    auth_failed: Callable[[str], None] = _nobody_counts

    def refusal(self, asked: Asked) -> Refusal | None:
        """Why the request is not served, or None."""
        if (name := _forwarding_header(asked.headers)) is not None:
            return _forwarded(name)
        if asked.path == HEALTH and _is_loopback(asked.peer) and asked.method in _SAFE_METHODS:
            # A container's health check: it has no key, and may call us what it likes. All that it
            # can learn is that something lives here.
            return None
        if not self._is_ours(asked):
            return _unknown_host(asked)
        if asked.method not in _SAFE_METHODS and not _is_from_here(asked.headers):
            return _FOREIGN_ORIGIN
        return None if self._is_private(asked) else self._unproved(asked)

    def _is_ours(self, asked: Asked) -> bool:
        """Whether the one ``Host`` is a name of ours.

        An address is ours if the connection came to it: rebinding needs a name. With it and with
        the names of loopback the port must be right as well; a name that the owner added may stand
        for another port, such as the one that a container publishes.
        """
        host = _host_of(asked.headers)
        if host is None:
            return False
        name, port = host
        if name in self.hosts:
            return True
        return port == asked.port and (name in _LOOPBACK_NAMES or name == _plain(asked.here))

    def _is_private(self, asked: Asked) -> bool:
        """Whether only this machine can have asked. ``localhost`` is what /etc/hosts says it is,
        so the connection must have come to loopback as well.
        """
        listens_there = self.listen_host == "localhost" or _is_loopback(self.listen_host)
        return listens_there and _is_loopback(asked.here)

    def _unproved(self, asked: Asked) -> Refusal | None:
        try:
            principal = self.authenticator.identify(
                asked.headers, path_token=None, client=asked.peer
            )
            require(principal, Scope.ADMIN)
        except (InvalidApiKey, TooManyFailures) as error:
            self.auth_failed(_reason(error))
            return _not_proved(error)
        except GatewayError as error:
            return _not_proved(error)
        return None


def _forwarding_header(headers: Headers) -> str | None:
    """The header, or its family, that only somebody between us and the caller adds."""
    for name in map(str.lower, headers.keys()):
        if name in _FORWARDED:
            return name
        family = next(filter(name.startswith, _FORWARDED_FAMILIES), None)
        if family is not None:
            return f"{family}*"
    return None


def _forwarded(name: str) -> Refusal:
    return Refusal(
        status=403,
        code="forwarded_request",
        message=f"This is the gateway's admin listener, and the request came through a tunnel or a "
        f"proxy: it has the header `{name}`. Point the tunnel at `listen.public` "
        "(127.0.0.1:11435 unless it was changed), never at this port.",
    )


def _unknown_host(asked: Asked) -> Refusal:
    return Refusal(
        status=403,
        code="unknown_host",
        message="The request's Host header is not a name of this listener, so it may come from a "
        f"web page that pretends to be here. Use http://127.0.0.1:{asked.port}, or add the name "
        "that you use to `listen.admin_hosts`.",
    )


_FOREIGN_ORIGIN: Final = Refusal(
    status=403,
    code="foreign_origin",
    message="The request comes from a web page of another place. Send it from the status page "
    "itself, or with a program that sends no Origin header.",
)


def _not_proved(error: GatewayError) -> Refusal:
    missing = isinstance(error, InvalidApiKey) and error.reason == "missing"
    others = [(name, value) for name, value in error.headers.items() if name != "WWW-Authenticate"]
    return Refusal(
        status=error.status,
        code=error.code,
        message=_MAKE_A_KEY if missing else error.message,
        headers=(*others, *(_CHALLENGES if error.status == 401 else ())),
    )


def _reason(error: InvalidApiKey | TooManyFailures) -> str:
    """For the metric: why the credential was not accepted, also where it no longer gets told."""
    cause = error if isinstance(error, InvalidApiKey) else error.__cause__
    return cause.reason if isinstance(cause, InvalidApiKey) else error.code


def _is_from_here(headers: Headers) -> bool:
    """Whether no web page of another place sends this: browsers name the page's in ``Origin``.

    ``null`` is the origin of pages that have none. Browsers that send ``Sec-Fetch-Site`` tell it
    even where they leave ``Origin`` out.
    """
    origins = headers.getall("Origin", ())
    sites = headers.getall("Sec-Fetch-Site", ())
    if not set(sites) <= {"same-origin", "none"}:
        return False
    ours = {f"http://{host.lower()}" for host in headers.getall("Host", ())}
    return {origin.lower() for origin in origins} <= ours


def _host_of(headers: Headers) -> tuple[str, int] | None:
    """Name and port of ``Host``; None where it is missing, doubled or no such thing."""
    values = headers.getall("Host", ())
    if len(values) != 1:
        return None
    name, colon, port = values[0].strip().lower().rpartition(":")
    if not colon or port.endswith("]"):
        name, port = values[0].strip().lower(), str(_HTTP_PORT)
    if not (port.isascii() and port.isdecimal() and len(port) <= 5):
        return None
    return _plain(name.removesuffix(".")), int(port)


def _plain(host: str) -> str:
    """Without brackets and zone; an IPv4 address seen through an IPv6 socket as it is; lower case.

    An address in its usual spelling, for there are several.
    """
    bare = host.lower().removeprefix("[").removesuffix("]").partition("%")[0]
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return bare
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(_plain(host)).is_loopback
    except ValueError:
        return False
