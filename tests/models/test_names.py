import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.models.names import (
    is_cloud_name,
    is_path,
    likeness,
    matches_any,
    name_key,
    namespace_of,
    shown,
)

PART = st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_-]{0,20}\Z")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("tiny", "tiny:latest"),
        ("tiny:latest", "tiny:latest"),
        ("TINY", "tiny:latest"),
        ("Llama3.2:1B", "llama3.2:1b"),
        ("library/tiny", "tiny:latest"),
        ("registry.ollama.ai/library/tiny:latest", "tiny:latest"),
        ("REGISTRY.ollama.ai/Library/Tiny", "tiny:latest"),
        ("registry.ollama.ai/me/tiny", "me/tiny:latest"),
        ("me/tiny:q4", "me/tiny:q4"),
        ("hf.co/Some/Model-GGUF:Q4_K_M", "hf.co/some/model-gguf:q4_k_m"),
        ("host:5000/a/b", "host:5000/a/b:latest"),
        ("hf.co/library/tiny", "hf.co/library/tiny:latest"),
    ],
)
def test_all_spellings_share_one_key(name: str, key: str) -> None:
    """Defaults are filled in and left out as Ollama's list does, and case never counts."""
    assert key == name_key(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ":",
        "/",
        "tiny:",
        ":latest",
        "a b",
        " tiny",
        "tiny\n",
        "a b//c:::d",
        "a/b/c/d",
        "a:b:c",
        "../../etc/passwd",
        ".hidden",
        "/usr/share/model",
        "tiny@sha256-abc",
        "t\u00efny",
        "\u212aiwi",
        "a" * 81,
        "tiny:" + "a" * 81,
        "a" * 1_000_000,
    ],
)
def test_a_text_that_cannot_be_a_name_has_no_key(name: str) -> None:
    """Ollama has no model by such a name, so there is no need to ask."""
    assert name_key(name) is None


@given(PART, PART, PART, PART)
def test_a_key_of_a_key_is_the_same(host: str, namespace: str, model: str, tag: str) -> None:
    """Names can be compared by it."""
    key = name_key(f"{host}.org/{namespace}/{model}:{tag}")

    assert key is not None
    assert key == name_key(key) == name_key(key.upper())


@given(st.text())
def test_any_text_has_a_key_or_none(text: str) -> None:
    """Whatever a client sends is a name in lower case with a tag, or none."""
    key = name_key(text)

    assert key is None or (key == name_key(key) == key.lower() and ":" in key)


@pytest.mark.parametrize(
    "name",
    [
        "glm-4.6:cloud",
        "gpt-oss:120b-cloud",
        "GPT-OSS:120B-CLOUD",
        "me/gpt-oss:20b-cloud",
        "gpt-oss:20b:cloud",
        "  glm-4.6:cloud  ",
        "glm-4.6: Cloud",
        "glm-4.6:\u00a0cloud\u2003",
        "gpt-oss:20b-cloud\t",
        "nimbus-cloud",
        "nimbus-cloud:latest",
        "n" * 10_000 + "-cloud",
    ],
)
def test_cloud_names_are_recognised_in_every_spelling(name: str) -> None:
    """As Ollama does, white space and case included."""
    assert is_cloud_name(name)


@pytest.mark.parametrize("name", ["", "cloud", "cloud:latest", "my-cloud-model", "soundcloud:8b"])
def test_local_names_may_contain_cloud(name: str) -> None:
    """Only the tag, or its end, counts."""
    assert not is_cloud_name(name)


@pytest.mark.parametrize(
    ("name", "namespace"),
    [
        ("tiny", "library"),
        ("library/tiny", "library"),
        ("Me/tiny:q4", "Me"),
        ("hf.co/Some/Model:Q4", "Some"),
        ("no name", "library"),
    ],
)
def test_the_namespace_is_the_owner(name: str, namespace: str) -> None:
    """As written, or library."""
    assert namespace == namespace_of(name)


@pytest.mark.parametrize(
    "name",
    [
        "/usr/share/ollama/.ollama/models/blobs/sha256-763fa3559b98f7b4",
        "C:\\Users\\Ann\\.ollama\\models\\blobs\\sha256-763f",
        "C:/Users/Ann/model",
        "~/models/x",
        "./model",
        "../model",
        "models/blobs/sha256-763fa3559b98f7b4",
        "models/secret.gguf",
        "secret.GGUF",
        "\\\\server\\share",
        "file:///tmp/x",
        "a" * 10_000,
    ],
)
def test_paths_are_recognised(name: str) -> None:
    """Absolute, relative, of any system, and files of models."""
    assert is_path(name)


@pytest.mark.parametrize(
    "name",
    ["", "llama3.2:1b", "me/tiny", "hf.co/Some/Model:Q4", "localhost/a/b", "host:5000/a/b:c"],
)
def test_names_are_not_paths(name: str) -> None:
    """The name of a parent model tells nothing about the host."""
    assert not is_path(name)


def test_shown_names_are_one_short_line() -> None:
    """A message cannot be broken up or flooded by a name."""
    assert shown("a\nb\x1b[31mc") == "'a?b?[31mc'"
    assert len(shown("x" * 100_000)) < 100


@given(st.text(), st.text())
def test_likeness_is_symmetric_and_between_0_and_1(name: str, other: str) -> None:
    """For any two texts."""
    assert 0.0 <= likeness(name, other) <= 1.0
    assert likeness(name, other) == likeness(other, name)


def test_likeness_of_a_typing_error() -> None:
    """A name with one letter missing is closer to the right one than to another."""
    assert likeness("lama3.2", "llama3.2:latest") > likeness("lama3.2", "qwen2.5-coder:7b")
    assert likeness("TINY", "tiny:latest") == 1.0


# Globs.


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
    """Case and the default tag make no difference."""
    assert matches_any((glob,), model)


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
    """A glob matches the complete name, and only * and ? are special."""
    assert not matches_any((glob,), model)


def test_a_bracket_is_literal() -> None:
    assert matches_any(("[a]*",), "[a]b")


def test_a_model_needs_to_match_one_of_several_globs() -> None:
    globs = ("llama*", "qwen2.5-coder:7b")

    assert [
        matches_any(globs, name)
        for name in ("llama3.2:1b", "qwen2.5-coder:7b", "qwen2.5-coder:32b")
    ] == [True, True, False]


def test_an_empty_list_of_globs_matches_nothing() -> None:
    """The default of `cloud`."""
    assert not matches_any((), "llama3.2:1b")
    assert not matches_any((), "")


@given(st.text())
def test_the_star_matches_every_model(model: str) -> None:
    assert matches_any(("*",), model)


@given(st.text())
def test_every_name_matches_itself(model: str) -> None:
    assert matches_any((model,), model)


def test_a_hostile_name_does_not_make_the_pattern_backtrack() -> None:
    """With backtracking this would exceed the test's time limit."""
    assert not matches_any(("*a" * 50 + "!",), "a" * 5000)
