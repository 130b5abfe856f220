"""The positive list: what this gateway serves, and nothing else. Pure.

Paths are matched as they were sent, byte for byte, and never forwarded: each row names a constant
path of Ollama's. So no encoding, dot segment or doubled slash reaches anything, for it matches
nothing. The one variable part, a model's name, is answered from the catalogue.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from urllib.parse import unquote

from msgspec import Struct

from gateway.auth.principal import Scope
from gateway.dialects import ANTHROPIC, OLLAMA, OPENAI, RESPONSES, Dialect
from gateway.errors import MethodNotAllowed, UnknownRoute


class Page(StrEnum):
    """What answers a route of discovery; inference has one answer for all its routes."""

    HEALTH = "health"
    ROOT = "root"
    VERSION = "version"
    TAGS = "tags"
    SHOW = "show"
    PS = "ps"
    MODELS = "models"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Route:
    """One row. ``template`` is its name in log and metrics; ``page`` None means inference.

    One that cannot stream answers in one piece, whatever is asked for.
    """

    template: str
    methods: tuple[str, ...]
    scope: Scope | None
    dialect: Dialect
    page: Page | None = None
    can_stream: bool = True


class Match(Struct, frozen=True):
    """A row that fits, and the parts of the path that vary."""

    route: Route
    model: str | None = None


_MODEL_PREFIX = "/v1/models/"
_AUTHORITY_END = re.compile(r"[/?#]")


def _inference(path: str, dialect: Dialect) -> Route:
    return Route(path, ("POST",), Scope.INFERENCE, dialect)


def _embedding(path: str, dialect: Dialect) -> Route:
    return Route(path, ("POST",), Scope.INFERENCE, dialect, can_stream=False)


def _discovery(path: str, methods: tuple[str, ...], dialect: Dialect, page: Page) -> Route:
    return Route(path, methods, Scope.DISCOVERY, dialect, page)


_READ = ("GET", "HEAD")
ROUTES = (
    Route("/healthz", _READ, None, OPENAI, Page.HEALTH),
    _discovery("/", _READ, OLLAMA, Page.ROOT),
    _discovery("/api/version", _READ, OLLAMA, Page.VERSION),
    _discovery("/api/tags", _READ, OLLAMA, Page.TAGS),
    _discovery("/api/show", ("POST",), OLLAMA, Page.SHOW),
    _discovery("/api/ps", ("GET",), OLLAMA, Page.PS),
    _discovery("/v1/models", ("GET",), OPENAI, Page.MODELS),
    _discovery("/v1/models/{model}", ("GET",), OPENAI, Page.MODEL),
    _inference("/v1/chat/completions", OPENAI),
    _inference("/v1/completions", OPENAI),
    _embedding("/v1/embeddings", OPENAI),
    _inference("/v1/responses", RESPONSES),
    _inference("/v1/messages", ANTHROPIC),
    _inference("/api/chat", OLLAMA),
    _inference("/api/generate", OLLAMA),
    _embedding("/api/embed", OLLAMA),
    _embedding("/api/embeddings", OLLAMA),
)


def _by_path() -> Mapping[str, Route]:
    table = {route.template: route for route in ROUTES}
    # Callers build these from a base_url with and without its /v1.
    aliases = {
        path.removeprefix("/v1"): route
        for path, route in table.items()
        if path.startswith("/v1/") and "{" not in path
    }
    aliases["/v1/v1/models"] = table["/v1/models"]
    return MappingProxyType(table | aliases)


_TABLE = _by_path()
_MODEL_ROUTE = _TABLE["/v1/models/{model}"]


def split_token(target: str) -> tuple[str, str | None]:
    """A request target as sent, taken apart: its path without ``/k/{token}``, and the token.

    The query is dropped; of an absolute-form target (RFC 9112, section 3.2.2) the path counts.
    What is neither, ``*`` or the authority of a CONNECT, stays as it is and matches no route.
    """
    path = _without_origin(target).partition("?")[0]
    if not path.startswith("/k/"):
        return path, None
    token, slash, rest = path[3:].partition("/")
    return slash + rest or "/", unquote(token)


def _without_origin(target: str) -> str:
    scheme, mark, rest = target.partition("://")
    if target.startswith("/") or not mark or scheme.lower() not in ("http", "https"):
        return target
    # RFC 3986, section 3.2: the authority ends at the first of these, not at the first slash.
    ends = _AUTHORITY_END.search(rest)
    tail = "" if ends is None else rest[ends.start() :]
    return tail if tail.startswith("/") else f"/{tail}"


def match(method: str, path: str) -> Match:
    """The row for a request.

    Raises:
        UnknownRoute: no row has this path.
        MethodNotAllowed: one has, with other methods.
    """
    route, model = _find(path)
    if route is None:
        raise UnknownRoute
    if method not in route.methods:
        allowed = ", ".join(route.methods)
        raise MethodNotAllowed(
            f"{route.template} is called with {allowed}.", headers={"Allow": allowed}
        )
    return Match(route, model)


def dialect_of(path: str) -> Dialect:
    """How to speak to somebody who asked for this path, served or not."""
    route, _ = _find(path)
    if route is not None:
        return route.dialect
    return OLLAMA if path.startswith("/api") else OPENAI


def _find(path: str) -> tuple[Route | None, str | None]:
    route = _TABLE.get(path)
    if route is not None and route is not _MODEL_ROUTE:
        return route, None
    for prefix in (_MODEL_PREFIX, "/models/"):
        if path.startswith(prefix) and len(path) > len(prefix):
            return _MODEL_ROUTE, unquote(path[len(prefix) :])
    return None, None
