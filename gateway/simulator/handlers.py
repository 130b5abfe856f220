"""Routes a request to the part that responds to it."""

from collections.abc import Callable, Mapping
from html import escape
from types import MappingProxyType

from gateway.simulator import guard, routes
from gateway.simulator.catalog import Catalog
from gateway.simulator.faults import Fault, FaultQueue, Misbehaviour
from gateway.simulator.http import REASONS, Head, Headers
from gateway.simulator.inference import Inference
from gateway.simulator.params import Refusal
from gateway.simulator.response import Request, Response

_PLAIN = (("Content-Type", "text/plain"),)
_HTML = ("Content-Type", "text/html; charset=utf-8")


class Handlers:
    """All routes. ``local_only``: check ``Host`` as Ollama does on loopback."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        inference: Inference,
        faults: FaultQueue,
        misbehaviour: Misbehaviour,
        local_only: bool,
    ) -> None:
        self._catalog = catalog
        self._inference = inference
        self._faults = faults
        self._misbehaviour = misbehaviour
        self._local_only = local_only
        self._lists: Mapping[str, Callable[[Request, str], tuple[bytes, Headers]]] = (
            MappingProxyType(
                {
                    "/": lambda _request, _model: catalog.root(),
                    "/api/version": lambda _request, _model: catalog.version(),
                    "/api/tags": lambda _request, _model: catalog.tags(),
                    "/api/ps": lambda _request, _model: catalog.running(),
                    "/api/show": lambda request, _model: catalog.show(request.body),
                    "/v1/models": lambda _request, _model: catalog.models(),
                    routes.MODEL_ROUTE: lambda _request, model: catalog.model(model),
                }
            )
        )

    def accepts(self, head: Head, response: Response) -> bool:
        """Return True if the request is accepted; else respond to it. Needs only the head."""
        destination = routes.find(head.method, head.target)
        if isinstance(destination, routes.Moved):
            _redirect(destination, response)
            return False
        if not self._known_origin(head, response, destination):
            return False
        match destination:
            case routes.Found():
                return True
            case routes.WrongMethod(allow):
                headers = (("Allow", allow), *_PLAIN)
                response.send(405, b"405 method not allowed", headers)
            case routes.Unknown():
                response.send(404, b"404 page not found", _PLAIN)
        return False

    async def handle(self, request: Request, response: Response) -> None:
        """Respond to one request."""
        if not self.accepts(request.head, response):
            return
        found = routes.find(request.head.method, request.head.target)
        if not isinstance(found, routes.Found):
            return
        if found.route in routes.INFERENCE:
            await self._inference.respond(found.route, request, response)
            return
        path = found.route if found.route != routes.MODEL_ROUTE else routes.MODEL_PREFIX
        fault = self._faults.take(path=path, model=None, generates=False)
        if not await self._misbehaviour.before(fault, response):
            await self._list(found, request, response, fault)

    async def _list(
        self, found: routes.Found, request: Request, response: Response, fault: Fault | None
    ) -> None:
        if fault is not None and fault.kind in ("slow_headers", "stall"):
            await self._misbehaviour.pause(fault.seconds)
        try:
            body, headers = self._lists[found.route](request, found.argument)
        except Refusal as refusal:
            body, headers = self._catalog.refusal(found.route, refusal)
            response.send(refusal.status, body, headers)
        else:
            response.send(200, body, headers)

    def _known_origin(
        self, head: Head, response: Response, destination: routes.Destination
    ) -> bool:
        host, origin = head.header("host") or "", head.header("origin")
        origin_class = guard.classify_origin(origin, host)
        if origin_class == "foreign" or (self._local_only and not guard.host_is_local(host)):
            response.send(403, b"")
            return False
        if origin_class == "allowed" and origin:
            if head.method == "OPTIONS":
                allow = destination.allow if isinstance(destination, routes.WrongMethod) else ""
                response.send(204, b"", guard.preflight(origin, allow))
                return False
            response.extra_headers = guard.cors(origin)
        return True


def _redirect(moved: routes.Moved, response: Response) -> None:
    location = ("Location", moved.location)
    if not moved.with_page:
        response.send(moved.status, b"", (location,))
        return
    page = f'<a href="{escape(moved.location)}">{REASONS[moved.status]}</a>.\n\n'
    response.send(moved.status, page.encode(), (_HTML, location))
