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
from gateway.public.context import Asking, UnderWay, Visit
from gateway.public.discovery import Discovery
from gateway.public.inference import Inference
from gateway.public.memory import Buffers
from gateway.public.response import Answer
from gateway.public.routes import Match, Page, dialect_of, match, split_token
from gateway.public.state import State
from gateway.public.writer import Pace
from gateway.telemetry.record import Exchange, Facts, Phase

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Observer(Protocol):
    """Where the facts of a request go, and what else deserves to be counted or said."""

    def finished(self, facts: Facts) -> None: ...
    def auth_failed(self, reason: str) -> None: ...
    def crashed(self, request_id: str, error: Exception) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Who may pass: proof, pace, and whose word about addresses counts."""

    authenticator: Authenticator
    rates: Rates
    trusted: Sequence[TrustedProxy]


class Front:
    """The public side. Mutable state: the requests under way, whether we drain.

    ``quiet`` is set while no request is under way.
    """

    def __init__(
        self,
        *,
        gate: Gate,
        inference: Inference,
        discovery: Discovery,
        buffers: Buffers,
        pace: Pace,
        late_object: bool = False,
        observer: Observer,
        now: Callable[[], float],
    ) -> None:
        self._gate = gate
        self._inference = inference
        self._discovery = discovery
        self._buffers = buffers
        self._pace = pace
        self._late_object = late_object
        self._observer = observer
        self._now = now
        self._active: dict[asyncio.Timeout, Visit] = {}
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
        exchange = self._exchange(request)
        with self._buffers.share() as share:
            answer = Answer(
                request,
                dialect_of(path),
                share=share,
                pace=self._pace,
                late_object=self._late_object,
            )
            answer.headers["x-request-id"] = exchange.request_id
            visit = Visit(
                request=request,
                path=path,
                token=token,
                answer=answer,
                exchange=exchange,
                share=share,
            )
            try:
                await self._bounded(visit)
            except asyncio.CancelledError:
                if not _has_all(visit):
                    exchange.fail(Shutdown() if self._draining else ClientDisconnected())
                answer.drop()
                raise
            finally:
                exchange.status = exchange.status or answer.status
                exchange.bytes_out = answer.bytes_out
                self._observer.finished(exchange.finish(self._now()))
        return answer.response

    def under_way(self) -> list[UnderWay]:
        """What is being served, the longest first."""
        now = self._now()
        return [
            UnderWay(
                request_id=visit.exchange.request_id,
                route=visit.exchange.route,
                key=visit.exchange.key,
                model=visit.exchange.model,
                phase=visit.exchange.phase.value,
                duration=max(0.0, now - visit.exchange.started),
                heartbeats=visit.answer.beats,
            )
            for visit in self._active.values()
        ]

    def unreadable(self, request: web.BaseRequest) -> str:
        """Note a request that could not be read as HTTP; nothing of it is kept. Returns its id."""
        exchange = Exchange(request_id=_new_id(), method="", started=self._now())
        exchange.client = client_address(request.remote, request.headers, ())
        exchange.fail(BadRequest())
        self._observer.finished(exchange.finish(self._now()))
        return exchange.request_id

    def crashed(self, error: Exception) -> str:
        """Note a bug in the rendering of failures itself. Returns an id for it."""
        request_id = _new_id()
        self._observer.crashed(request_id, error)
        return request_id

    async def _bounded(self, visit: Visit) -> None:
        """Serve until it is done, or until the drain's clock runs out."""
        try:
            async with asyncio.timeout(None) as cutoff:
                self._begin(cutoff, visit)
                try:
                    await self._attempt(visit)
                finally:
                    self._finish(cutoff)
        except TimeoutError:
            if not _has_all(visit):
                await self._failed(Shutdown(), visit)

    def _begin(self, cutoff: asyncio.Timeout, visit: Visit) -> None:
        self._active[cutoff] = visit
        self.quiet.clear()

    def _finish(self, cutoff: asyncio.Timeout) -> None:
        self._active.pop(cutoff, None)
        if not self._active:
            self.quiet.set()

    async def _attempt(self, visit: Visit) -> None:
        """Serve, and turn every failure into what the caller is told."""
        try:
            await self._serve(visit)
        except GatewayError as error:
            await self._failed(error, visit)
        except Exception as error:  # noqa: BLE001 - the one place where bugs are rendered
            self._observer.crashed(visit.exchange.request_id, error)
            await self._failed(InternalError(), visit)

    async def _serve(self, visit: Visit) -> None:
        if visit.request.version not in (HttpVersion10, HttpVersion11):
            raise BadRequest
        found = match(visit.request.method, visit.path)
        route = found.route
        visit.exchange.route = route.template
        if self._draining and route.page is not Page.HEALTH:
            raise Draining
        asking = Asking(
            request=visit.request,
            answer=visit.answer,
            exchange=visit.exchange,
            share=visit.share,
            route=route,
            principal=await self._admit(found, visit),
            model=found.model,
        )
        if route.page is None:
            await self._inference.serve(asking)
        else:
            await self._discovery.serve(route.page, asking)
        visit.exchange.phase = Phase.DONE

    async def _admit(self, found: Match, visit: Visit) -> Principal:
        """Who asks, if they may. No byte of the body has been read."""
        scope = found.route.scope
        if scope is None:
            return Principal(key="", scopes=frozenset())
        exchange = visit.exchange
        exchange.phase = Phase.AUTHENTICATE
        client = exchange.client or ""
        try:
            principal = self._gate.authenticator.identify(
                visit.request.headers, path_token=visit.token, client=client
            )
        except (InvalidApiKey, TooManyFailures) as error:
            self._observer.auth_failed(_reason(error))
            raise
        exchange.key = principal.key
        require(principal, scope)
        await self._gate.rates.take(principal)
        return principal

    async def _failed(self, error: GatewayError, visit: Visit) -> None:
        answer, exchange = visit.answer, visit.exchange
        exchange.status = answer.status
        exchange.fail(error)
        if isinstance(error, ClientDisconnected | ClientWriteTimeout):
            answer.drop()
            return
        try:
            await answer.fail(error, exchange.request_id)
        except (ClientDisconnected, ClientWriteTimeout):
            answer.drop()

    def _exchange(self, request: web.BaseRequest) -> Exchange:
        headers = request.headers
        retry = headers.get("x-stainless-retry-count", "")
        return Exchange(
            request_id=_new_id(),
            method=request.method if request.method in _METHODS else "OTHER",
            started=self._now(),
            client=client_address(request.remote, headers, self._gate.trusted),
            retry=int(retry) if retry.isascii() and retry.isdigit() and len(retry) < 4 else None,
        )


def _has_all(visit: Visit) -> bool:
    """Whether the answer had ended, and only what follows it was cancelled: that is no failure."""
    ended = visit.answer.state is State.ENDED
    if ended:
        visit.exchange.phase = Phase.DONE
    return ended


def _new_id() -> str:
    return f"req_{secrets.token_hex(12)}"


def _reason(error: GatewayError) -> str:
    if isinstance(error, InvalidApiKey):
        return error.reason
    cause = error.__cause__
    return cause.reason if isinstance(cause, InvalidApiKey) else error.code
