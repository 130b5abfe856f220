"""The route table: everything that the gateway serves. Pure.

Paths are matched byte for byte as they were sent, and never forwarded: each row names a constant
path of Ollama's. No encoding, dot segment or doubled slash reaches Ollama, because it matches no
row. The only variable part, a model's name, is answered from the catalog.

To add a route, add a row to ``ROUTES``; a discovery route also needs its method in
``gateway.public.discovery``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote

from gateway.auth.keys import Scope
from gateway.dialects import ANTHROPIC, OLLAMA, OPENAI, RESPONSES, Dialect
from gateway.telemetry.record import UNKNOWN_ROUTE


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the table.

    Args:
        template: the path, Ollama's too; the route's name in log and metrics.
        methods: those that are allowed; none for a path that is not in the table.
        scope: what a key needs; None if no key is needed.
        dialect: how requests and errors look.
        can_stream: False if Ollama sends a complete response whatever is asked for.
    """

    template: str
    methods: tuple[str, ...]
    scope: Scope | None
    dialect: Dialect
    can_stream: bool = True


HEALTH: Final = "/healthz"
MODEL: Final = "/v1/models/{model}"

_READ = ("GET", "HEAD")
_GET = ("GET",)
_POST = ("POST",)

ROUTES: Final = (
    Route(HEALTH, _READ, None, OPENAI),
    Route("/", _READ, Scope.DISCOVERY, OLLAMA),
    Route("/api/version", _READ, Scope.DISCOVERY, OLLAMA),
    Route("/api/tags", _READ, Scope.DISCOVERY, OLLAMA),
    Route("/api/show", _POST, Scope.DISCOVERY, OLLAMA),
    Route("/api/ps", _GET, Scope.DISCOVERY, OLLAMA),
    Route("/v1/models", _GET, Scope.DISCOVERY, OPENAI),
    Route(MODEL, _GET, Scope.DISCOVERY, OPENAI),
    Route("/v1/chat/completions", _POST, Scope.INFERENCE, OPENAI),
    Route("/v1/completions", _POST, Scope.INFERENCE, OPENAI),
    Route("/v1/embeddings", _POST, Scope.INFERENCE, OPENAI, can_stream=False),
    Route("/v1/responses", _POST, Scope.INFERENCE, RESPONSES),
    Route("/v1/messages", _POST, Scope.INFERENCE, ANTHROPIC),
    Route("/api/chat", _POST, Scope.INFERENCE, OLLAMA),
    Route("/api/generate", _POST, Scope.INFERENCE, OLLAMA),
    Route("/api/embed", _POST, Scope.INFERENCE, OLLAMA, can_stream=False),
    Route("/api/embeddings", _POST, Scope.INFERENCE, OLLAMA, can_stream=False),
)

_UNKNOWN_OPENAI = Route(UNKNOWN_ROUTE, (), None, OPENAI)
_UNKNOWN_NATIVE = Route(UNKNOWN_ROUTE, (), None, OLLAMA)

_AUTHORITY_END = re.compile(r"[/?#]")


def _by_path() -> Mapping[str, Route]:
    table = {route.template: route for route in ROUTES}
    # Clients build these from a base URL with and without its /v1.
    aliases = {
        path.removeprefix("/v1"): route
        for path, route in table.items()
        if path.startswith("/v1/") and route.template != MODEL
    }
    aliases["/v1/v1/models"] = table["/v1/models"]
    return MappingProxyType(table | aliases)


_TABLE = _by_path()
_MODEL_ROUTE = _TABLE[MODEL]


def find_route(path: str) -> tuple[Route, str]:
    """Return the row for a path and the model's name in it, which is mostly empty.

    For a path that is not in the table the row has no methods; its dialect is a guess.
    """
    route = _TABLE.get(path)
    if route is not None and route is not _MODEL_ROUTE:
        return route, ""
    for prefix in ("/v1/models/", "/models/"):
        if path.startswith(prefix) and len(path) > len(prefix):
            return _MODEL_ROUTE, unquote(path[len(prefix) :])
    return (_UNKNOWN_NATIVE if path.startswith("/api") else _UNKNOWN_OPENAI), ""


def split_token(target: str) -> tuple[str, str | None]:
    """Split a request target as it was sent: its path without ``/k/{token}``, and the token.

    The query is dropped. Of an absolute-form target (RFC 9112, section 3.2.2) the path counts.
    What is neither, ``*`` or the authority of a CONNECT, stays as it is and matches no route.
    """
    path = _without_origin(target).partition("?")[0]
    if not path.startswith("/k/"):
        return path, None
    token, slash, rest = path[3:].partition("/")
    return slash + rest or "/", unquote(token)


def _without_origin(target: str) -> str:
    if target.startswith("/"):
        return target
    scheme, mark, rest = target.partition("://")
    if not mark or scheme.lower() not in ("http", "https"):
        return target
    # RFC 3986, section 3.2: the authority ends at the first of these, not at the first slash.
    end = _AUTHORITY_END.search(rest)
    tail = "" if end is None else rest[end.start() :]
    return tail if tail.startswith("/") else f"/{tail}"
