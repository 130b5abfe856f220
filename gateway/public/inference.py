"""Serves the inference routes: from a request to what the pipeline takes, and around the pipeline.

Around it are the heartbeats, and the failures that could not be reported to an earlier attempt.
"""

import asyncio
from dataclasses import replace
from typing import Final

from aiohttp import HttpVersion11

from gateway.errors import (
    ClientDisconnected,
    ClientWriteTimeout,
    CloudNotAllowed,
    GatewayError,
    InternalError,
    ModelNotFound,
    NoModelsPulled,
    UpstreamFailed,
)
from gateway.models.catalog import Catalog
from gateway.models.listing import Model
from gateway.models.names import is_cloud_name, name_key
from gateway.proxy.pipeline import Pipeline
from gateway.proxy.replay import FailureReplay, ReplayableFailure
from gateway.proxy.request import Fingerprint, InferenceRequest, parse_request
from gateway.public.body import read_body
from gateway.public.context import RequestContext
from gateway.public.heartbeat import HeartbeatTimer, deadlines_extended, heartbeat_schedule
from gateway.public.response import ResponseKind
from gateway.settings import Settings
from gateway.telemetry.record import Phase
from gateway.timeouts import ClientTimeout, declared_client_timeout

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
        if await self._replay(context, inference.fingerprint):
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
