"""What the owner has set, as far as it decides about one call."""

from gateway.client_timeout import HeartbeatSettings, heartbeat_schedule
from gateway.public.keepalive import KeepAliveSettings
from gateway.settings import Settings


def deadlines_extended(settings: Settings) -> bool:
    """Return True if heartbeats extend the deadline of a client that declares no timeout."""
    return settings.tunnel.client_timeout == "extend" and _beats(settings)


def _beats(settings: Settings) -> bool:
    return heartbeat_schedule({}, None, keep_alive_settings_from(settings).pulse) is not None


def keep_alive_settings_from(settings: Settings) -> KeepAliveSettings:
    """When answers are kept alive; None leaves a number to the profile."""
    tunnel = settings.tunnel
    return KeepAliveSettings(
        pulse=HeartbeatSettings(
            profile=tunnel.profile,
            commit_after=tunnel.commit_after,
            interval=tunnel.heartbeat_interval,
        ),
        extend=tunnel.client_timeout == "extend",
    )
