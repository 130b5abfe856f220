"""The routes that tell which models there are, from the catalogue, never from a caller's path."""

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from gateway.errors import UpstreamProtocolError
from gateway.models import discovery as shapes
from gateway.models.catalog import Catalog
from gateway.models.list_cache import CachedList
from gateway.proxy.fields import Fields, model_name, parse, value_of
from gateway.public.body import read_body
from gateway.public.context import AuthorizedRequest
from gateway.public.inference import BodyLimits
from gateway.public.routes import Page
from gateway.telemetry.record import Phase

_NATIVE_JSON = ("Content-Type", "application/json; charset=utf-8")
_V1_JSON = ("Content-Type", "application/json")
_TEXT = ("Content-Type", "text/plain; charset=utf-8")
_MAX_SHOW_BYTES = 64 * 1024

_Headers = list[tuple[str, str]]


class Discovery:
    """Serves every route of scope discovery. ``full`` shows the owner's texts and paths too."""

    def __init__(self, catalog: Catalog, *, full: bool, body_timeout: float) -> None:
        self._catalog = catalog
        self._full = full
        self._limits = BodyLimits(_MAX_SHOW_BYTES, body_timeout)
        self._pages: Mapping[Page, Callable[[AuthorizedRequest], Awaitable[None]]] = {
            Page.HEALTH: self._health,
            Page.ROOT: self._root,
            Page.VERSION: self._version,
            Page.TAGS: self._tags,
            Page.SHOW: self._show,
            Page.PS: self._ps,
            Page.MODELS: self._models,
            Page.MODEL: self._model,
        }

    async def serve(self, page: Page, asking: AuthorizedRequest) -> None:
        """Answer one page. Raises a GatewayError for every way to fail."""
        asking.record.phase = Phase.RESOLVE
        await self._pages[page](asking)
        await asking.answer.end()

    async def _health(self, asking: AuthorizedRequest) -> None:
        await _tell(asking, 200, [_TEXT], b"ok\n")

    async def _root(self, asking: AuthorizedRequest) -> None:
        await _tell(asking, 200, [_TEXT], b"Ollama is running")

    async def _version(self, asking: AuthorizedRequest) -> None:
        await _tell(asking, 200, [_NATIVE_JSON], await self._catalog.version())

    async def _tags(self, asking: AuthorizedRequest) -> None:
        served = await self._catalog.fresh()
        body = shapes.tags_body(served.listing, asking.principal.may_use, full=self._full)
        await _tell(asking, 200, _aged([_NATIVE_JSON], served, always=False), body)

    async def _models(self, asking: AuthorizedRequest) -> None:
        served = await self._listing(asking)
        body = shapes.v1_models_body(served.listing, asking.principal.may_use)
        await _tell(asking, 200, _aged([_V1_JSON], served, always=True), body)

    async def _model(self, asking: AuthorizedRequest) -> None:
        name = asking.model or ""
        served = await self._listing(asking)
        model = await self._catalog.resolve(name, asking.principal.may_use)
        asking.record.model = model.name
        body = shapes.v1_model_body(model, name)
        await _tell(asking, 200, _aged([_V1_JSON], served, always=True), body)

    async def _ps(self, asking: AuthorizedRequest) -> None:
        raw = await self._catalog.ps()
        body = shapes.ps_body(raw, asking.principal.may_use, full=self._full)
        await _tell(asking, 200, [_NATIVE_JSON], body)

    async def _show(self, asking: AuthorizedRequest) -> None:
        asking.record.phase = Phase.BODY
        data = await read_body(
            asking.request,
            asking.share,
            limit=self._limits.size,
            body_timeout=self._limits.timeout,
        )
        asking.record.bytes_in = len(data)
        asking.record.phase = Phase.PARSE
        fields = parse(data)
        name = model_name(fields, *_present(fields))
        verbose = value_of(fields, "verbose") is True
        asking.record.phase = Phase.RESOLVE
        model = await self._catalog.resolve(name, asking.principal.may_use)
        asking.record.model = model.name
        reply = await self._catalog.show(model, verbose=verbose)
        asking.record.upstream_status = reply.status
        if reply.status >= 500:
            # Ollama's own words about such a failure name files of the host.
            raise UpstreamProtocolError("Ollama cannot describe this model; its log says why.")
        body = reply.body
        if reply.status == 200:
            body = shapes.show_body(body, full=self._full)
        await _tell(asking, reply.status, [_NATIVE_JSON], body)

    async def _listing(self, asking: AuthorizedRequest) -> CachedList:
        """The cached list; one who says ``no-cache`` (RFC 9111, section 5.2.1.4) gets a new one."""
        wanted = asking.request.headers.get("Cache-Control", "").lower()
        if "no-cache" in wanted:
            return await self._catalog.refresh()
        return await self._catalog.listing()


async def _tell(asking: AuthorizedRequest, status: int, headers: _Headers, body: bytes) -> None:
    """A whole answer. A verbose ``show`` has megabytes, and who may look may ask for many at once
    and read none of them: what is long counts like the bodies of requests.
    """
    if len(body) > _MAX_SHOW_BYTES:
        asking.share.reserve(len(body))
    await asking.answer.send(status, headers, body)


def _present(fields: Fields) -> tuple[str, ...]:
    """Ollama prefers ``model``; ``name`` is what it was called before, and what Engramia sends."""
    empty = (msgspec.Raw(b'""'), msgspec.Raw(b"null"))
    if fields.get("model") not in (None, *empty):
        return ("model",)
    return ("name", "model") if "name" in fields else ("model",)


def _aged(headers: _Headers, served: CachedList, *, always: bool) -> _Headers:
    if always or served.stale:
        headers = [*headers, ("Age", str(int(served.age)))]
    return [*headers, ("x-gateway-stale", "true")] if served.stale else headers
