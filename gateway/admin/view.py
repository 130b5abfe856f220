"""Joins the admin listener to the gateway that it tells about."""

from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from gateway.admin.app import AdminView, Refreshed, admin_app
from gateway.admin.guard import AdminGuard
from gateway.admin.snapshot import Keys, Ollama, Standing
from gateway.admin.status import not_ready, status_of
from gateway.app import Gateway
from gateway.auth.authenticator import Authenticator
from gateway.auth.failures import Failures
from gateway.errors import GatewayError, UpstreamProtocolError, UpstreamUnreachable
from gateway.models.list_cache import CachedList
from gateway.proxy.pipeline import RequestPolicy
from gateway.request_policy import request_policy_from

_OLLAMA_AWAY: Final = (UpstreamUnreachable, UpstreamProtocolError)


def admin_of(gateway: Gateway, *, started_at: datetime | None = None) -> web.Application:
    """The application for ``listen.admin``; ``started_at`` is aware, and now unless given."""
    sight = _Sight(gateway, gateway.version, started_at or _now())
    view = AdminView(
        exposition=gateway.metrics.exposition,
        ready=sight.ready,
        status=sight.status,
        refresh=sight.refresh,
        crashed=lambda error: gateway.log.error("admin.crashed", exc_info=error),
    )
    return admin_app(view, _guard(gateway))


def _guard(gateway: Gateway) -> AdminGuard:
    settings = gateway.settings
    # A count of its own: failures at the public door say nothing about who knocks here.
    failures = Failures(settings.limits.failures_per_minute)
    return AdminGuard(
        listen_host=settings.listen.admin.host,
        hosts=frozenset(settings.listen.admin_hosts),
        authenticator=Authenticator(gateway.keys, failures, now=_now),
        auth_failed=gateway.metrics.auth_failed,
    )


class _Sight:
    """One gateway as the admin pages see it; holds no state of its own."""

    def __init__(self, gateway: Gateway, version: str, started_at: datetime) -> None:
        self._gateway = gateway
        self._version = version
        self._started_at = started_at
        self._policy: RequestPolicy = request_policy_from(gateway.settings)

    def ready(self) -> str | None:
        gateway = self._gateway
        return not_ready(
            draining=gateway.handler.draining,
            up=gateway.catalog.up,
            ollama_url=gateway.settings.ollama.url,
            keys=self._keys(),
            now=_now(),
        )

    async def status(self) -> dict[str, Any]:
        gateway = self._gateway
        ollama = await self._ollama()
        return status_of(
            Standing(
                now=_now(),
                started_at=self._started_at,
                version=self._version,
                draining=gateway.handler.draining,
                ollama=ollama,
                queue=gateway.scheduler.snapshot(),
                queue_text=repr(gateway.scheduler),
                keys=self._keys(),
                terms=self._policy,
                residency_tracker=gateway.learning.residency_tracker.view(),
                statistics=gateway.learning.statistics.snapshot(),
                recent=gateway.recent.snapshot(),
                contexts=gateway.learning.contexts,
                under_way=gateway.handler.under_way(),
            )
        )

    async def refresh(self) -> Refreshed:
        """Ask Ollama now. A list that was kept for its absence is not what was asked for."""
        try:
            served = await self._gateway.catalog.refresh()
        except _OLLAMA_AWAY as error:
            return Refreshed(None, None, error)
        trouble = self._away() if served.stale else None
        return Refreshed(len(served.listing.models), round(served.age, 3), trouble)

    async def _ollama(self) -> Ollama:
        served: CachedList | None = None
        trouble: str | None = None
        try:
            served = await self._gateway.catalog.listing()
        except _OLLAMA_AWAY as error:
            trouble = error.message
        # After the list, for asking for it may be how Ollama's absence is found out.
        up = self._gateway.catalog.up
        return Ollama(url=self._gateway.settings.ollama.url, up=up, served=served, trouble=trouble)

    def _keys(self) -> Keys:
        keys = self._gateway.keys
        return Keys(all=keys.keys, broken=keys.broken)

    def _away(self) -> GatewayError:
        url = self._gateway.settings.ollama.url
        return UpstreamUnreachable(
            f"Ollama does not answer at {url}; the list is the last one that it gave. "
            "Check on its machine that it runs."
        )


def _now() -> datetime:
    return datetime.now(UTC)
