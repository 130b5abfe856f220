from gateway.request_policy import request_policy_from
from gateway.settings import Settings
from gateway.timeouts import ModelOverride


def test_auto_leaves_a_clock_to_the_models_size() -> None:
    """As the settings have it by default."""
    timeouts = request_policy_from(Settings()).timeouts

    assert (timeouts.first_byte_timeout, timeouts.idle_timeout, timeouts.total_timeout) == (
        None,
    ) * 3
    assert (timeouts.queue_timeout, timeouts.ceiling, timeouts.write_timeout) == (
        300.0,
        1800.0,
        30.0,
    )
    assert timeouts.learned_floor is None


def test_what_the_owner_sets_is_what_calls_get() -> None:
    """Numbers, rows for models in their order, the limits."""
    settings = Settings.model_validate(
        {
            "timeouts": {"total_timeout": "5m", "idle_timeout": 7},
            "models": [{"match": "qwen*", "total_timeout": 900}, {"match": "*", "max_active": 3}],
            "scheduler": {"max_active_per_model": 2, "max_active": 4},
            "limits": {"read_ahead_bytes": "2MiB"},
        }
    )
    terms = request_policy_from(settings)

    assert (terms.timeouts.total_timeout, terms.timeouts.idle_timeout) == (300.0, 7.0)
    assert terms.overrides == [
        ModelOverride(match="qwen*", total_timeout=900.0),
        ModelOverride(match="*", max_active=3),
    ]
    assert (terms.max_active_per_model, terms.answer_bytes) == (2, 2 << 20)
