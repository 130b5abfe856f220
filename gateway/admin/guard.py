"""Who may use the admin listener: pure decisions about a request's head.

A request that reaches this listener is taken for the owner's. Three ways are closed by which
another request could reach it:

* A tunnel or proxy that points at the wrong port. All of them connect from loopback, and most of
  them add a header that names the client. (A proxy that adds nothing and sets ``Host`` to our own
  address cannot be told from the owner: nothing in the request differs.)
* A web page in the owner's browser. Under a name that its author points here (DNS rebinding),
  ``Host`` is that name. When it posts from its own site, ``Origin`` is that site.
* Another machine, where the listener is reachable: it needs a key with the scope ``admin``.
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from multidict import MultiMapping

from gateway.auth.authenticator import Authenticator, require_scope
from gateway.auth.keys import Scope
from gateway.errors import GatewayError, InvalidApiKey, TooManyFailures

HEALTH: Final = "/healthz"

_FORWARDING_HEADERS: Final = frozenset(
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
_FORWARDING_PREFIXES: Final = (
    "x-forwarded-",
    "cf-",
    "tailscale-",
    "ngrok-",
    "fly-",
    "x-envoy-",
)
"""How the names of the headers begin that cloudflared, Tailscale, ngrok and others add."""

_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_HTTP_PORT: Final = 80

_CHALLENGES: Final = (
    ("WWW-Authenticate", 'Bearer realm="ollama-gateway admin"'),
    # The one that browsers understand, so that a person can log in to the status page.
    ("WWW-Authenticate", 'Basic realm="ollama-gateway admin", charset="UTF-8"'),
)
_KEY_NEEDED: Final = (
    "This address is reachable from other machines, so it needs a key with the scope admin. Send "
    "it as `Authorization: Bearer <key>`; in a browser the user is the key's name and the password "
    "the key. To create one, run `ollama-gateway keys create NAME --scope admin` on the gateway's "
    "machine."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminRequest:
    """The parts of a request that decide whether it is served.

    ``peer`` is the address of the other end of the connection; ``local_address`` and
    ``local_port`` are of this end.
    """

    method: str
    path: str
    headers: MultiMapping[str]
    peer: str
    local_address: str
    local_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """The error response to send instead; ``headers`` may hold a name twice."""

    status: int
    code: str
    message: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminGuard:
    """Decides which requests the admin listener serves.

    Args:
        listen_host: The host of `listen.admin`.
        hosts: Further names that are accepted in ``Host``, with any port (`listen.admin_hosts`).
        authenticator: Checks keys where the listener is not on loopback.
        auth_failed: Gets the reason of each credential that was not accepted.
    """

    listen_host: str
    hosts: frozenset[str]
    authenticator: Authenticator
    auth_failed: Callable[[str], None]

    def check(self, request: AdminRequest) -> Rejection | None:
        """Return why the request is not served, or None if it is."""
        header = _forwarding_header(request.headers)
        if header is not None:
            return _forwarded(header)
        safe = request.method in _SAFE_METHODS
        if request.path == HEALTH and safe and _is_loopback(request.peer):
            # A container's health check has no key and may use any name. All that it can learn is
            # that the gateway runs.
            return None
        if not self._is_known_host(request):
            return _unknown_host(request)
        if not safe and not _is_same_origin(request.headers):
            return _FOREIGN_ORIGIN
        return None if self._is_private(request) else self._authenticate(request)

    def _is_known_host(self, request: AdminRequest) -> bool:
        """Return True if there is one ``Host`` and it is a name of this listener.

        An IP address is ours if the connection came to it: DNS rebinding needs a name. With it and
        with the names of loopback the port must match as well. A name that the owner added may
        come with another port, such as the one that a container publishes.
        """
        host = _host_of(request.headers)
        if host is None:
            return False
        name, port = host
        if name in self.hosts:
            return True
        is_ours = name in _LOOPBACK_NAMES or name == _canonical(request.local_address)
        return is_ours and port == request.local_port

    def _is_private(self, request: AdminRequest) -> bool:
        """Return True if the request can only come from this machine.

        ``localhost`` is what /etc/hosts says it is, so the connection must have come to loopback
        as well.
        """
        listens_on_loopback = self.listen_host == "localhost" or _is_loopback(self.listen_host)
        return listens_on_loopback and _is_loopback(request.local_address)

    def _authenticate(self, request: AdminRequest) -> Rejection | None:
        try:
            principal = self.authenticator.authenticate(
                request.headers, path_token=None, client=request.peer
            )
            require_scope(principal, Scope.ADMIN)
        except (InvalidApiKey, TooManyFailures) as error:
            self.auth_failed(_failure_reason(error))
            return _not_authenticated(error)
        except GatewayError as error:
            return _not_authenticated(error)
        return None


def _forwarding_header(headers: MultiMapping[str]) -> str | None:
    """Return the header, or its prefix, that only a proxy adds; None if there is none."""
    for name in map(str.lower, headers.keys()):
        if name in _FORWARDING_HEADERS:
            return name
        prefix = next(filter(name.startswith, _FORWARDING_PREFIXES), None)
        if prefix is not None:
            # The rest of the name can hold anything, so it is not repeated.
            return f"{prefix}*"
    return None


def _forwarded(header: str) -> Rejection:
    return Rejection(
        status=403,
        code="forwarded_request",
        message="This is the gateway's admin listener, and the request came through a tunnel or a "
        f"proxy: it has the header `{header}`. Point the tunnel at `listen.public` "
        "(127.0.0.1:11435 by default), never at this port.",
    )


def _unknown_host(request: AdminRequest) -> Rejection:
    return Rejection(
        status=403,
        code="unknown_host",
        message="The request's Host header is not a name of this listener, so the request may come "
        "from a web page that uses DNS rebinding. Use "
        f"http://127.0.0.1:{request.local_port}, or add the name to `listen.admin_hosts`.",
    )


_FOREIGN_ORIGIN: Final = Rejection(
    status=403,
    code="foreign_origin",
    message="The request comes from a web page of another site. Send it from the status page, or "
    "with a program that sends no Origin header.",
)


def _not_authenticated(error: GatewayError) -> Rejection:
    missing = isinstance(error, InvalidApiKey) and error.reason == "missing"
    others = [(name, value) for name, value in error.headers.items() if name != "WWW-Authenticate"]
    return Rejection(
        status=error.status,
        code=error.code,
        message=_KEY_NEEDED if missing else error.message,
        headers=(*others, *(_CHALLENGES if error.status == 401 else ())),
    )


def _failure_reason(error: InvalidApiKey | TooManyFailures) -> str:
    """Return, for the metric, why the credential was not accepted, also behind a 429."""
    cause = error if isinstance(error, InvalidApiKey) else error.__cause__
    return cause.reason if isinstance(cause, InvalidApiKey) else error.code


def _is_same_origin(headers: MultiMapping[str]) -> bool:
    """Return False if a web page of another site sends this request.

    Browsers name the page's origin in ``Origin``; ``null`` is that of a page without one. Browsers
    that send ``Sec-Fetch-Site`` do so even where they leave ``Origin`` out. Programs send neither.
    """
    if not set(headers.getall("Sec-Fetch-Site", ())) <= {"same-origin", "none"}:
        return False
    ours = {f"http://{host.lower()}" for host in headers.getall("Host", ())}
    return {origin.lower() for origin in headers.getall("Origin", ())} <= ours


def _host_of(headers: MultiMapping[str]) -> tuple[str, int] | None:
    """Return name and port of ``Host``; None if it is missing, repeated or malformed."""
    values = headers.getall("Host", ())
    if len(values) != 1:
        return None
    name, colon, port = values[0].strip().lower().rpartition(":")
    if not colon or port.endswith("]"):
        # No port; the colon, if any, belongs to an IPv6 address.
        name, port = values[0].strip().lower(), str(_HTTP_PORT)
    if not (port.isascii() and port.isdecimal() and len(port) <= 5):
        return None
    return _canonical(name.removesuffix(".")), int(port)


def _canonical(host: str) -> str:
    """Return the host in lower case, without brackets and zone; an address in its usual spelling.

    An IPv4 address seen through an IPv6 socket becomes the IPv4 address.
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
        return ipaddress.ip_address(_canonical(host)).is_loopback
    except ValueError:
        return False
