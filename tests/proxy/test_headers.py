"""Which headers go on to the caller."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.headers import STREAM_HEADERS, end_to_end

NEVER = [
    *("Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection"),
    *("TE", "Trailer", "Transfer-Encoding", "Upgrade"),
    *("Content-Length", "Date", "Server", "X-Request-Id", "Server-Timing", "Age", "Set-Cookie"),
    *("X-Gateway-Dropped", "X-Gateway-Stale", "X-Gateway-Whatever-Comes"),
]

names = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12)
pairs = st.lists(st.tuples(names | st.sampled_from(NEVER), st.text(max_size=8)))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", NEVER)
@pytest.mark.parametrize("spelt", [str.lower, str.upper, str], ids=["lower", "upper", "usual"])
def test_what_is_for_one_hop_or_ours_to_say_is_withheld(
    name: str, spelt: type[str], streaming: bool
) -> None:
    """However it is spelt: RFC 9110, section 7.6.1, and the promises of this gateway."""
    kept = end_to_end([(spelt(name), "theirs"), ("X-Other", "1")], streaming=streaming)

    assert kept[0] == ("X-Other", "1")
    assert "theirs" not in [value for _, value in kept]


@pytest.mark.parametrize("listed", ["X-Hop", "close, x-hop", "X-HOP ,Keep-Alive", "a,,X-Hop,"])
def test_what_connection_names_is_for_one_hop(listed: str) -> None:
    """In any place of its list, in any spelling, before or after it."""
    headers = [("x-hop", "1"), ("Connection", listed), ("X-Hop", "2"), ("X-Kept", "3")]

    assert end_to_end(headers, streaming=False) == [("X-Kept", "3")]


def test_several_connection_headers_all_count() -> None:
    """A list may be spread over lines."""
    headers = [("Connection", "x-one"), ("X-One", "1"), ("X-Two", "2"), ("connection", "x-two")]

    assert end_to_end(headers, streaming=False) == []


@given(pairs, st.booleans())
def test_the_rest_keeps_its_order_its_spelling_and_its_repetitions(
    headers: list[tuple[str, str]], streaming: bool
) -> None:
    """Nothing is added to a whole answer, and two lines to a stream."""
    kept = end_to_end(iter(headers), streaming=streaming)
    theirs = kept[: -len(STREAM_HEADERS)] if streaming else kept

    remaining = iter(headers)
    assert all(pair in remaining for pair in theirs)
    assert not {name.lower() for name, _ in theirs} & {name.lower() for name in NEVER}
    if streaming:
        assert tuple(kept[-len(STREAM_HEADERS) :]) == STREAM_HEADERS


def test_a_type_is_never_touched() -> None:
    """Not its parameters, not its case."""
    headers = [("content-type", "Application/JSON; Charset=UTF-8")]

    assert end_to_end(headers, streaming=False) == headers


def test_a_stream_says_once_that_nobody_may_keep_or_collect_it() -> None:
    """In our words, whatever Ollama said about it; a whole answer keeps Ollama's."""
    headers = [("Cache-Control", "max-age=60"), ("X-Accel-Buffering", "yes")]

    assert end_to_end(headers, streaming=True) == [
        ("Cache-Control", "no-cache, no-transform"),
        ("X-Accel-Buffering", "no"),
    ]
    assert end_to_end(headers, streaming=False) == headers
