"""The one object that describes a request while it is served."""

import asyncio
from dataclasses import dataclass

from aiohttp import web
from msgspec import Struct

from gateway.auth.keys import Principal
from gateway.public.body import Reservation
from gateway.public.response import Response
from gateway.public.routes import Route
from gateway.telemetry.record import RequestRecord

ANONYMOUS = Principal(key="", scopes=frozenset())
"""Who sends a request to a route that needs no key, and every request before authentication."""


class RequestContext(Struct, kw_only=True, eq=False):
    """One request, its response and what is known about it.

    Args:
        request: aiohttp's.
        token: the key in a path ``/k/{token}/...``, or None.
        route: the row of the route table.
        path_model: the model's name in the path; mostly empty.
        record: what is logged and counted.
        reservation: this request's part of the memory budget.
        response: what is sent to the client.
        task: the task that serves this request.

    Mutable state: ``principal`` (set by authentication) and ``is_shut_down`` (the drain's time has
    run out and ``task`` was cancelled for it).
    """

    request: web.BaseRequest
    token: str | None
    route: Route
    path_model: str
    record: RequestRecord
    reservation: Reservation
    response: Response
    task: "asyncio.Task[object]"
    principal: Principal = ANONYMOUS
    is_shut_down: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveRequest:
    """What the status shows of a request that is being served; ``duration`` is in seconds."""

    request_id: str
    route: str
    key: str | None
    model: str | None
    phase: str
    duration: float
    heartbeats: int
