"""Serves the discovery routes: which models there are, from the catalog."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec

from gateway.errors import UpstreamProtocolError
from gateway.models import discovery as bodies
from gateway.models.catalog import FRESHNESS, CachedList, Catalog
from gateway.proxy.request import Fields, model_name, parse, value_of
from gateway.public.body import read_body
from gateway.public.context import RequestContext
from gateway.public.routes import HEALTH, MODEL
from gateway.settings import Settings
from gateway.telemetry.record import Phase

_NATIVE_JSON: Final = ("Content-Type", "application/json; charset=utf-8")
_V1_JSON: Final = ("Content-Type", "application/json")
_TEXT: Final = ("Content-Type", "text/plain; charset=utf-8")

_MAX_SHOW_BYTES: Final = 64 * 1024
"""Bytes of the body of a ``show`` request."""

_LARGE: Final = 64 * 1024
"""Bytes. Larger responses count in the memory budget: a verbose ``show`` has megabytes, and a
client may ask for many of them and read none."""

_Headers = list[tuple[str, str]]


class Discovery:
    """Serves every route that is no inference route; has no state."""

    def __init__(self, catalog: Catalog, *, settings: Settings) -> None:
        self._catalog = catalog
        self._settings = settings
        # "full" also shows the texts and paths of this machine.
        self._full = settings.catalog.show == "full"
        self._handlers: Mapping[str, Callable[[RequestContext], Awaitable[None]]] = {
            HEALTH: self._health,
            "/": self._root,
            "/api/version": self._version,
            "/api/tags": self._tags,
            "/api/show": self._show,
            "/api/ps": self._ps,
            "/v1/models": self._models,
            MODEL: self._model,
        }

    async def serve(self, context: RequestContext) -> None:
        """Serve one request. Raises a GatewayError for every way to fail."""
        context.record.phase = Phase.RESOLVE
        await self._handlers[context.route.template](context)
        await context.response.end()

    async def _health(self, context: RequestContext) -> None:
        await context.response.send(200, [_TEXT], b"ok\n")

    async def _root(self, context: RequestContext) -> None:
        await context.response.send(200, [_TEXT], b"Ollama is running")

    async def _version(self, context: RequestContext) -> None:
        await _send(context, [_NATIVE_JSON], await self._catalog.version())

    async def _tags(self, context: RequestContext) -> None:
        cached = await self._catalog.get(max_age=FRESHNESS)
        body = bodies.tags_body(cached.listing, context.principal.may_use, full=self._full)
        await _send(context, _with_age([_NATIVE_JSON], cached, always=False), body)

    async def _models(self, context: RequestContext) -> None:
        cached = await self._list(context)
        body = bodies.v1_models_body(cached.listing, context.principal.may_use)
        await _send(context, _with_age([_V1_JSON], cached, always=True), body)

    async def _model(self, context: RequestContext) -> None:
        name = context.path_model
        cached = await self._list(context)
        model = await self._catalog.resolve(name, context.principal.may_use)
        context.record.model = model.name
        body = bodies.v1_model_body(model, name)
        await _send(context, _with_age([_V1_JSON], cached, always=True), body)

    async def _ps(self, context: RequestContext) -> None:
        raw = await self._catalog.ps()
        body = bodies.ps_body(raw, context.principal.may_use, full=self._full)
        await _send(context, [_NATIVE_JSON], body)

    async def _show(self, context: RequestContext) -> None:
        record = context.record
        record.phase = Phase.BODY
        data = await read_body(
            context.request,
            context.reservation,
            limit=_MAX_SHOW_BYTES,
            body_timeout=self._settings.timeouts.body_timeout,
        )
        record.bytes_in = len(data)
        record.phase = Phase.PARSE
        fields = parse(data)
        name = model_name(fields, *_name_fields(fields))
        verbose = value_of(fields, "verbose") is True
        record.phase = Phase.RESOLVE
        model = await self._catalog.resolve(name, context.principal.may_use)
        record.model = model.name
        reply = await self._catalog.show(model, verbose=verbose)
        record.upstream_status = reply.status
        if reply.status >= 500:
            # Ollama's own message about such a failure names files of the host.
            raise UpstreamProtocolError("Ollama cannot describe this model; its log says why.")
        body = reply.body
        if reply.status == 200:
            body = bodies.show_body(body, full=self._full)
        await _send(context, [_NATIVE_JSON], body, status=reply.status)

    async def _list(self, context: RequestContext) -> CachedList:
        """Return the cached list, or a new one for ``no-cache`` (RFC 9111, section 5.2.1.4)."""
        if "no-cache" in context.request.headers.get("Cache-Control", "").lower():
            return await self._catalog.get(max_age=0.0)
        return await self._catalog.get()


async def _send(
    context: RequestContext, headers: _Headers, body: bytes, *, status: int = 200
) -> None:
    if len(body) > _LARGE:
        context.reservation.reserve(len(body))
    await context.response.send(status, headers, body)


def _name_fields(fields: Fields) -> tuple[str, ...]:
    """Return the fields that may name the model, those that count first.

    Ollama prefers ``model``; ``name`` is its older word, and what Engramia sends.
    """
    empty = (msgspec.Raw(b'""'), msgspec.Raw(b"null"))
    if fields.get("model") not in (None, *empty):
        return ("model",)
    return ("name", "model") if "name" in fields else ("model",)


def _with_age(headers: _Headers, cached: CachedList, *, always: bool) -> _Headers:
    if always or cached.stale:
        headers = [*headers, ("Age", str(int(cached.age)))]
    return [*headers, ("x-gateway-stale", "true")] if cached.stale else headers
