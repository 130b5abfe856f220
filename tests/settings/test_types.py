import ipaddress
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.settings import Settings, ollama_address, ollama_host
from gateway.settings.types import (
    MAX_BYTES,
    MAX_SECONDS,
    Address,
    integer_between,
    or_auto,
    parse_bytes,
    parse_header_name,
    parse_host_name,
    parse_list,
    parse_model_pattern,
    parse_network,
    parse_ollama_url,
    parse_path,
    parse_seconds,
)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (15, 15.0),
        (0.5, 0.5),
        ("90", 90.0),
        ("90s", 90.0),
        ("5m", 300.0),
        ("2h", 7_200.0),
        ("1.5 m", 90.0),
        ("250ms", 0.25),
        (86_400, MAX_SECONDS),
    ],
)
def test_a_duration_is_a_number_or_text_with_a_unit(written: object, expected: float) -> None:
    assert expected == parse_seconds(written)


@pytest.mark.parametrize(
    "written",
    [0, -1, 86_401, "25h", True, math.inf, math.nan, 10**400, "soon", "", "5 min", "-5s", [5], "٣"],
)
def test_a_wrong_duration_is_refused_with_what_is_allowed(written: object) -> None:
    """Only a positive number of seconds, up to a day."""
    with pytest.raises(ValueError, match=r'^must be seconds above 0 and at most 86400, .*"5m"'):
        parse_seconds(written)


def test_auto_is_none() -> None:
    """The message about other values mentions it."""
    parse = or_auto(parse_seconds)

    assert (parse("auto"), parse("Auto"), parse("1m")) == (None, None, 60.0)
    with pytest.raises(ValueError, match=r'or "auto"$'):
        parse("none")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (1, 1),
        (1_048_576, 1 << 20),
        ("1048576", 1 << 20),
        ("32MiB", 32 << 20),
        ("32 MB", 32_000_000),
        ("32mb", 32_000_000),
        ("1.5GiB", 3 << 29),
        ("10 kB", 10_000),
        ("7B", 7),
        ("1TiB", MAX_BYTES),
    ],
)
def test_a_size_is_a_number_or_text_with_a_unit(written: object, expected: int) -> None:
    """MiB is 1024 times 1024 bytes, MB is a million."""
    assert expected == parse_bytes(written)


@pytest.mark.parametrize(
    "written", [0, -5, True, 1.5, "0.3B", "32M", "2TiB", "", "MiB", "1 PB", None, math.inf]
)
def test_a_wrong_size_is_refused_with_what_is_allowed(written: object) -> None:
    """`32M` is ambiguous: a million or 1048576."""
    with pytest.raises(ValueError, match=r'^must be a size from 1 byte to 1 TiB, .*"32MiB"'):
        parse_bytes(written)


@given(st.integers(1, 1 << 20), st.sampled_from([("KiB", 10), ("MiB", 20)]))
def test_sizes_with_binary_units_are_exact(number: int, unit: tuple[str, int]) -> None:
    name, bits = unit

    assert number << bits == parse_bytes(f"{number}{name}")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("127.0.0.1:11435", Address("127.0.0.1", 11_435)),
        ("0.0.0.0:0", Address("0.0.0.0", 0)),
        ("[::1]:11435", Address("::1", 11_435)),
        ("[0:0:0:0:0:0:0:1]:1", Address("::1", 1)),
        ("gateway.internal:65535", Address("gateway.internal", 65_535)),
    ],
)
def test_an_address_is_a_host_and_a_port(written: str, expected: Address) -> None:
    """An IPv6 host has brackets in the text only."""
    assert expected == Address.parse(written)


@pytest.mark.parametrize(
    "written",
    ["localhost", ":11435", "::1:11435", "a:65536", "a:-1", "a:", "a:1 ", "[a]:1", "a b:1", 11_435],
)
def test_a_wrong_address_is_refused_with_examples(written: object) -> None:
    with pytest.raises(ValueError, match=r'^must be host:port .*"\[::1\]:11435"'):
        Address.parse(written)


@given(
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str),
    st.integers(0, 65_535),
)
def test_the_text_of_an_address_parses_to_the_same_address(host: str, port: int) -> None:
    address = Address(host, port)

    assert address == Address.parse(str(address))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("http://127.0.0.1:11434", "http://127.0.0.1:11434"),
        ("http://127.0.0.1:11434/", "http://127.0.0.1:11434"),
        ("https://ollama.example", "https://ollama.example"),
        ("HTTP://Host.Docker.Internal:11434", "http://host.docker.internal:11434"),
        ("http://[::1]:11434", "http://[::1]:11434"),
    ],
)
def test_the_url_of_ollama_is_an_origin(written: str, expected: str) -> None:
    """One slash at the end is accepted."""
    assert expected == parse_ollama_url(written)


@pytest.mark.parametrize(
    "written",
    [
        "localhost:11434",
        "127.0.0.1:11434",
        "ftp://host",
        "http://",
        "http://user:password@host",
        "http://@host",
        "http://host/v1",
        "http://host//",
        "http://host?a=1",
        "http://host?",
        "http://host#",
        "http://host:99999",
        "http://host:0",
        "http://host:eleven",
        "http://[::1",
        "http://[fe80::1%\u00e9]:11434",
        "http://[fe80::1%a\x00]:11434",
        "http://ho st",
        "http://a..b:11434",
        f"http://{'a' * 64}.local",
        "http://" + "a." * 127 + "a",
        "http://host\n",
        "http://host\\path",
        11_434,
    ],
)
def test_other_urls_are_refused(written: object) -> None:
    """Credentials would be logged, and the gateway adds paths itself."""
    with pytest.raises(ValueError, match=r"^must be http:// or https:// with a host"):
        parse_ollama_url(written)


def test_a_host_name_is_kept_in_lower_case() -> None:
    assert parse_host_name(" Gateway.Local ") == "gateway.local"


@pytest.mark.parametrize("written", ["", "a b", "http://a", "a:80", "a/b", 5])
def test_a_host_name_has_no_scheme_port_or_path(written: object) -> None:
    with pytest.raises(ValueError, match=r"^must be a host name"):
        parse_host_name(written)


def test_a_network_is_an_address_or_a_range() -> None:
    assert ipaddress.ip_network("127.0.0.1/32") == parse_network("127.0.0.1")
    assert ipaddress.ip_network("fd00::/8") == parse_network("fd00::/8")


@pytest.mark.parametrize("written", ["10.0.0.1/8", "cloudflare", "", 10, None])
def test_other_networks_are_refused(written: object) -> None:
    """Also a range that starts in the middle of a network: probably a slip."""
    with pytest.raises(ValueError, match=r"^must be an IP address or a network"):
        parse_network(written)


@pytest.mark.parametrize("written", ["a b", "", "a:", "ä", 5])
def test_header_names_are_tokens(written: object) -> None:
    with pytest.raises(ValueError, match=r"^must be the name of a header"):
        parse_header_name(written)


@pytest.mark.parametrize("written", ["", " ", "a b", "qwen[12]", 5])
def test_model_patterns_have_no_blanks_and_no_brackets(written: object) -> None:
    """* and ? are the only wildcards."""
    with pytest.raises(ValueError, match=r"^must be the name of a model, in which \* and \?"):
        parse_model_pattern(written)


def test_a_list_may_be_json() -> None:
    """Environment variables hold lists like that."""
    assert parse_list('["a", "b"]') == ["a", "b"]
    with pytest.raises(ValueError, match=r"^must be a list in brackets; .* in JSON"):
        parse_list("a, b")


def test_a_path_has_no_control_characters() -> None:
    """Opening a path with a NUL raises ValueError."""
    with pytest.raises(ValueError, match=r"^must be the path of a file"):
        parse_path("keys\0.toml")


@pytest.mark.parametrize("written", [0, 6, True, 2.0, "two", "-1", "", None, "9" * 5_000])
def test_a_wrong_whole_number_is_refused_with_the_range(written: object) -> None:
    with pytest.raises(ValueError, match=r"^must be a whole number from 1 to 5$"):
        integer_between(1, 5)(written)


def test_a_whole_number_may_be_text() -> None:
    assert integer_between(1, 5)(" 3 ") == 3


# OLLAMA_HOST.


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
def test_ollama_host_is_parsed_as_ollama_parses_it(text: str, expected: str) -> None:
    """An Ollama that listens on all interfaces is reached at 127.0.0.1."""
    assert ollama_address(text) == expected
    assert ollama_host({"OLLAMA_HOST": text}) == expected


@pytest.mark.parametrize(
    "text",
    ["a b", "http://me:secret@host", "me:secret@host:1", "ftp://host", "host:70000", "1:2:3"],
)
def test_an_invalid_ollama_host_is_ignored(text: str) -> None:
    """The variable belongs to Ollama, so it is not an error."""
    with pytest.raises(ValueError, match="must be http:// or https://"):
        ollama_address(text)
    assert ollama_host({"OLLAMA_HOST": text}) is None


@pytest.mark.parametrize("environ", [{}, {"OLLAMA_HOST": ""}, {"OLLAMA_HOST": " "}])
def test_an_empty_ollama_host_is_ignored(environ: dict[str, str]) -> None:
    assert ollama_host(environ) is None


def test_the_default_of_ollama_is_ours() -> None:
    assert ollama_host({"OLLAMA_HOST": "127.0.0.1:11434"}) == Settings().ollama.url
