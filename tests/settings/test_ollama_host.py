"""Where Ollama is, as its own programs are told."""

import pytest

from gateway.settings import Settings, ollama_address, ollama_host


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        (":8080", "http://127.0.0.1:8080"),
        ("[::]:8080", "http://127.0.0.1:8080"),
        ("[::1]", "http://[::1]:11434"),
        ("::1", "http://[::1]:11434"),
        ("fe80::1%eth0", "http://[fe80::1%eth0]:11434"),
        ("::", "http://127.0.0.1:11434"),
        ("gpu.local:", "http://gpu.local:11434"),
        ("gpu.local:11500", "http://gpu.local:11500"),
        (' "192.168.1.20" ', "http://192.168.1.20:11434"),
        ("http://gpu.local", "http://gpu.local"),
        ("https://gpu.local/", "https://gpu.local"),
        ("http://gpu.local:11434/", "http://gpu.local:11434"),
    ],
)
def test_an_address_is_understood_as_ollama_understands_it(text: str, expected: str) -> None:
    """What it listens on at all networks is reached on this machine."""
    assert ollama_address(text) == expected
    assert ollama_host({"OLLAMA_HOST": text}) == expected


@pytest.mark.parametrize(
    "text",
    ["a b", "http://me:secret@host", "me:secret@host:1", "ftp://host", "host:70000", "1:2:3"],
)
def test_what_makes_no_sense_is_no_address(text: str) -> None:
    """In the environment it is passed over: it is not ours."""
    with pytest.raises(ValueError, match="must be http:// or https://"):
        ollama_address(text)
    assert ollama_host({"OLLAMA_HOST": text}) is None


@pytest.mark.parametrize("environ", [{}, {"OLLAMA_HOST": ""}, {"OLLAMA_HOST": " "}])
def test_without_a_word_nothing_is_said(environ: dict[str, str]) -> None:
    """The default holds then."""
    assert ollama_host(environ) is None


def test_the_usual_address_is_the_default() -> None:
    """Whoever sets the variable to it has chosen nothing."""
    assert ollama_host({"OLLAMA_HOST": "127.0.0.1:11434"}) == Settings().ollama.url
