import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.models.names import (
    is_cloud_name,
    is_path,
    likeness,
    name_key,
    namespace_of,
    rule_for,
    shown,
)
from gateway.settings import ModelRule

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
def test_what_is_no_name(name: str) -> None:
    """Ollama has no model of such a name, so there is no need to ask."""
    assert name_key(name) is None


@given(PART, PART, PART, PART)
def test_a_key_is_its_own_key(host: str, namespace: str, model: str, tag: str) -> None:
    """Spelling a key again changes nothing: names can be compared by it."""
    key = name_key(f"{host}.org/{namespace}/{model}:{tag}")

    assert key is not None
    assert key == name_key(key) == name_key(key.upper())


@given(st.text())
def test_any_text_has_a_key_or_none(text: str) -> None:
    """Whatever a caller sends is a name in lower case with a tag, or none."""
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
def test_cloud_names(name: str) -> None:
    """Every spelling that Ollama would run on ollama.com is seen, white space and case included."""
    assert is_cloud_name(name)


@pytest.mark.parametrize("name", ["", "cloud", "cloud:latest", "my-cloud-model", "soundcloud:8b"])
def test_names_that_only_mention_the_cloud(name: str) -> None:
    """A local model may have the word in its name."""
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
def test_namespace(name: str, namespace: str) -> None:
    """Who owns a model is its namespace as written, or library."""
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
def test_paths(name: str) -> None:
    """A place on the host's disk is known as one."""
    assert is_path(name)


@pytest.mark.parametrize(
    "name",
    ["", "llama3.2:1b", "me/tiny", "hf.co/Some/Model:Q4", "localhost/a/b", "host:5000/a/b:c"],
)
def test_names_are_no_paths(name: str) -> None:
    """The name of a parent model tells nothing about the host."""
    assert not is_path(name)


def test_shown_names_stay_on_one_short_line() -> None:
    """A message cannot be broken up or flooded by a name."""
    assert shown("a\nb\x1b[31mc") == "'a?b?[31mc'"
    assert len(shown("x" * 100_000)) < 100


@given(st.text(), st.text())
def test_likeness_is_a_share(name: str, other: str) -> None:
    """Likeness lies between 0 and 1 and knows no order."""
    assert 0.0 <= likeness(name, other) <= 1.0
    assert likeness(name, other) == likeness(other, name)


def test_likeness_of_a_typing_error() -> None:
    """A name with one letter missing is closer to the right one than to another."""
    assert likeness("lama3.2", "llama3.2:latest") > likeness("lama3.2", "qwen2.5-coder:7b")
    assert likeness("TINY", "tiny:latest") == 1.0


@pytest.mark.parametrize(
    ("match", "model", "matches"),
    [
        ("llama3.2", "llama3.2:latest", True),
        ("llama3.2:latest", "llama3.2", True),
        ("llama3.2", "llama3.2:1b", False),
        ("LLAMA3.2", "llama3.2:latest", True),
        ("llama3.2", "LLaMA3.2:Latest", True),
        ("llama3.2*", "llama3.2:1b", True),
        ("*:1b", "llama3.2:1b", True),
        ("hf.co/*", "hf.co/some/model:Q4_K_M", True),
        ("host:5000/a/b", "host:5000/a/b:latest", True),
    ],
)
def test_model_rule_matches_by_glob(match: str, model: str, matches: bool) -> None:
    """In any case; a name without a tag is its latest."""
    rule = ModelRule(match=match)

    assert rule_for(model, [rule]) is (rule if matches else None)


def test_first_matching_model_rule_counts() -> None:
    """In the order in which they are written, and as it is."""
    rules = [ModelRule(match=match) for match in ("qwen*", "llama3.1:*", "*")]

    assert rule_for("llama3.1:8b", rules) is rules[1]
    assert rule_for("tiny:latest", rules) is rules[2]
    assert rule_for("tiny:latest", rules[:2]) is None
