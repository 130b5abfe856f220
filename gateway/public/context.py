"""One request on its way in: what came, what goes back, and what is noted of it."""

from dataclasses import dataclass

from aiohttp import web
from msgspec import Struct

from gateway.auth.principal import Principal
from gateway.public.memory import Reservation
from gateway.public.response import Response
from gateway.public.routes import Route
from gateway.telemetry.record import RequestRecord


class RequestContext(Struct, frozen=True, kw_only=True):
    """A request of which nothing is known yet but its head. ``token`` is that of ``/k/{token}``."""

    request: web.BaseRequest
    path: str
    token: str | None
    answer: Response
    record: RequestRecord
    share: Reservation


class AuthorizedRequest(Struct, frozen=True, kw_only=True):
    """A request whose caller and route are known; ``model`` is what varies in its path."""

    request: web.BaseRequest
    answer: Response
    record: RequestRecord
    share: Reservation
    route: Route
    principal: Principal
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderWay:
    """A request that is being served: for ``duration`` seconds, and ``phase`` is what it is at."""

    request_id: str
    route: str
    key: str | None
    model: str | None
    phase: str
    duration: float
    heartbeats: int
