import ipaddress
import math
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BeforeValidator

from gateway.settings.values import (
    MAX_BYTES,
    MAX_SECONDS,
    Address,
    one_of,
    parse_bytes,
    parse_header_name,
    parse_host_name,
    parse_list,
    parse_network,
    parse_ollama_url,
    parse_path,
    parse_pattern,
    parse_seconds,
    parse_seconds_or_auto,
    whole_number,
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
def test_durations_are_numbers_or_text_with_a_unit(written: object, expected: float) -> None:
    """A duration is seconds, however it is written."""
    assert expected == parse_seconds(written)


@pytest.mark.parametrize(
    "written",
    [0, -1, 86_401, "25h", True, math.inf, math.nan, 10**400, "soon", "", "5 min", "-5s", [5], "٣"],
)
def test_a_duration_is_refused_with_all_that_is_allowed(written: object) -> None:
    """Nothing but a positive number of seconds up to a day is a duration."""
    with pytest.raises(ValueError, match=r'^must be seconds above 0 and at most 86400, .*"5m"'):
        parse_seconds(written)


def test_auto_stands_beside_durations() -> None:
    """Some clocks go by the model unless they are set, and their complaint says so."""
    assert (
        parse_seconds_or_auto("auto"),
        parse_seconds_or_auto("Auto"),
        parse_seconds_or_auto("1m"),
    ) == ("auto", "auto", 60.0)
    with pytest.raises(ValueError, match=r'or "auto"$'):
        parse_seconds_or_auto("none")


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
def test_sizes_are_numbers_or_text_with_a_unit(written: object, expected: int) -> None:
    """MiB is 1024 times 1024 bytes, MB is a million."""
    assert expected == parse_bytes(written)


@pytest.mark.parametrize(
    "written", [0, -5, True, 1.5, "0.3B", "32M", "2TiB", "", "MiB", "1 PB", None, math.inf]
)
def test_a_size_is_refused_with_all_that_is_allowed(written: object) -> None:
    """`32M` is a million to some and 1048576 to others: it is refused."""
    with pytest.raises(ValueError, match=r'^must be a size from 1 byte to 1 TiB, .*"32MiB"'):
        parse_bytes(written)


@given(st.integers(1, 1 << 20), st.sampled_from([("KiB", 10), ("MiB", 20)]))
def test_sizes_with_binary_units_are_exact(number: int, unit: tuple[str, int]) -> None:
    """No rounding between the text and the number of bytes."""
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
    """IPv6 hosts stand in brackets in the text and without them in the value."""
    assert expected == Address.parse(written)


@pytest.mark.parametrize(
    "written",
    ["localhost", ":11435", "::1:11435", "a:65536", "a:-1", "a:", "a:1 ", "[a]:1", "a b:1", 11_435],
)
def test_an_address_is_refused_with_examples(written: object) -> None:
    """A host must be named, and a port is 0 to 65535."""
    with pytest.raises(ValueError, match=r'^must be host:port .*"\[::1\]:11435"'):
        Address.parse(written)


@given(
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str),
    st.integers(0, 65_535),
)
def test_an_address_reads_as_it_is_written(host: str, port: int) -> None:
    """Its text is an address again, the same one."""
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
def test_the_address_of_ollama_is_an_origin(written: str, expected: str) -> None:
    """Scheme, host, perhaps a port; one slash at the end is forgiven."""
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
def test_the_address_of_ollama_has_no_more_than_that(written: object) -> None:
    """Credentials would end in logs, and paths are the gateway's own."""
    with pytest.raises(ValueError, match=r"^must be http:// or https:// with a host"):
        parse_ollama_url(written)


def test_a_host_name_is_kept_in_lower_case() -> None:
    """Names of hosts are compared without regard to case."""
    assert parse_host_name(" Gateway.Local ") == "gateway.local"


@pytest.mark.parametrize("written", ["", "a b", "http://a", "a:80", "a/b", 5])
def test_a_host_name_is_nothing_but_a_name(written: object) -> None:
    """Scheme, port and path have no place in it."""
    with pytest.raises(ValueError, match=r"^must be a host name"):
        parse_host_name(written)


def test_networks_are_addresses_or_ranges() -> None:
    """One address is a network of one."""
    assert ipaddress.ip_network("127.0.0.1/32") == parse_network("127.0.0.1")
    assert ipaddress.ip_network("fd00::/8") == parse_network("fd00::/8")


@pytest.mark.parametrize("written", ["10.0.0.1/8", "cloudflare", "", 10, None])
def test_other_networks_are_refused(written: object) -> None:
    """Also one whose address is not the network's: it is likely to be a slip."""
    with pytest.raises(ValueError, match=r"^must be an IP address or a network"):
        parse_network(written)


@pytest.mark.parametrize("written", ["a b", "", "a:", "ä", 5])
def test_header_names_are_tokens(written: object) -> None:
    """What cannot be a header's name cannot be trusted as one."""
    with pytest.raises(ValueError, match=r"^must be the name of a header"):
        parse_header_name(written)


@pytest.mark.parametrize("written", ["", " ", "a b", "qwen[12]", 5])
def test_patterns_have_no_blanks_and_no_brackets(written: object) -> None:
    """Only * and ? are wildcards, and no model has those other characters."""
    with pytest.raises(ValueError, match=r"^must be the name of a model, in which \* and \?"):
        parse_pattern(written)


def test_a_list_may_come_as_json() -> None:
    """That is how a list gets into an environment variable."""
    assert parse_list('["a", "b"]') == ["a", "b"]
    with pytest.raises(ValueError, match=r"^must be a list in brackets; .* in JSON"):
        parse_list("a, b")


def test_a_path_has_no_control_characters() -> None:
    """A NUL in it would be a crash where the file is opened."""
    with pytest.raises(ValueError, match=r"^must be the path of a file"):
        parse_path("keys\0.toml")


def _parse(kind: BeforeValidator, written: object) -> object:
    function = cast("Callable[[object], object]", kind.func)
    return function(written)


@pytest.mark.parametrize("written", [0, 6, True, 2.0, "two", "-1", "", None, "9" * 5_000])
def test_a_whole_number_is_refused_with_its_range(written: object) -> None:
    """Neither a boolean nor a float is a count."""
    with pytest.raises(ValueError, match=r"^must be a whole number from 1 to 5$"):
        _parse(whole_number(1, 5), written)


def test_a_whole_number_may_be_text() -> None:
    """The environment has nothing else."""
    assert _parse(whole_number(1, 5), " 3 ") == 3


def test_a_word_is_refused_with_the_words_that_there_are() -> None:
    """Case does not matter; the list reads like a sentence."""
    words = one_of("debug", "info", "warning")

    assert _parse(words, "INFO") == "info"
    with pytest.raises(ValueError, match=r'^must be "debug", "info" or "warning"$'):
        _parse(words, "loud")
