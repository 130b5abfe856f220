from gateway.telemetry.labels import MAX_LENGTH, OTHER, Names


def test_names_are_let_through_until_the_set_is_full() -> None:
    """Who came first stays; who comes later is one of the others."""
    names = Names(2)

    shown = [names.admit(name) for name in ("a", "b", "c", "a", "b", "d")]

    assert shown == ["a", "b", OTHER, "a", "b", OTHER]
    assert repr(names) == "<Names 2/2>"


def test_a_name_is_shown_in_print_and_in_bounds() -> None:
    """A catalogue may hold anything; a page of metrics must be text."""
    shown = Names(1).admit("a\n\ud800" + "b" * 1_000 + "ogw_abcdefgh")

    assert shown == "a " + "b" * (MAX_LENGTH - 2)
