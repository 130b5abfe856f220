from gateway.request_policy import terms_of
from gateway.settings import Settings
from gateway.timeouts import Override


def test_auto_leaves_a_clock_to_the_models_size() -> None:
    """As the settings have it by default."""
    clocks = terms_of(Settings()).clocks

    assert (clocks.first_byte_timeout, clocks.idle_timeout, clocks.total_timeout) == (None,) * 3
    assert (clocks.queue_timeout, clocks.ceiling, clocks.write_timeout) == (300.0, 1800.0, 30.0)
    assert clocks.learned_floor is None


def test_what_the_owner_sets_is_what_calls_get() -> None:
    """Numbers, rows for models in their order, the limits."""
    settings = Settings.model_validate(
        {
            "clocks": {"total_timeout": "5m", "idle_timeout": 7},
            "models": [{"match": "qwen*", "total_timeout": 900}, {"match": "*", "max_active": 3}],
            "admission": {"max_active_per_model": 2, "max_active": 4},
            "limits": {"answer_bytes": "2MiB"},
        }
    )
    terms = terms_of(settings)

    assert (terms.clocks.total_timeout, terms.clocks.idle_timeout) == (300.0, 7.0)
    assert terms.overrides == [
        Override(match="qwen*", total_timeout=900.0),
        Override(match="*", max_active=3),
    ]
    assert (terms.max_active_per_model, terms.answer_bytes) == (2, 2 << 20)
