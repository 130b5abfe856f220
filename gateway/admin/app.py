"""The admin listener: metrics, health, and a page for the owner. Never what a tunnel points at."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from gateway.admin import page as status_page
from gateway.admin.guard import AdminGuard, Asked, Refusal
from gateway.errors import GatewayError, InternalError, MethodNotAllowed, UnknownRoute

_PAGES: Final = (
    "/status (for people), /status.json, /metrics (for Prometheus), /healthz (200 while the "
    "process lives), /readyz (200 while calls can be served) and POST /refresh (asks Ollama for "
    "its models now)"
)
_MAX_BODY: Final = 4096
"""Bytes. Nothing here reads a body."""


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What became of asking Ollama for its list. ``models`` and ``age`` (seconds) are those of the
    list that we have now, None without one; ``error`` says why Ollama's own could not be had.
    """

    models: int | None
    age: float | None
    error: GatewayError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminView:
    """What the pages show, handed in.

    ``exposition`` makes the metrics in a format that an ``Accept`` header asks for, and tells its
    content type. ``ready`` is None while calls can be served, else one line that says why not.
    ``status`` is the content of ``/status.json``, see ``gateway.admin.status``. ``crashed`` is told
    of bugs.
    """

    exposition: Callable[[str], tuple[bytes, str]]
    ready: Callable[[], str | None]
    status: Callable[[], Awaitable[Mapping[str, Any]]]
    refresh: Callable[[], Awaitable[Refreshed]]
    crashed: Callable[[Exception], None]


def admin_app(view: AdminView, guard: AdminGuard) -> web.Application:
    """The application that listens on ``listen.admin``; every request passes the guard first."""
    pages = _Pages(view)
    app = web.Application(
        middlewares=[_dressed, _failures(view), _guarded(guard)], client_max_size=_MAX_BODY
    )
    app.router.add_get("/", pages.root)
    app.router.add_get("/metrics", pages.metrics)
    app.router.add_get("/healthz", pages.health)
    app.router.add_get("/readyz", pages.ready)
    app.router.add_get("/status", pages.status)
    app.router.add_get("/status.json", pages.status_json)
    app.router.add_post("/refresh", pages.refresh)
    return app


class _Pages:
    """One method for each page; aiohttp leaves out the body where the method is HEAD."""

    def __init__(self, view: AdminView) -> None:
        self._view = view

    async def root(self, request: web.Request) -> web.Response:
        """For whoever types the address alone; a program may take us for Ollama here."""
        if not _is_browser(request):
            raise web.HTTPNotFound
        return web.Response(status=303, headers={"Location": "/status"})

    async def metrics(self, request: web.Request) -> web.Response:
        accept = ",".join(request.headers.getall("Accept", ()))
        body, content_type = self._view.exposition(accept)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def health(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(self, _request: web.Request) -> web.Response:
        reason = self._view.ready()
        if reason is None:
            return web.Response(text="ready\n")
        return web.Response(status=503, text=f"{reason}\n")

    async def status(self, _request: web.Request) -> web.Response:
        page = status_page.render(await self._view.status())
        return web.Response(text=page, content_type="text/html")

    async def status_json(self, _request: web.Request) -> web.Response:
        return _json(200, await self._view.status())

    async def refresh(self, request: web.Request) -> web.Response:
        """For programs the result; for a browser, whose form this is, the page again."""
        refreshed = await self._view.refresh()
        if _is_browser(request):
            return web.Response(status=303, headers={"Location": "/status"})
        error = refreshed.error
        return _json(
            200 if error is None else error.status,
            {
                "models": refreshed.models,
                "age": refreshed.age,
                "stale": error is not None,
                "error": None if error is None else _error(error.code, error.message),
            },
        )


def _is_browser(request: web.Request) -> bool:
    return "text/html" in request.headers.get("Accept", "")


@web.middleware
async def _dressed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """No page is kept by anybody, or taken for something else, or shown within another."""
    response = await handler(request)
    response.headers.update(
        {
            "Cache-Control": "no-store",
            "Content-Security-Policy": status_page.CONTENT_SECURITY_POLICY,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            # Not "no-referrer": with it browsers call the origin of the page's own form "null".
            "Referrer-Policy": "same-origin",
        }
    )
    return response


def _guarded(guard: AdminGuard) -> Middleware:
    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = guard.refusal(_asked(request))
        return await handler(request) if refusal is None else _refused(refusal)

    return guarded


def _failures(view: AdminView) -> Middleware:
    @web.middleware
    async def told(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            message = f"{request.path} takes {allowed} only."
            headers = {"Allow": allowed}
            return _json_error(405, MethodNotAllowed.code, message, headers)
        except web.HTTPNotFound:
            message = f"The admin listener has no such page. It has {_PAGES}."
            return _json_error(404, UnknownRoute.code, message)
        except GatewayError as error:
            return _json_error(error.status, error.code, error.message, error.headers)
        except Exception as error:  # noqa: BLE001  - the one place here where bugs are rendered
            view.crashed(error)
            bug = InternalError("The page could not be made. The gateway's log holds the reason.")
            return _json_error(500, bug.code, bug.message)

    return told


def _asked(request: web.Request) -> Asked:
    transport = request.transport
    here = None if transport is None else transport.get_extra_info("sockname")
    host, port = here[:2] if isinstance(here, tuple) else ("", 0)
    return Asked(
        method=request.method,
        path=request.path,
        headers=request.headers,
        peer=request.remote or "",
        here=host,
        port=port,
    )


def _refused(refusal: Refusal) -> web.Response:
    response = _json_error(refusal.status, refusal.code, refusal.message)
    for name, value in refusal.headers:
        response.headers.add(name, value)
    return response


def _json_error(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> web.Response:
    response = _json(status, {"error": _error(code, message)})
    response.headers.update(headers or {})
    return response


def _error(code: str, message: str) -> dict[str, str]:
    return {"message": message, "code": code}


def _json(status: int, value: Mapping[str, Any]) -> web.Response:
    body = msgspec.json.encode(value) + b"\n"
    return web.Response(status=status, body=body, content_type="application/json")
