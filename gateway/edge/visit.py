"""One request on its way in: what came, what goes back, and what is noted of it."""

from aiohttp import web
from msgspec import Struct

from gateway.access.principal import Principal
from gateway.edge.answer import Answer
from gateway.edge.buffers import Share
from gateway.edge.routes import Route
from gateway.telemetry.exchange import Exchange


class Visit(Struct, frozen=True, kw_only=True):
    """A request of which nothing is known yet but its head. ``token`` is that of ``/k/{token}``."""

    request: web.BaseRequest
    path: str
    token: str | None
    answer: Answer
    exchange: Exchange
    share: Share


class Asking(Struct, frozen=True, kw_only=True):
    """A request whose caller and route are known; ``model`` is what varies in its path."""

    request: web.BaseRequest
    answer: Answer
    exchange: Exchange
    share: Share
    route: Route
    principal: Principal
    model: str | None = None
