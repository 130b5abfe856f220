from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import (
    GatewayError,
    UpstreamFirstByteTimeout,
    UpstreamIdleTimeout,
    UpstreamTimeout,
)
from gateway.upstream.deadlines import Deadlines

instants = st.floats(0, 1e6)
seconds = st.floats(0.001, 1e5)


@st.composite
def replies(draw: st.DrawFn) -> Deadlines:
    """Any reply, before or after its first byte, read or held back by a slow caller."""
    made = Deadlines(
        sent_at=draw(instants),
        first_byte_timeout=draw(seconds),
        idle_timeout=draw(seconds),
        total_timeout=draw(seconds),
    )
    if draw(st.booleans()):
        made.last_byte_at = made.sent_at + draw(st.floats(0, 1e5))
        made.held = draw(st.booleans())
    return made


def deadlines(*, last_byte_at: float | None = None, held: bool = False) -> Deadlines:
    return Deadlines(
        sent_at=100.0,
        first_byte_timeout=20.0,
        idle_timeout=5.0,
        total_timeout=60.0,
        last_byte_at=last_byte_at,
        held=held,
    )


def verdict(reply: Deadlines, now: float) -> type[GatewayError] | None:
    error = reply.overdue(now)
    return None if error is None else type(error)


@given(replies())
def test_a_timer_that_rings_has_something_to_say(reply: Deadlines) -> None:
    """Whoever looks at ``next()`` finds a clock that has run out: he never rings in vain."""
    assert reply.overdue(reply.next()) is not None


@given(replies(), st.floats(0, 1, exclude_max=True))
def test_nothing_is_overdue_before_the_timer_rings(reply: Deadlines, part: float) -> None:
    """Whoever looks earlier finds all clocks running: nobody is cut too soon."""
    earlier = reply.sent_at + (reply.next() - reply.sent_at) * part

    assert earlier >= reply.next() or reply.overdue(earlier) is None


@given(replies(), seconds)
def test_what_is_overdue_stays_so(reply: Deadlines, later: float) -> None:
    """A timer that rings late finds what it would have found in time."""
    assert reply.overdue(reply.next() + later) is not None


@given(replies(), seconds)
def test_a_byte_never_brings_the_end_of_silence_closer(reply: Deadlines, later: float) -> None:
    """Once bytes come, each one moves the clock on, up to that of the whole answer."""
    if reply.last_byte_at is not None:
        before = reply.next()
        reply.last_byte_at += later

        assert reply.next() >= before


def test_before_the_first_byte() -> None:
    """The clock of the first byte rings, and says which it is."""
    assert verdict(deadlines(), 119.9) is None
    assert verdict(deadlines(), 120.0) is UpstreamFirstByteTimeout


def test_between_two_bytes() -> None:
    """From the first byte on silence counts, from the last byte on."""
    assert verdict(deadlines(last_byte_at=130.0), 134.9) is None
    assert verdict(deadlines(last_byte_at=130.0), 135.0) is UpstreamIdleTimeout


def test_over_all() -> None:
    """An answer that goes on and on ends, whether or not bytes still come."""
    assert verdict(deadlines(last_byte_at=159.9), 160.0) is UpstreamTimeout


def test_silence_of_our_own_making_is_not_idle() -> None:
    """While we read nothing Ollama cannot be late; the clock of the whole answer runs on."""
    held = deadlines(last_byte_at=110.0, held=True)

    assert held.next() == 160.0
    assert verdict(held, 159.9) is None
    assert verdict(held, 160.0) is UpstreamTimeout


def test_an_answer_in_one_piece_is_late_as_a_whole() -> None:
    """Where first byte and end have one clock, it is the end that is told."""
    whole = Deadlines(sent_at=0.0, first_byte_timeout=60.0, idle_timeout=60.0, total_timeout=60.0)

    assert verdict(whole, 60.0) is UpstreamTimeout


def test_each_error_names_its_time_and_the_setting_that_raises_it() -> None:
    """The owner reads in the message which line of his config file to change."""
    first = deadlines().overdue(120.0)
    idle = deadlines(last_byte_at=130.0).overdue(135.0)
    total = deadlines(last_byte_at=159.0).overdue(160.0)

    assert first is not None
    assert idle is not None
    assert total is not None
    assert "within 20 s" in first.message
    assert "`first_byte_timeout` under [[models]]" in first.message
    assert "nothing for 5 s" in idle.message
    assert "`timeouts.idle_timeout`" in idle.message
    assert "within 60 s" in total.message
    assert "`total_timeout` under [[models]]" in total.message
