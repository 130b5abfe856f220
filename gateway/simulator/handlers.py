"""From a request to the part that answers it."""

from collections.abc import Callable, Mapping
from html import escape
from types import MappingProxyType

from gateway.simulator import guard, routes
from gateway.simulator.answer import Answer, Request
from gateway.simulator.asked import Refusal
from gateway.simulator.catalog import Catalog
from gateway.simulator.faults import Fault, FaultQueue
from gateway.simulator.http import REASONS, Head, Headers
from gateway.simulator.inference import Inference
from gateway.simulator.misbehaviour import Misbehaviour

_PLAIN = (("Content-Type", "text/plain"),)
_HTML = ("Content-Type", "text/html; charset=utf-8")


class Handlers:
    """Every route. ``local_only`` is Ollama's caution on loopback about ``Host``."""

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

    def welcome(self, head: Head, answer: Answer) -> bool:
        """Whether a request may go on; if not, it was answered. Needs no body."""
        destination = routes.find(head.method, head.target)
        if isinstance(destination, routes.Moved):
            _redirect(destination, answer)
            return False
        if not self._known_origin(head, answer, destination):
            return False
        match destination:
            case routes.Found():
                return True
            case routes.WrongMethod(allow):
                headers = (("Allow", allow), *_PLAIN)
                answer.whole(405, b"405 method not allowed", headers)
            case routes.Unknown():
                answer.whole(404, b"404 page not found", _PLAIN)
        return False

    async def handle(self, request: Request, answer: Answer) -> None:
        """Answer one request."""
        if not self.welcome(request.head, answer):
            return
        found = routes.find(request.head.method, request.head.target)
        if not isinstance(found, routes.Found):
            return
        if found.route in routes.INFERENCE:
            await self._inference.answer(found.route, request, answer)
            return
        path = found.route if found.route != routes.MODEL_ROUTE else routes.MODEL_PREFIX
        fault = self._faults.take(path=path, model=None, generates=False)
        if not await self._misbehaviour.before(fault, answer):
            await self._list(found, request, answer, fault)

    async def _list(
        self, found: routes.Found, request: Request, answer: Answer, fault: Fault | None
    ) -> None:
        if fault is not None and fault.kind in ("slow_headers", "stall"):
            await self._misbehaviour.pause(fault.seconds)
        try:
            body, headers = self._lists[found.route](request, found.argument)
        except Refusal as refusal:
            body, headers = self._catalog.refusal(found.route, refusal)
            answer.whole(refusal.status, body, headers)
        else:
            answer.whole(200, body, headers)

    def _known_origin(self, head: Head, answer: Answer, destination: routes.Destination) -> bool:
        host, origin = head.header("host") or "", head.header("origin")
        verdict = guard.judge_origin(origin, host)
        if verdict == "foreign" or (self._local_only and not guard.host_is_local(host)):
            answer.whole(403, b"")
            return False
        if verdict == "allowed" and origin:
            if head.method == "OPTIONS":
                allow = destination.allow if isinstance(destination, routes.WrongMethod) else ""
                answer.whole(204, b"", guard.preflight(origin, allow))
                return False
            answer.extra_headers = guard.cors(origin)
        return True


def _redirect(moved: routes.Moved, answer: Answer) -> None:
    location = ("Location", moved.location)
    if not moved.with_page:
        answer.whole(moved.status, b"", (location,))
        return
    page = f'<a href="{escape(moved.location)}">{REASONS[moved.status]}</a>.\n\n'
    answer.whole(moved.status, page.encode(), (_HTML, location))
