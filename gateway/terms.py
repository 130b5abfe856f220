"""What the owner has set, as far as it decides about one call."""

from gateway.calls.pipeline import Terms
from gateway.clocks import ClockSettings, Override
from gateway.settings import Settings


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
    )


def _seconds(value: float | str) -> float | None:
    return None if isinstance(value, str) else value
