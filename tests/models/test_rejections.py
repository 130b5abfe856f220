from gateway.errors import ModelNotFound, NoModelsPulled
from gateway.models.listing import Listing, parse_listing
from gateway.models.rejections import cannot_tell, nearest, not_allowed, not_found
from tests.models.fakes import tags_of

USUAL = ("llama3.2:1b", "llama3.3:latest", "qwen2.5-coder:7b", "nomic-embed-text:latest")


def listing_of(*names: str) -> Listing:
    return parse_listing(tags_of(*names), fetched_at=0.0)


def any_model(_: str) -> bool:
    return True


def test_not_found_names_the_nearest_first() -> None:
    """A caller with a typing error reads the right name first."""
    error = not_found("lama3.2:1b", listing_of(*USUAL), any_model)

    assert isinstance(error, ModelNotFound)
    assert "'lama3.2:1b'" in error.message
    assert "may use: llama3.2:1b, llama3.3:latest," in error.message
    assert error.param == "model"


def test_not_found_names_at_most_eight() -> None:
    """A long list does not make a long message."""
    error = not_found("x", listing_of(*(f"model-{n}:latest" for n in range(50))), any_model)

    assert error.message.count("model-") == 8


def test_refusals_name_only_what_the_key_may_use() -> None:
    """Other models stay unknown to the caller, whatever he asks for."""
    listing = listing_of(*USUAL)

    found = not_found("nope", listing, lambda name: name == "llama3.2:1b")
    allowed = not_allowed("qwen2.5-coder:7b", listing, lambda name: name == "llama3.2:1b")

    for message in (found.message, allowed.message):
        assert "llama3.2:1b" in message
        assert "nomic" not in message
        assert "llama3.3" not in message
    assert (allowed.status, allowed.code) == (403, "model_not_allowed")


def test_a_key_that_may_use_nothing_here() -> None:
    """It is told so instead of an empty list."""
    error = not_found("nope", listing_of(*USUAL), lambda _: False)

    assert "none of the models" in error.message
    assert not any(name in error.message for name in USUAL)


def test_nothing_pulled_at_all() -> None:
    """With an empty Ollama the advice is to pull something."""
    assert isinstance(not_found("tiny", listing_of(), any_model), NoModelsPulled)


def test_a_cloud_model_that_was_not_pulled() -> None:
    """Its message says that it would not run here."""
    assert "ollama.com" in not_found("glm-4.6:cloud", listing_of(*USUAL), any_model).message


def test_messages_are_bounded() -> None:
    """No name of a caller's makes a long or a broken message."""
    name = "a\r\nb" * 1_000_000

    for error in (not_found(name, listing_of(*USUAL), any_model), cannot_tell(name)):
        assert len(error.message) < 400
        assert "\n" not in error.message


def test_nearest_of_many_long_names() -> None:
    """Neither a huge list nor a huge name is compared in full: callers with wrong names retry."""
    names = [f"{n:04}{'x' * 70}:latest" for n in range(5_000)]

    assert names[:8] == nearest("y" * 1_000_000, names)
