"""What the owner has set, as far as it decides about one call."""

from gateway.client_timeout import PulseSettings, pulse_for
from gateway.proxy.guard import TruthTerms
from gateway.proxy.pipeline import Terms
from gateway.public.keepalive import HoldSettings
from gateway.settings import Settings
from gateway.timeouts import ClockSettings, Override


def terms_of(settings: Settings) -> Terms:
    """The terms of every call; "auto" becomes None, which leaves a clock to the model's size."""
    clocks = settings.clocks
    return Terms(
        clocks=ClockSettings(
            queue_timeout=clocks.queue_timeout,
            connect_timeout=clocks.connect_timeout,
            first_byte_timeout=_seconds(clocks.first_byte_timeout),
            idle_timeout=_seconds(clocks.idle_timeout),
            total_timeout=_seconds(clocks.total_timeout),
            stream_total_timeout=clocks.stream_total_timeout,
            ceiling=clocks.ceiling,
            write_timeout=clocks.write_timeout,
            learned_floor=_seconds(clocks.learned_floor),
        ),
        overrides=[
            Override(
                match=row.match,
                total_timeout=row.total_timeout,
                first_byte_timeout=row.first_byte_timeout,
                max_active=row.max_active,
            )
            for row in settings.models
        ],
        max_active_per_model=settings.admission.max_active_per_model,
        answer_bytes=settings.limits.answer_bytes,
        holds=settings.tunnel.patience == "extend" and _beats(settings),
    )


def _beats(settings: Settings) -> bool:
    return pulse_for({}, None, hold_settings_of(settings).pulse) is not None


def truth_terms_of(settings: Settings) -> TruthTerms:
    """What is to be an error of what Ollama does not say."""
    return TruthTerms(
        incomplete_fails=settings.truth.incomplete == "error",
        truncated_fails=settings.truth.truncated_prompt == "error",
    )


def hold_settings_of(settings: Settings) -> HoldSettings:
    """When answers are kept alive; "auto" becomes None, which leaves a number to the profile."""
    tunnel = settings.tunnel
    return HoldSettings(
        pulse=PulseSettings(
            profile=tunnel.profile,
            commit_after=_seconds(tunnel.commit_after),
            interval=_seconds(tunnel.heartbeat_interval),
        ),
        extend=tunnel.patience == "extend",
    )


def _seconds(value: float | str) -> float | None:
    return None if isinstance(value, str) else value
