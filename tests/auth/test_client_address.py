import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.client_address import MAX_HOPS, UNKNOWN, TrustedProxy, client_address
from tests.auth.fakes import headers

FORWARDED = "X-Forwarded-For"
CLOUDFLARE = "CF-Connecting-IP"
LOCAL = TrustedProxy(ipaddress.ip_network("127.0.0.0/8"), FORWARDED)
OURS = TrustedProxy(ipaddress.ip_network("10.0.0.0/8"), FORWARDED)
TUNNEL = TrustedProxy(ipaddress.ip_network("::1/128"), CLOUDFLARE)
TRUSTED = (LOCAL, OURS, TUNNEL)


def client(peer: str | None, *forwarded: str, header: str = FORWARDED) -> str:
    return client_address(peer, headers(*((header, value) for value in forwarded)), TRUSTED)


def test_a_caller_who_is_no_proxy_is_himself() -> None:
    """Whatever he claims."""
    assert client("198.51.100.7", "203.0.113.9") == "198.51.100.7"


def test_without_trusted_proxies_nothing_is_read() -> None:
    """A connection from loopback proves nothing, and neither does what it says."""
    found = client_address("127.0.0.1", headers((FORWARDED, "203.0.113.9")), ())

    assert found == "127.0.0.1"


def test_a_trusted_proxy_tells_its_client() -> None:
    """In the header that it is known to set."""
    assert client("127.0.0.1", "203.0.113.9") == "203.0.113.9"
    assert client("::1", "2001:DB8::0:1", header=CLOUDFLARE) == "2001:db8::1"


def test_a_header_that_belongs_to_another_proxy_is_not_read() -> None:
    """cloudflared passes on an X-Forwarded-For as the caller wrote it."""
    assert client("::1", "203.0.113.9") == "::1"
    assert client("127.0.0.1", "203.0.113.9", header=CLOUDFLARE) == "127.0.0.1"


def test_of_several_the_rightmost_that_is_not_ours_counts() -> None:
    """What stands left of it is what the caller wrote."""
    assert client("127.0.0.1", "1.1.1.1, 203.0.113.9, 10.0.0.2") == "203.0.113.9"
    assert client("127.0.0.1", "1.1.1.1", "203.0.113.9,10.0.0.2") == "203.0.113.9"
    assert client("127.0.0.1", "not an address, 203.0.113.9") == "203.0.113.9"


def test_if_all_are_ours_the_leftmost_counts() -> None:
    """The call began on a machine of our own."""
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
def test_garbage_is_the_peer(value: str) -> None:
    """A proxy that writes no address where it should is all that we know."""
    assert client("127.0.0.1", value) == "127.0.0.1"


def test_a_missing_header_is_the_peer() -> None:
    """The proxy's own health check, for one."""
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
def test_an_address_has_one_form(written: str, expected: str) -> None:
    """Ports and zones are left out, so one client is counted as one, and a zone can be any text."""
    assert client("127.0.0.1", written) == expected


def test_the_peer_has_one_form_too() -> None:
    """A socket that speaks both families shows IPv4 callers as IPv6."""
    assert client("::ffff:198.51.100.7") == "198.51.100.7"
    assert client("::ffff:127.0.0.1", "203.0.113.9") == "203.0.113.9"
    assert client("fe80::1%eth0") == "fe80::1"


@pytest.mark.parametrize("peer", [None, "", "/run/gateway.sock"])
def test_a_connection_without_an_address(peer: str | None) -> None:
    """A unix socket, or one that is closed already."""
    assert client(peer, "203.0.113.9") == UNKNOWN


def test_a_long_list_is_not_walked_to_its_end() -> None:
    """The caller decides how long it is, so we decide how much of it is read."""
    many = ", ".join(["203.0.113.9"] + ["10.0.0.2"] * MAX_HOPS)

    assert client("127.0.0.1", many) == "10.0.0.2"


@given(st.text() | st.from_regex(r"[0-9a-f:.,%\[\] ]{0,40}"), st.sampled_from(["127.0.0.1", "::1"]))
def test_the_answer_is_always_an_address(value: str, peer: str) -> None:
    """Never text of the caller's, whatever he sends."""
    for header in (FORWARDED, CLOUDFLARE):
        found = client(peer, value, header=header)

        assert found == str(ipaddress.ip_address(found))
        assert "%" not in found
