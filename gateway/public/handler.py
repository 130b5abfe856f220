"""Handles every request on the public listener, from its head to its record."""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, cast

from aiohttp import HttpVersion10, HttpVersion11, web

from gateway.auth.authenticator import Authenticator, require_scope
from gateway.auth.client_address import client_address
from gateway.auth.keys import Scope
from gateway.auth.limits import KeyRateLimiter
from gateway.errors import (
    BadRequest,
    ClientDisconnected,
    ClientWriteTimeout,
    CloudNotAllowed,
    Draining,
    GatewayError,
    InternalError,
    InvalidApiKey,
    MethodNotAllowed,
    ModelNotFound,
    NoModelsPulled,
    Shutdown,
    TooManyFailures,
    UnknownRoute,
    UpstreamFailed,
)
from gateway.models.catalog import Catalog
from gateway.models.listing import Model
from gateway.models.names import is_cloud_name, name_key
from gateway.proxy.pipeline import Pipeline
from gateway.proxy.replay import FailureReplay, ReplayableFailure
from gateway.proxy.request import Fingerprint, InferenceRequest, parse_request
from gateway.public.body import MemoryBudget, read_body
from gateway.public.context import ActiveRequest, RequestContext
from gateway.public.discovery import Discovery
from gateway.public.heartbeat import HeartbeatTimer, deadlines_extended, heartbeat_schedule
from gateway.public.response import Response, ResponseKind, State
from gateway.public.routes import HEALTH, find_route, split_token
from gateway.settings import Settings, TrustedProxy
from gateway.telemetry import Phase, RequestRecord, Telemetry
from gateway.telemetry.log import Logger
from gateway.telemetry.metrics import Metrics
from gateway.timeouts import ClientTimeout, declared_client_timeout

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestHandler:
    """Serves the public listener.

    Mutable state: ``draining``; ``memory_budget``; the requests that are being served
    (``_active``); ``idle``, an event that is set while there are none.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        authenticator: Authenticator,
        rates: KeyRateLimiter,
        trusted_proxies: Sequence[TrustedProxy],
        inference: "Inference",
        discovery: Discovery,
        memory_budget: MemoryBudget,
        telemetry: Telemetry,
        metrics: Metrics,
        log: Logger,
        now: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._authenticator = authenticator
        self._rates = rates
        self._trusted_proxies = trusted_proxies
        self._inference = inference
        self._discovery = discovery
        self.memory_budget = memory_budget
        self._telemetry = telemetry
        self._metrics = metrics
        self._log = log
        self._now = now
        self._active: set[RequestContext] = set()
        self.idle = asyncio.Event()
        self.idle.set()
        self.draining = False

    def __repr__(self) -> str:
        draining = ", draining" if self.draining else ""
        return f"<RequestHandler {len(self._active)} active{draining}>"

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve one request. Whatever happens, its record is frozen and handed on once."""
        path, token = split_token(request.raw_path)
        route, path_model = find_route(path)
        headers = request.headers
        retry = headers.get("x-stainless-retry-count", "")
        record = RequestRecord(
            request_id=_new_id(),
            method=request.method if request.method in _METHODS else "OTHER",
            started=self._now(),
            client=client_address(request.remote, headers, self._trusted_proxies),
            retry=int(retry) if retry.isascii() and retry.isdigit() and len(retry) < 4 else None,
        )
        with self.memory_budget.reservation() as reservation:
            response = Response(
                request,
                route.dialect,
                request_id=record.request_id,
                reservation=reservation,
                settings=self._settings,
            )
            context = RequestContext(
                request=request,
                token=token,
                route=route,
                path_model=path_model,
                record=record,
                reservation=reservation,
                response=response,
                task=cast("asyncio.Task[object]", asyncio.current_task()),
            )
            self._active.add(context)
            self.idle.clear()
            try:
                await self._serve_or_fail(context)
            except asyncio.CancelledError:
                if not await self._finish_cancelled(context):
                    raise
            finally:
                self._active.discard(context)
                if not self._active:
                    self.idle.set()
                record.status = record.status or response.status
                record.bytes_out = response.bytes_out
                record.heartbeats = response.heartbeats
                self._telemetry.finished(record.finish(self._now()))
        return response.aiohttp_response

    async def _serve_or_fail(self, context: RequestContext) -> None:
        """Serve a request, and turn every failure into a response."""
        try:
            await self._serve(context)
        except GatewayError as error:
            await self._fail(context, error)
        except Exception as error:  # noqa: BLE001 - the one place where bugs become a response
            self._log.error("request.crashed", request_id=context.record.request_id, exc_info=error)
            await self._fail(context, InternalError())

    async def _serve(self, context: RequestContext) -> None:
        request, route, record = context.request, context.route, context.record
        if request.version not in (HttpVersion10, HttpVersion11):
            raise BadRequest
        if not route.methods:
            raise UnknownRoute
        record.route = route.template
        if request.method not in route.methods:
            allowed = ", ".join(route.methods)
            raise MethodNotAllowed(
                f"{route.template} is called with {allowed}.", headers={"Allow": allowed}
            )
        if self.draining and route.template != HEALTH:
            raise Draining
        if route.scope is not None:
            await self._authorize(context)
        if route.scope is Scope.INFERENCE:
            await self._inference.serve(context)
        else:
            await self._discovery.serve(context)
        record.phase = Phase.DONE

    async def _authorize(self, context: RequestContext) -> None:
        """Find out which key was sent and whether it may do this, before reading the body."""
        record = context.record
        record.phase = Phase.AUTHENTICATE
        try:
            principal = self._authenticator.authenticate(
                context.request.headers, path_token=context.token, client=record.client or ""
            )
        except (InvalidApiKey, TooManyFailures) as error:
            # TooManyFailures is raised from the InvalidApiKey that reached the limit.
            cause = error if isinstance(error, InvalidApiKey) else error.__cause__
            reason = cause.reason if isinstance(cause, InvalidApiKey) else error.code
            self._metrics.auth_failed(reason)
            raise
        record.key = principal.key
        context.principal = principal
        if context.route.scope is not None:
            require_scope(principal, context.route.scope, in_path=context.token is not None)
        if principal.rpm is not None:
            self._rates.take(principal)

    async def _fail(self, context: RequestContext, error: GatewayError) -> None:
        response, record = context.response, context.record
        record.status = response.status
        record.fail(error)
        if isinstance(error, ClientDisconnected | ClientWriteTimeout):
            response.abort()
            return
        try:
            await response.fail(error)
        except (ClientDisconnected, ClientWriteTimeout):
            response.abort()

    async def _finish_cancelled(self, context: RequestContext) -> bool:
        """Finish a cancelled request; return False if it was cancelled because its client left."""
        record, response = context.record, context.response
        # If the client left as well, one more cancellation is pending.
        shut_down = context.is_shut_down and context.task.uncancel() == 0
        if response.state is State.ENDED:
            # Only what follows the response was cancelled: that is no failure.
            record.phase = Phase.DONE
        elif shut_down:
            await self._fail(context, Shutdown())
        else:
            # A client may disconnect during the drain, too: its connection tells.
            transport = context.request.transport
            connected = transport is not None and not transport.is_closing()
            record.fail(Shutdown() if self.draining and connected else ClientDisconnected())
        if not shut_down:
            response.abort()
        return shut_down

    # For the server's drain and the status.

    def drain(self) -> None:
        """Reject all new requests except /healthz."""
        self.draining = True

    def abort_all(self) -> None:
        """Fail every request that is still served: ``drain_timeout`` has expired."""
        for context in self._active:
            if not context.is_shut_down:
                context.is_shut_down = True
                context.task.cancel()

    def active_requests(self) -> list[ActiveRequest]:
        """Return what is being served, the oldest first."""
        now = self._now()
        return [
            ActiveRequest(
                request_id=context.record.request_id,
                route=context.record.route,
                key=context.record.key,
                model=context.record.model,
                phase=context.record.phase.value,
                duration=max(0.0, now - context.record.started),
                heartbeats=context.response.heartbeats,
            )
            for context in sorted(self._active, key=lambda each: each.record.started)
        ]

    # For connections, before and after a request exists.

    def record_bad_request(self, request: web.BaseRequest) -> str:
        """Record that a request was not valid HTTP, without its content. Returns an id for it."""
        record = RequestRecord(request_id=_new_id(), method="", started=self._now())
        record.client = client_address(request.remote, request.headers, ())
        record.fail(BadRequest())
        self._telemetry.finished(record.finish(self._now()))
        return record.request_id

    def record_crash(self, error: Exception) -> str:
        """Record a bug in the rendering of failures itself. Returns an id for it."""
        request_id = _new_id()
        self._log.error("request.crashed", request_id=request_id, exc_info=error)
        return request_id


def _new_id() -> str:
    return f"req_{secrets.token_hex(12)}"


_NO_RETRY: Final = ("x-should-retry", "false")
_REPLAYED: Final = "x-gateway-replayed"
"""Names the request that failed: its line in the log says more."""

_OF_THAT_ATTEMPT: Final = frozenset(
    {"retry-after", "retry-after-ms", "x-should-retry", "server-timing"}
)


class Inference:
    """Serves the inference routes. Mutable state: the failures that could not be reported."""

    def __init__(
        self,
        *,
        settings: Settings,
        catalog: Catalog,
        pipeline: Pipeline,
        failure_replay: FailureReplay,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._pipeline = pipeline
        self._failure_replay = failure_replay

    async def serve(self, context: RequestContext) -> None:
        """Read, parse, resolve, and let the pipeline do the rest.

        Raises a GatewayError for every way to fail.
        """
        request, record, response = context.request, context.record, context.response
        settings = self._settings
        client_timeout = declared_client_timeout(request.headers)
        schedule = None
        if request.version >= HttpVersion11:  # HTTP/1.0 has no chunks, so it gets no heartbeats.
            schedule = heartbeat_schedule(request.headers, client_timeout, settings.tunnel)
        extended = deadlines_extended(settings.tunnel, client_timeout, schedule)
        inference = await self._read(context, client_timeout, extended=extended)
        # A client that counts its attempts says 0 for a first one, which is no retry.
        if record.retry != 0 and await self._replay(context, inference.fingerprint):
            return
        timer = HeartbeatTimer(
            response,
            schedule,
            kind=ResponseKind.STREAM if inference.streaming else ResponseKind.COMPLETE,
            since=record.arrived_at or record.started,
            record=record,
        )
        try:
            with timer:
                await self._pipeline.perform(inference, response, record)
        except (ClientDisconnected, ClientWriteTimeout):
            raise
        except Exception as error:
            if response.cannot_report_errors:
                # Remember it before the connection closes: the client may retry at once.
                failure = _replayable(error, context)
                self._failure_replay.remember(inference.fingerprint, failure, retry=record.retry)
            raise

    async def _read(
        self, context: RequestContext, client_timeout: ClientTimeout | None, *, extended: bool
    ) -> InferenceRequest:
        """Return the frozen request. What was parsed is dropped here, before anything waits."""
        request, record, route = context.request, context.record, context.route
        record.phase = Phase.BODY
        data = await read_body(
            request,
            context.reservation,
            limit=self._settings.limits.body_bytes,
            body_timeout=self._settings.timeouts.body_timeout,
        )
        record.arrived_at = asyncio.get_running_loop().time()
        record.bytes_in = len(data)
        record.phase = Phase.PARSE
        parsed = parse_request(
            data,
            path=route.template,
            dialect=route.dialect,
            principal=context.principal,
            can_stream=route.can_stream,
            forbid_truncation=self._settings.integrity.truncated_prompt == "error",
        )
        record.streaming = parsed.streaming
        if parsed.dropped:
            context.response.headers["x-gateway-dropped"] = ", ".join(parsed.dropped)
        record.phase = Phase.RESOLVE
        model = await self._resolve(context, parsed.model)
        record.model = model.name if model.raw else None
        body = parsed.body_for(model.name)
        context.reservation.shrink_to(len(body))
        return InferenceRequest(
            request_id=record.request_id,
            principal=context.principal,
            path=route.template,
            dialect=route.dialect,
            model=model,
            streaming=parsed.streaming,
            client_timeout=None if client_timeout is None else client_timeout.seconds,
            body=body,
            fingerprint=Fingerprint(context.principal.key, route.template, body),
            prompt=parsed.prompt,
            extended=extended,
        )

    async def _resolve(self, context: RequestContext, name: str) -> Model:
        """Return the model that Ollama would run, if this key may use it where it runs."""
        principal = context.principal
        canonical = name_key(name) or name
        is_cloud = is_cloud_name(name)
        if is_cloud and not principal.may_reach_cloud(canonical):
            raise _cloud_not_allowed()
        try:
            model = await self._catalog.resolve(name, principal.may_use)
        except (ModelNotFound, NoModelsPulled):
            if is_cloud and principal.may_use(canonical):
                # Ollama runs a cloud model that was never pulled.
                return Model(
                    name=canonical,
                    digest="",
                    size_bytes=None,
                    parameters=None,
                    remote=True,
                    created=0,
                    raw={},
                )
            raise
        if model.leaves_the_machine and not principal.may_reach_cloud(model.name):
            raise _cloud_not_allowed()
        return model

    async def _replay(self, context: RequestContext, fingerprint: Fingerprint) -> bool:
        """Answer with the failure of an earlier attempt, if this request is its retry.

        Raises ClientDisconnected, ClientWriteTimeout.
        """
        record, response = context.record, context.response
        failure = self._failure_replay.take(fingerprint, retry=record.retry)
        if failure is None:
            return False
        record.outcome, record.error = failure.outcome, failure.message
        record.replayed = True
        await response.send(failure.status, failure.headers, failure.body)
        await response.end()
        return True


def _cloud_not_allowed() -> CloudNotAllowed:
    return CloudNotAllowed(
        "This model runs on ollama.com, on the account of this machine's owner, which this key is "
        "not allowed to use. Use a model that runs here, or ask the owner for a key made with "
        "`--cloud`.",
        param="model",
    )


def _replayable(error: Exception, context: RequestContext) -> ReplayableFailure:
    """Return the complete response that reports ``error`` to the retry."""
    request_id = context.record.request_id
    reported = error if isinstance(error, GatewayError) else InternalError()
    body = context.route.dialect.error_body(reported, request_id)
    json, origin = ("Content-Type", "application/json"), (_REPLAYED, request_id)
    if not isinstance(reported, UpstreamFailed):
        headers = _for_retry((json, origin, *reported.headers.items()))
        return ReplayableFailure(reported.status, headers, body, reported.code, reported.message)
    reply = reported.reply
    as_sent = ReplayableFailure(
        reply.status,
        _for_retry((origin, *reply.headers)),
        reply.body,
        reported.code,
        reported.message,
    )
    if reply.body and as_sent.is_small:
        return as_sent
    return replace(as_sent, headers=_for_retry((json, origin)), body=body)


def _for_retry(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Replace advice about retrying: the client has retried already and must report this."""
    kept = (header for header in headers if header[0].lower() not in _OF_THAT_ATTEMPT)
    return (*kept, _NO_RETRY)
