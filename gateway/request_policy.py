"""What the owner has set, as far as it decides about one call."""

from gateway.client_timeout import HeartbeatSettings, heartbeat_schedule
from gateway.proxy.guard import IntegrityPolicy
from gateway.proxy.pipeline import RequestPolicy
from gateway.public.keepalive import KeepAliveSettings
from gateway.settings import Settings
from gateway.timeouts import ModelOverride, TimeoutSettings


def request_policy_from(settings: Settings) -> RequestPolicy:
    """The terms of every call; None leaves a clock to the model's size."""
    timeouts = settings.timeouts
    return RequestPolicy(
        timeouts=TimeoutSettings(
            queue_timeout=timeouts.queue_timeout,
            connect_timeout=timeouts.connect_timeout,
            first_byte_timeout=timeouts.first_byte_timeout,
            idle_timeout=timeouts.idle_timeout,
            total_timeout=timeouts.total_timeout,
            stream_total_timeout=timeouts.stream_total_timeout,
            ceiling=timeouts.ceiling,
            write_timeout=timeouts.write_timeout,
            learned_floor=timeouts.learned_floor,
        ),
        overrides=[
            ModelOverride(
                match=row.match,
                total_timeout=row.total_timeout,
                first_byte_timeout=row.first_byte_timeout,
                max_active=row.max_active,
            )
            for row in settings.models
        ],
        max_active_per_model=settings.scheduler.max_active_per_model,
        answer_bytes=settings.limits.read_ahead_bytes,
        holds=settings.tunnel.client_timeout == "extend" and _beats(settings),
    )


def _beats(settings: Settings) -> bool:
    return heartbeat_schedule({}, None, keep_alive_settings_from(settings).pulse) is not None


def integrity_policy_from(settings: Settings) -> IntegrityPolicy:
    """What is to be an error of what Ollama does not say."""
    return IntegrityPolicy(
        incomplete_fails=settings.integrity.incomplete == "error",
        truncated_fails=settings.integrity.truncated_prompt == "error",
    )


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
