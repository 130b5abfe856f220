from gateway.dialects import Usage
from gateway.dialects.body import TAIL_BYTES, Reading, WholeBody

LIMIT = 100_000


def body() -> WholeBody:
    """Its usage tells how many bytes were read, and of what: in is a document, out is an end."""
    return WholeBody(
        read=lambda document: Reading(usage=Usage(tokens_in=len(document))),
        read_tail=lambda tail: Reading(usage=Usage(tokens_out=len(tail))),
        limit=LIMIT,
    )


def test_up_to_the_limit_it_is_a_document() -> None:
    """However it came."""
    whole = body()
    for _ in range(LIMIT // 1000):
        whole.feed(b"x" * 1000)

    assert Usage(tokens_in=LIMIT) == whole.usage


def test_above_the_limit_only_its_end_is_kept() -> None:
    """However it came, and in bounded memory."""
    at_once, in_parts = body(), body()
    at_once.feed(b"x" * 5_000_000)
    for _ in range(5000):
        in_parts.feed(b"x" * 1000)

    assert Usage(tokens_out=TAIL_BYTES) == at_once.usage
    assert Usage(tokens_out=TAIL_BYTES) == in_parts.usage
    assert int(repr(in_parts).split()[1]) <= 2 * TAIL_BYTES


def test_a_question_does_not_end_the_reading() -> None:
    """What is fed after a question counts in the next answer."""
    whole = body()
    whole.feed(b"ab")

    assert Usage(tokens_in=2) == whole.usage
    whole.feed(b"c")
    assert Usage(tokens_in=3) == whole.usage
    assert repr(whole) == "<WholeBody 3 bytes kept, all of it>"
