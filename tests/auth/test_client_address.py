import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.client_address import MAX_HOPS, UNKNOWN, client_address
from gateway.settings import TrustedProxy
from tests.auth.fakes import headers

FORWARDED = "X-Forwarded-For"
CLOUDFLARE = "CF-Connecting-IP"
LOCAL = TrustedProxy(address=ipaddress.ip_network("127.0.0.0/8"), header=FORWARDED)
OURS = TrustedProxy(address=ipaddress.ip_network("10.0.0.0/8"), header=FORWARDED)
TUNNEL = TrustedProxy(address=ipaddress.ip_network("::1/128"), header=CLOUDFLARE)
TRUSTED = (LOCAL, OURS, TUNNEL)


def client(peer: str | None, *forwarded: str, header: str = FORWARDED) -> str:
    return client_address(peer, headers(*((header, value) for value in forwarded)), TRUSTED)


def test_a_header_of_an_untrusted_peer_is_ignored() -> None:
    assert client("198.51.100.7", "203.0.113.9") == "198.51.100.7"


def test_without_trusted_proxies_headers_are_ignored() -> None:
    """A connection from loopback proves nothing: tunnels connect from there."""
    found = client_address("127.0.0.1", headers((FORWARDED, "203.0.113.9")), ())

    assert found == "127.0.0.1"


def test_a_trusted_proxy_names_its_client() -> None:
    assert client("127.0.0.1", "203.0.113.9") == "203.0.113.9"
    assert client("::1", "2001:DB8::0:1", header=CLOUDFLARE) == "2001:db8::1"


def test_the_header_of_another_proxy_is_ignored() -> None:
    """cloudflared passes on an X-Forwarded-For as the client wrote it."""
    assert client("::1", "203.0.113.9") == "::1"
    assert client("127.0.0.1", "203.0.113.9", header=CLOUDFLARE) == "127.0.0.1"


def test_the_rightmost_untrusted_entry_is_the_client() -> None:
    """Everything left of it was written by the client."""
    assert client("127.0.0.1", "1.1.1.1, 203.0.113.9, 10.0.0.2") == "203.0.113.9"
    assert client("127.0.0.1", "1.1.1.1", "203.0.113.9,10.0.0.2") == "203.0.113.9"
    assert client("127.0.0.1", "not an address, 203.0.113.9") == "203.0.113.9"


def test_the_leftmost_entry_counts_if_all_are_trusted() -> None:
    assert client("127.0.0.1", "10.0.0.5, 10.0.0.2") == "10.0.0.5"


@pytest.mark.parametrize(
    "value",
    [
        "",
        ",",
        "unknown",
        "203.0.113.9, junk",
        "203.0.113.9,",
        "junk, 10.0.0.2",
        "203.0.113.999",
        "203.0.113.9 203.0.113.8",
        "x" * 100_000,
        "<script>",
    ],
)
def test_a_header_without_an_address_is_ignored(value: str) -> None:
    assert client("127.0.0.1", value) == "127.0.0.1"


def test_a_missing_header_gives_the_peer() -> None:
    """For example the proxy's own health check."""
    assert client("127.0.0.1") == "127.0.0.1"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("203.0.113.9:4711", "203.0.113.9"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:0DB8:0:0::1", "2001:db8::1"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("fe80::1%eth0", "fe80::1"),
        ("fe80::1%<script>", "fe80::1"),
    ],
)
def test_addresses_are_canonical(written: str, expected: str) -> None:
    """Without port and zone, so that a client is counted as one; a zone can be any text."""
    assert client("127.0.0.1", written) == expected


def test_the_peer_is_canonical() -> None:
    """A dual-stack socket shows IPv4 clients as IPv6."""
    assert client("::ffff:198.51.100.7") == "198.51.100.7"
    assert client("::ffff:127.0.0.1", "203.0.113.9") == "203.0.113.9"
    assert client("fe80::1%eth0") == "fe80::1"


@pytest.mark.parametrize("peer", [None, "", "/run/gateway.sock"])
def test_a_connection_without_an_address_is_unknown(peer: str | None) -> None:
    """A unix socket, or a closed connection."""
    assert client(peer, "203.0.113.9") == UNKNOWN


def test_only_the_last_hops_of_a_long_list_are_read() -> None:
    many = ", ".join(["203.0.113.9"] + ["10.0.0.2"] * MAX_HOPS)

    assert client("127.0.0.1", many) == "10.0.0.2"


@given(st.text() | st.from_regex(r"[0-9a-f:.,%\[\] ]{0,40}"), st.sampled_from(["127.0.0.1", "::1"]))
def test_the_result_is_always_an_address(value: str, peer: str) -> None:
    """Never text of the client."""
    for header in (FORWARDED, CLOUDFLARE):
        found = client(peer, value, header=header)

        assert found == str(ipaddress.ip_address(found))
        assert "%" not in found
