"""The outermost of every request: observe it, know who asks, serve it, tell how it ended."""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from aiohttp import HttpVersion10, HttpVersion11, web

from gateway.auth.authenticator import Authenticator, require
from gateway.auth.client_address import TrustedProxy, client_address
from gateway.auth.principal import Principal
from gateway.auth.rates import Rates
from gateway.errors import (
    BadRequest,
    ClientDisconnected,
    ClientWriteTimeout,
    Draining,
    GatewayError,
    InternalError,
    InvalidApiKey,
    Shutdown,
    TooManyFailures,
)
from gateway.public.connection import Connection
from gateway.public.context import AuthorizedRequest, RequestContext, UnderWay
from gateway.public.discovery import Discovery
from gateway.public.inference import Inference
from gateway.public.memory import MemoryBudget
from gateway.public.response import Response
from gateway.public.routes import Match, Page, dialect_of, match, split_token
from gateway.public.state import State
from gateway.public.writer import Pace
from gateway.telemetry.record import FinishedRequest, Phase, RequestRecord

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Observer(Protocol):
    """Where the facts of a request go, and what else deserves to be counted or said."""

    def finished(self, facts: FinishedRequest) -> None: ...
    def auth_failed(self, reason: str) -> None: ...
    def crashed(self, request_id: str, error: Exception) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessControl:
    """Who may pass: proof, pace, and whose word about addresses counts."""

    authenticator: Authenticator
    rates: Rates
    trusted: Sequence[TrustedProxy]


class RequestHandler:
    """The public side. Mutable state: the requests under way, whether we drain.

    ``quiet`` is set while no request is under way.
    """

    def __init__(
        self,
        *,
        access_control: AccessControl,
        inference: Inference,
        discovery: Discovery,
        memory_budget: MemoryBudget,
        pace: Pace,
        late_object: bool = False,
        observer: Observer,
        now: Callable[[], float],
    ) -> None:
        self._gate = access_control
        self._inference = inference
        self._discovery = discovery
        self._buffers = memory_budget
        self._pace = pace
        self._late_object = late_object
        self._observer = observer
        self._now = now
        self._active: dict[asyncio.Timeout, RequestContext] = {}
        self.quiet = asyncio.Event()
        self.quiet.set()
        self._draining = False

    def __repr__(self) -> str:
        return f"<Front {len(self._active)} requests{', draining' if self._draining else ''}>"

    @property
    def draining(self) -> bool:
        return self._draining

    def drain(self) -> None:
        """Refuse what comes from now on."""
        self._draining = True

    def cut_all(self) -> None:
        """The drain's clock has run out: end every request that is still under way."""
        now = asyncio.get_running_loop().time()
        for cutoff in self._active:
            if not cutoff.expired():
                cutoff.reschedule(now)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve one request; whatever happens, its facts are told once."""
        connection = request.protocol
        if isinstance(connection, Connection):
            connection.serve(request)
        path, token = split_token(request.raw_path)
        record = self._record(request)
        with self._buffers.reservation() as share:
            answer = Response(
                request,
                dialect_of(path),
                share=share,
                pace=self._pace,
                late_object=self._late_object,
            )
            answer.headers["x-request-id"] = record.request_id
            context = RequestContext(
                request=request,
                path=path,
                token=token,
                answer=answer,
                record=record,
                share=share,
            )
            try:
                await self._bounded(context)
            except asyncio.CancelledError:
                if not _has_all(context):
                    record.fail(Shutdown() if self._draining else ClientDisconnected())
                answer.abort()
                raise
            finally:
                record.status = record.status or answer.status
                record.bytes_out = answer.bytes_out
                self._observer.finished(record.finish(self._now()))
        return answer.response

    def under_way(self) -> list[UnderWay]:
        """What is being served, the longest first."""
        now = self._now()
        return [
            UnderWay(
                request_id=context.record.request_id,
                route=context.record.route,
                key=context.record.key,
                model=context.record.model,
                phase=context.record.phase.value,
                duration=max(0.0, now - context.record.started),
                heartbeats=context.answer.heartbeats,
            )
            for context in self._active.values()
        ]

    def unreadable(self, request: web.BaseRequest) -> str:
        """Note a request that could not be read as HTTP; nothing of it is kept. Returns its id."""
        record = RequestRecord(request_id=_new_id(), method="", started=self._now())
        record.client = client_address(request.remote, request.headers, ())
        record.fail(BadRequest())
        self._observer.finished(record.finish(self._now()))
        return record.request_id

    def crashed(self, error: Exception) -> str:
        """Note a bug in the rendering of failures itself. Returns an id for it."""
        request_id = _new_id()
        self._observer.crashed(request_id, error)
        return request_id

    async def _bounded(self, context: RequestContext) -> None:
        """Serve until it is done, or until the drain's clock runs out."""
        try:
            async with asyncio.timeout(None) as cutoff:
                self._begin(cutoff, context)
                try:
                    await self._attempt(context)
                finally:
                    self._finish(cutoff)
        except TimeoutError:
            if not _has_all(context):
                await self._failed(Shutdown(), context)

    def _begin(self, cutoff: asyncio.Timeout, context: RequestContext) -> None:
        self._active[cutoff] = context
        self.quiet.clear()

    def _finish(self, cutoff: asyncio.Timeout) -> None:
        self._active.pop(cutoff, None)
        if not self._active:
            self.quiet.set()

    async def _attempt(self, context: RequestContext) -> None:
        """Serve, and turn every failure into what the caller is told."""
        try:
            await self._serve(context)
        except GatewayError as error:
            await self._failed(error, context)
        except Exception as error:  # noqa: BLE001 - the one place where bugs are rendered
            self._observer.crashed(context.record.request_id, error)
            await self._failed(InternalError(), context)

    async def _serve(self, context: RequestContext) -> None:
        if context.request.version not in (HttpVersion10, HttpVersion11):
            raise BadRequest
        found = match(context.request.method, context.path)
        route = found.route
        context.record.route = route.template
        if self._draining and route.page is not Page.HEALTH:
            raise Draining
        asking = AuthorizedRequest(
            request=context.request,
            answer=context.answer,
            record=context.record,
            share=context.share,
            route=route,
            principal=await self._admit(found, context),
            model=found.model,
        )
        if route.page is None:
            await self._inference.serve(asking)
        else:
            await self._discovery.serve(route.page, asking)
        context.record.phase = Phase.DONE

    async def _admit(self, found: Match, context: RequestContext) -> Principal:
        """Who asks, if they may. No byte of the body has been read."""
        scope = found.route.scope
        if scope is None:
            return Principal(key="", scopes=frozenset())
        record = context.record
        record.phase = Phase.AUTHENTICATE
        client = record.client or ""
        try:
            principal = self._gate.authenticator.identify(
                context.request.headers, path_token=context.token, client=client
            )
        except (InvalidApiKey, TooManyFailures) as error:
            self._observer.auth_failed(_reason(error))
            raise
        record.key = principal.key
        require(principal, scope)
        await self._gate.rates.take(principal)
        return principal

    async def _failed(self, error: GatewayError, context: RequestContext) -> None:
        answer, record = context.answer, context.record
        record.status = answer.status
        record.fail(error)
        if isinstance(error, ClientDisconnected | ClientWriteTimeout):
            answer.abort()
            return
        try:
            await answer.fail(error, record.request_id)
        except (ClientDisconnected, ClientWriteTimeout):
            answer.abort()

    def _record(self, request: web.BaseRequest) -> RequestRecord:
        headers = request.headers
        retry = headers.get("x-stainless-retry-count", "")
        return RequestRecord(
            request_id=_new_id(),
            method=request.method if request.method in _METHODS else "OTHER",
            started=self._now(),
            client=client_address(request.remote, headers, self._gate.trusted),
            retry=int(retry) if retry.isascii() and retry.isdigit() and len(retry) < 4 else None,
        )


def _has_all(context: RequestContext) -> bool:
    """Whether the answer had ended, and only what follows it was cancelled: that is no failure."""
    ended = context.answer.state is State.ENDED
    if ended:
        context.record.phase = Phase.DONE
    return ended


def _new_id() -> str:
    return f"req_{secrets.token_hex(12)}"


def _reason(error: GatewayError) -> str:
    if isinstance(error, InvalidApiKey):
        return error.reason
    cause = error.__cause__
    return cause.reason if isinstance(cause, InvalidApiKey) else error.code
