"""The admin listener: status page, metrics and health, for the owner only.

A tunnel must never point at it, and every request passes `gateway.admin.guard` first. The status
page is three static files, which read ``/status.json``.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.admin.builder import StatusInputs, build_status, not_ready_reason
from gateway.admin.guard import HEALTH, AdminGuard, AdminRequest
from gateway.admin.status import ErrorInfo, RefreshResult, Status
from gateway.app import Gateway
from gateway.auth.authenticator import Authenticator
from gateway.auth.limits import FailureLimiter
from gateway.errors import (
    GatewayError,
    InternalError,
    MethodNotAllowed,
    UnknownRoute,
    UpstreamProtocolError,
    UpstreamUnreachable,
)
from gateway.models.catalog import CachedList

_STATIC_FILES: Final = MappingProxyType(
    {
        "/status": ("status.html", "text/html"),
        "/static/status.css": ("status.css", "text/css"),
        "/static/status.js": ("status.js", "text/javascript"),
    }
)
"""Path to file and media type; the files are in ``static`` beside this module."""

_ROUTES_TEXT: Final = (
    "/status (the page for people), /status.json, /metrics (for Prometheus), /healthz (200 while "
    "the process runs), /readyz (200 while requests can be served) and POST /refresh (reads "
    "Ollama's model list now)"
)
_MAX_BODY: Final = 4096
"""Bytes. No route reads a body."""

_HEADERS: Final = MappingProxyType(
    {
        "Cache-Control": "no-store",
        # Names of models and Ollama's errors are shown as text. Even if one of them became markup,
        # it could load, run and send nothing, and no string can be assigned to innerHTML.
        # `img-src` is for the page's empty icon, without which browsers ask for /favicon.ico.
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
            "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
            "require-trusted-types-for 'script'; trusted-types 'none'"
        ),
        "Cross-Origin-Resource-Policy": "same-origin",
        # Not "no-referrer": with it browsers send `Origin: null` with the page's own form.
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }
)
"""On every response: it is not cached, taken for another type, or shown inside another page."""


def admin_app(gateway: Gateway, *, started_at: datetime | None = None) -> web.Application:
    """Make the application that serves ``listen.admin``.

    Args:
        gateway: The gateway that it reports on.
        started_at: When that was started, an aware datetime; now by default.
    """
    admin = _Admin(gateway, started_at or _now())
    app = web.Application(
        # The outermost first: the rejections of the guard get the headers, too.
        middlewares=[_add_headers, admin.render_errors, admin.check_access],
        client_max_size=_MAX_BODY,
    )
    for path in _STATIC_FILES:
        app.router.add_get(path, admin.get_static_file)
    app.router.add_get("/", admin.get_root)
    app.router.add_get("/status.json", admin.get_status)
    app.router.add_get("/metrics", admin.get_metrics)
    app.router.add_get(HEALTH, admin.get_health)
    app.router.add_get("/readyz", admin.get_ready)
    app.router.add_post("/refresh", admin.post_refresh)
    return app


class _Admin:
    """The handlers. aiohttp leaves out the body of a response to HEAD."""

    def __init__(self, gateway: Gateway, started_at: datetime) -> None:
        self._gateway = gateway
        self._started_at = started_at
        settings = gateway.settings
        # It counts failures of its own: those of the public listener say nothing about clients of
        # this one.
        failures = FailureLimiter(settings.limits.failures_per_minute)
        self._guard = AdminGuard(
            listen_host=settings.listen.admin.host,
            hosts=frozenset(settings.listen.admin_hosts),
            authenticator=Authenticator(gateway.keys, failures, now=_now),
            auth_failed=gateway.metrics.auth_failed,
        )
        static = files("gateway.admin") / "static"
        self._static = {
            path: (static.joinpath(name).read_bytes(), media_type)
            for path, (name, media_type) in _STATIC_FILES.items()
        }

    # Middlewares.

    @web.middleware
    async def check_access(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Serve only what the guard admits; a path that does not exist is guarded as well."""
        transport = request.transport
        sockname = None if transport is None else transport.get_extra_info("sockname")
        address, port = sockname[:2] if isinstance(sockname, tuple) else ("", 0)
        rejection = self._guard.check(
            AdminRequest(
                method=request.method,
                path=request.path,
                headers=request.headers,
                peer=request.remote or "",
                local_address=address,
                local_port=port,
            )
        )
        if rejection is None:
            return await handler(request)
        response = _error(rejection.status, rejection.code, rejection.message)
        for name, value in rejection.headers:
            response.headers.add(name, value)
        return response

    @web.middleware
    async def render_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn every error into JSON; a bug is logged and its details are not shown."""
        try:
            return await handler(request)
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            message = f"{request.path} accepts {allowed} only."
            return _error(405, MethodNotAllowed.code, message, {"Allow": allowed})
        except web.HTTPNotFound:
            message = f"The admin listener has no such page. It has {_ROUTES_TEXT}."
            return _error(404, UnknownRoute.code, message)
        except GatewayError as error:
            return _error(error.status, error.code, error.message, error.headers)
        except Exception:
            self._gateway.log.exception("admin.crashed")
            message = "The gateway could not make this page. Its log has the reason."
            return _error(500, InternalError.code, message)

    # Routes.

    async def get_static_file(self, request: web.Request) -> web.Response:
        body, media_type = self._static[request.path]
        return web.Response(body=body, content_type=media_type, charset="utf-8")

    async def get_root(self, request: web.Request) -> web.Response:
        """Lead a browser to the page. A program gets 404: it may take this port for Ollama's."""
        if not _is_browser(request):
            raise web.HTTPNotFound
        return web.Response(status=303, headers={"Location": "/status"})

    async def get_status(self, _request: web.Request) -> web.Response:
        return _json(200, await self._status())

    async def get_metrics(self, request: web.Request) -> web.Response:
        accept = ",".join(request.headers.getall("Accept", ()))
        body, content_type = self._gateway.metrics.exposition(accept)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def get_health(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def get_ready(self, _request: web.Request) -> web.Response:
        gateway = self._gateway
        reason = not_ready_reason(
            draining=gateway.handler.draining,
            upstream_up=gateway.host.catalog.up,
            ollama_url=gateway.settings.ollama.url,
            keys=gateway.keys.keys,
            key_file_error=gateway.keys.broken,
            now=_now(),
        )
        if reason is None:
            return web.Response(text="ready\n")
        return web.Response(status=503, text=f"{reason}\n")

    async def post_refresh(self, request: web.Request) -> web.Response:
        """Read Ollama's list now. The page's form, sent without the script, gets the page again."""
        failure: GatewayError | None = None
        cached: CachedList | None = None
        try:
            cached = await self._gateway.host.catalog.get(max_age=0.0)
        except (UpstreamUnreachable, UpstreamProtocolError) as error:
            failure = error
        if cached is not None and cached.stale:
            # The kept list is not a new one.
            failure = UpstreamUnreachable(
                f"Ollama does not respond at {self._gateway.settings.ollama.url}; the list is the "
                "last one that it sent. Check that Ollama runs."
            )
        if _is_browser(request):
            return web.Response(status=303, headers={"Location": "/status"})
        result = RefreshResult(
            model_count=None if cached is None else len(cached.listing.models),
            list_age=None if cached is None else round(cached.age, 3),
            stale=failure is not None,
            error=None
            if failure is None
            else ErrorInfo(message=failure.message, code=failure.code),
        )
        return _json(200 if failure is None else failure.status, result)

    async def _status(self) -> Status:
        gateway = self._gateway
        model_list: CachedList | None = None
        error: str | None = None
        try:
            model_list = await gateway.host.catalog.get()
        except (UpstreamUnreachable, UpstreamProtocolError) as failure:
            error = failure.message
        # From here on nothing is awaited: all parts are of the same moment. Whether Ollama is up
        # is read after the list, for reading the list may have found out that it is not.
        return build_status(
            StatusInputs(
                now=_now(),
                started_at=self._started_at,
                version=gateway.version,
                draining=gateway.handler.draining,
                ollama_url=gateway.settings.ollama.url,
                upstream_up=gateway.host.catalog.up,
                model_list=model_list,
                model_list_error=error,
                scheduler=gateway.host.scheduler.snapshot(),
                keys=gateway.keys.keys,
                key_file_error=gateway.keys.broken,
                settings=gateway.settings,
                residency=gateway.host.residency.view(),
                statistics=gateway.host.statistics.snapshot(),
                context_windows=gateway.host.context_windows,
                recent=gateway.recent.snapshot(),
                in_flight=gateway.handler.active_requests(),
            )
        )


@web.middleware
async def _add_headers(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    response.headers.update(_HEADERS)
    return response


def _is_browser(request: web.Request) -> bool:
    return "text/html" in request.headers.get("Accept", "")


def _error(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> web.Response:
    response = _json(status, {"error": ErrorInfo(message=message, code=code)})
    response.headers.update(headers or {})
    return response


def _json(status: int, value: Any) -> web.Response:
    body = msgspec.json.encode(value) + b"\n"
    return web.Response(status=status, body=body, content_type="application/json")


def _now() -> datetime:
    return datetime.now(UTC)
