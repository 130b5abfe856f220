from gateway.models import ShowReply
from gateway.models.show_cache import ShowCache
from tests.models.fakes import model_of


def reply_of(size: int) -> ShowReply:
    return ShowReply(200, b"x" * size)


def test_kept_by_model_digest_and_verbose() -> None:
    """An answer is found for just what it answers."""
    shown = ShowCache()
    shown.keep(model_of("a"), reply_of(1), verbose=False)

    assert shown.find(model_of("a"), verbose=False) == reply_of(1)
    assert shown.find(model_of("a"), verbose=True) is None
    assert shown.find(model_of("b"), verbose=False) is None


def test_another_digest_drops_the_answer() -> None:
    """What described an older model is gone, also when its digest comes back."""
    shown = ShowCache()
    shown.keep(model_of("a", "old"), reply_of(5), verbose=False)

    assert shown.find(model_of("a", "new"), verbose=False) is None
    assert shown.find(model_of("a", "old"), verbose=False) is None
    assert repr(shown) == "<ShownModels 0 answers, 0 bytes>"


def test_the_least_recently_used_goes_first() -> None:
    """Beyond the number of answers the one that nobody asked for is dropped."""
    shown = ShowCache(most=2)
    for name in ("a", "b"):
        shown.keep(model_of(name), reply_of(1), verbose=False)
    shown.find(model_of("a"), verbose=False)
    shown.keep(model_of("c"), reply_of(1), verbose=False)

    kept = [name for name in "abc" if shown.find(model_of(name), verbose=False)]
    assert kept == ["a", "c"]


def test_bounded_in_bytes() -> None:
    """Large answers push out as many others as they need."""
    shown = ShowCache(most_bytes=100)
    for name in ("a", "b", "c"):
        shown.keep(model_of(name), reply_of(30), verbose=False)
    shown.keep(model_of("d"), reply_of(60), verbose=False)

    assert repr(shown) == "<ShownModels 2 answers, 90 bytes>"


def test_replaced_answers_do_not_count_twice() -> None:
    """Keeping again counts the bytes of the new answer only."""
    shown = ShowCache()
    shown.keep(model_of("a", "old"), reply_of(30), verbose=False)
    shown.keep(model_of("a", "new"), reply_of(10), verbose=False)

    assert repr(shown) == "<ShownModels 1 answers, 10 bytes>"


def test_what_is_not_kept() -> None:
    """An answer larger than the cache, or one without a digest to tell its age, is not kept."""
    shown = ShowCache(most_bytes=100)
    shown.keep(model_of("a"), reply_of(50), verbose=False)
    shown.keep(model_of("b"), reply_of(101), verbose=False)
    shown.keep(model_of("c", ""), reply_of(1), verbose=False)

    assert repr(shown) == "<ShownModels 1 answers, 50 bytes>"
