from hypothesis import given
from hypothesis import strategies as st

from gateway.models.coresidency import CoResidency

SETS = st.frozensets(st.sampled_from("abcdef"), min_size=1, max_size=4)


def models(names: str) -> frozenset[str]:
    return frozenset(names)


def test_one_model_always_fits() -> None:
    """Nothing must have been seen for a model to be loaded alone."""
    assert CoResidency().fit(models("a"))
    assert CoResidency().fit(models(""))


def test_what_was_seen_fits_and_so_does_a_part_of_it() -> None:
    """Three at once prove each pair of them, and nothing of a fourth."""
    together = CoResidency()
    together.saw(models("abc"))

    assert together.fit(models("ac"))
    assert not together.fit(models("ad"))


def test_only_the_largest_sets_are_kept() -> None:
    """A part says nothing that the whole does not."""
    together = CoResidency()
    for names in ("ab", "abc", "bc"):
        together.saw(models(names))

    assert together.sets == {models("abc")}


def test_newer_evidence_wins() -> None:
    """Two that drive each other out do not fit, whatever was seen before; until they are seen."""
    together = CoResidency()
    together.saw(models("abc"))
    together.refuted(models("ac"))

    assert together.sets == {models("ab"), models("bc")}
    together.saw(models("ac"))
    assert together.fit(models("ac"))


def test_the_oldest_evidence_is_forgotten() -> None:
    """The number of sets is bounded; one that is seen again counts as new."""
    together = CoResidency(most=2)
    for names in ("ab", "cd", "a", "ab", "ef"):
        together.saw(models(names))

    assert together.sets == {models("ab"), models("ef")}


@given(st.lists(st.tuples(st.booleans(), SETS), max_size=30))
def test_the_last_word_on_a_set_holds(evidence: list[tuple[bool, frozenset[str]]]) -> None:
    """Whatever came before: what was seen last fits, what was refuted last does not."""
    together = CoResidency(most=8)
    for fits, names in evidence:
        if fits:
            together.saw(names)
        else:
            together.refuted(names)

        assert len(together.sets) <= 8
        assert together.fit(names) == (fits or len(names) <= 1)
        assert not any(one < other for one in together.sets for other in together.sets)
