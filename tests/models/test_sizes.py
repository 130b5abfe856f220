import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.models.sizes import parameter_count


@pytest.mark.parametrize(
    ("text", "billions"),
    [
        ("70.6B", 70.6),
        ("8.0B", 8.0),
        ("1.2B", 1.2),
        ("405B", 405.0),
        ("494.03M", 0.49403),
        ("152K", 0.000152),
        ("8x7B", 56.0),
        ("8X22b", 176.0),
        ("1.04T", 1040.0),
        ("480000000000", 480.0),
        ("999", 9.99e-7),
        (" 7 B ", 7.0),
    ],
)
def test_what_ollama_writes(text: str, billions: float) -> None:
    """Every form of Ollama's own is read as the number that it means."""
    assert billions == pytest.approx(parameter_count(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "B",
        "x7B",
        "8x",
        "0B",
        "0x7B",
        "-7B",
        "7Q",
        "7B5",
        "1e3B",
        "infB",
        "nan",
        "\u0667B",
        "7.B",
        ".5B",
        "999999T",
        "9" * 100_000,
        "9" * 30,
    ],
)
def test_what_says_nothing(text: str) -> None:
    """Empty, garbled and absurd texts are no number."""
    assert parameter_count(text) is None


@given(st.text())
def test_any_text_is_a_plausible_number_or_none(text: str) -> None:
    """Nothing that Ollama could send raises, or yields what no clock can use."""
    billions = parameter_count(text)

    assert billions is None or 0.0 < billions <= 100_000.0


@given(st.integers(1, 999), st.integers(0, 99), st.sampled_from("KMB"))
def test_units_are_in_steps_of_a_thousand(whole: int, part: int, unit: str) -> None:
    """The unit alone decides the scale."""
    scale = {"K": 1e-6, "M": 1e-3, "B": 1.0}[unit]

    assert (whole + part / 100) * scale == pytest.approx(
        parameter_count(f"{whole}.{part:02}{unit}")
    )
