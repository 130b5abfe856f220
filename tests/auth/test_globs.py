import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.globs import EVERY, ModelGlobs


@pytest.mark.parametrize(
    ("glob", "model"),
    [
        ("llama3.2", "llama3.2"),
        ("llama3.2", "llama3.2:latest"),
        ("llama3.2:latest", "llama3.2"),
        ("LLAMA3.2", "Llama3.2:LATEST"),
        ("llama*", "llama3.3:70b"),
        ("*:1b", "llama3.2:1b"),
        ("*-embed-text", "nomic-embed-text:latest"),
        ("qwen?", "qwen3:latest"),
        ("hf.co/*", "hf.co/someone/model:q4"),
        ("host:5000/a", "host:5000/a:latest"),
        ("host:5000/a:latest", "host:5000/a"),
        ("*", "anything:at-all"),
    ],
)
def test_a_glob_matches(glob: str, model: str) -> None:
    """Case and the default tag make no difference; * is any text, ? one character."""
    assert ModelGlobs((glob,)).matches(model)


@pytest.mark.parametrize(
    ("glob", "model"),
    [
        ("llama3.2", "llama3.2:1b"),
        ("llama3.2", "llama3.22"),
        ("llama3.2", "llama302"),
        ("llama3.2:latest", "llama3.2:latest2"),
        ("llama", "my-llama"),
        ("qwen?", "qwen"),
        ("[a-z]", "b"),
        ("a|b", "b"),
        ("a", "a\n"),
    ],
)
def test_a_glob_does_not_match(glob: str, model: str) -> None:
    """A glob means the whole name, and only * and ? are special in it."""
    assert not ModelGlobs((glob,)).matches(model)


def test_a_bracket_is_an_ordinary_character() -> None:
    """It opens no set of characters here."""
    assert ModelGlobs(("[a]*",)).matches("[a]b")


def test_one_of_several_is_enough() -> None:
    """Globs add to each other."""
    globs = ModelGlobs(("llama*", "qwen2.5-coder:7b"))

    assert [
        globs.matches(name) for name in ("llama3.2:1b", "qwen2.5-coder:7b", "qwen2.5-coder:32b")
    ] == [True, True, False]


def test_no_glob_matches_nothing() -> None:
    """Not even the empty name: this is what forbids the cloud."""
    assert not ModelGlobs(()).matches("llama3.2:1b")
    assert not ModelGlobs(()).matches("")


@given(st.text())
def test_every_model_matches_the_star(model: str) -> None:
    """Whatever its name holds."""
    assert ModelGlobs(EVERY).matches(model)


@given(st.text())
def test_a_name_matches_itself_as_a_glob(model: str) -> None:
    """Whatever a name holds, as a glob it holds at least itself."""
    assert ModelGlobs((model,)).matches(model)


def test_a_hostile_name_costs_no_more_than_a_plain_one() -> None:
    """Many stars do not make the matching backtrack: this would not end within the time limit."""
    assert not ModelGlobs(("*a" * 50 + "!",)).matches("a" * 5000)
