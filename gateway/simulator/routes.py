"""The routes, matched as Ollama's routers match them."""

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import quote, unquote_to_bytes, urlsplit

MODEL_PREFIX = "/v1/models/"
MODEL_ROUTE = "/v1/models/{model}"
"""The model may contain slashes and colons."""

# In the order of the Allow header.
_READ = ("HEAD", "GET")
_METHODS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "/": _READ,
        "/api/version": _READ,
        "/api/tags": _READ,
        "/api/ps": ("GET",),
        "/api/show": ("POST",),
        "/api/chat": ("POST",),
        "/api/generate": ("POST",),
        "/api/embed": ("POST",),
        "/api/embeddings": ("POST",),
        "/v1/models": ("GET",),
        MODEL_ROUTE: ("GET",),
        "/v1/chat/completions": ("POST",),
        "/v1/completions": ("POST",),
        "/v1/embeddings": ("POST",),
        "/v1/responses": ("POST",),
        "/v1/messages": ("POST",),
    }
)

INFERENCE = frozenset(path for path, methods in _METHODS.items() if methods == ("POST",)) - {
    "/api/show"
}


@dataclass(frozen=True, slots=True)
class Found:
    route: str
    argument: str = ""
    """The model of ``/v1/models/{model}``."""


@dataclass(frozen=True, slots=True)
class Moved:
    status: int
    location: str
    with_page: bool
    """Only ``GET`` and ``HEAD`` get an HTML page."""


@dataclass(frozen=True, slots=True)
class WrongMethod:
    allow: str


@dataclass(frozen=True, slots=True)
class Unknown:
    pass


Destination = Found | Moved | WrongMethod | Unknown


def target_path(target: str) -> str:
    """Return the decoded path of a request target: ``/api%2fversion`` is a route."""
    if not target.startswith("/"):
        target = urlsplit(target).path or "/"
    raw = target.partition("?")[0]
    return unquote_to_bytes(raw).decode("utf-8", "replace")


def find(method: str, target: str) -> Destination:
    """Find the route of a request. Paths are cleaned first; their case matters."""
    path = target_path(target)
    reads = method in _READ
    clean = _clean(path)
    if clean != path:
        return Moved(307, quote(clean), reads)
    route, argument = _route(path)
    if route is None:
        bare = path.rstrip("/")
        if bare != path and _route(bare)[0] is not None:
            return Moved(301 if reads else 307, quote(bare), reads)
        return Unknown()
    methods = _METHODS[route]
    if method not in methods:
        return WrongMethod(", ".join(methods))
    return Found(route, argument)


def _route(path: str) -> tuple[str | None, str]:
    if path in _METHODS:
        return path, ""
    model = path.removeprefix(MODEL_PREFIX)
    if model != path and model and not model.endswith("/"):
        return MODEL_ROUTE, model
    return None, ""


def _clean(path: str) -> str:
    clean = posixpath.normpath(re.sub("/+", "/", path))
    return clean + "/" if path.endswith("/") and clean != "/" else clean
