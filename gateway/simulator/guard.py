"""The rules of an Ollama on loopback for ``Host`` and ``Origin``."""

import ipaddress
import socket
from typing import Literal
from urllib.parse import urlsplit

from gateway.simulator.http import Headers

_SUFFIXES = (".localhost", ".local", ".internal")
_LOCAL_NAMES = ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104  - a name to compare with
_APP_SCHEMES = ("app", "file", "tauri", "vscode-webview", "vscode-file")
_ALLOWED_HEADERS = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,"
    "X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,"
    "X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,"
    "X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout"
)
_ALLOWED_METHODS = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"

Origin = Literal["none", "allowed", "foreign"]


def host_is_local(value: str) -> bool:
    """Return True if Ollama, bound to loopback, accepts this ``Host``."""
    host = _without_port(value).lower()
    if host in ("", "localhost", "host.docker.internal", socket.gethostname().lower()):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.endswith(_SUFFIXES)
    return address.is_loopback or address.is_private or address.is_unspecified


def _without_port(value: str) -> str:
    if value.startswith("["):
        return value[1:].partition("]")[0]
    return value.rpartition(":")[0] if value.count(":") == 1 else value


def classify_origin(origin: str | None, host: str) -> Origin:
    """Classify an origin; ``none`` also for a page of Ollama itself."""
    if not origin or origin in (f"http://{host}", f"https://{host}"):
        return "none"
    try:
        parts = urlsplit(origin)
        is_local = parts.scheme in ("http", "https") and parts.hostname in _LOCAL_NAMES
    except ValueError:
        return "foreign"
    return "allowed" if is_local or parts.scheme in _APP_SCHEMES else "foreign"


def cors(origin: str) -> Headers:
    return (("Access-Control-Allow-Origin", origin), ("Vary", "Origin"))


def preflight(origin: str, allow: str) -> Headers:
    """The headers of a response to ``OPTIONS``."""
    return (
        ("Access-Control-Allow-Headers", _ALLOWED_HEADERS),
        ("Access-Control-Allow-Methods", _ALLOWED_METHODS),
        ("Access-Control-Allow-Origin", origin),
        ("Access-Control-Max-Age", "43200"),
        ("Allow", allow),
        ("Vary", "Origin"),
        ("Vary", "Access-Control-Request-Method"),
        ("Vary", "Access-Control-Request-Headers"),
    )
