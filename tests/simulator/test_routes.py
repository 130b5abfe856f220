"""Paths lead where Ollama's routers lead them; hosts and origins are judged as it judges them."""

import pytest

from gateway.simulator.guard import Origin, classify_origin, host_is_local
from gateway.simulator.routes import Destination, Found, Moved, Unknown, WrongMethod, find


@pytest.mark.parametrize(
    ("method", "target", "destination"),
    [
        ("GET", "/api/version?x=1", Found("/api/version")),
        ("GET", "/api%2fversion", Found("/api/version")),
        ("GET", "http://127.0.0.1:11434/api/version", Found("/api/version")),
        ("GET", "/v1/models/org/name:tag", Found("/v1/models/{model}", "org/name:tag")),
        ("GET", "/v1/models/org%2Fname", Found("/v1/models/{model}", "org/name")),
        ("GET", "//api/version", Moved(307, "/api/version", with_page=True)),
        ("POST", "/v1/../api/show", Moved(307, "/api/show", with_page=False)),
        ("GET", "/api/version/", Moved(301, "/api/version", with_page=True)),
        ("POST", "/api/show/", Moved(307, "/api/show", with_page=False)),
        ("POST", "/api/tags", WrongMethod("HEAD, GET")),
        ("GET", "/v1/chat/completions", WrongMethod("POST")),
        ("GET", "/API/version", Unknown()),
        ("DELETE", "/api/delete", Unknown()),
    ],
)
def test_requests_are_routed(method: str, target: str, destination: Destination) -> None:
    """Encoded, doubled, dotted and trailing slashes are distinguished."""
    assert find(method, target) == destination


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1:11434", True),
        ("localhost", True),
        ("LOCALHOST:80", True),
        ("[::1]:11434", True),
        ("10.0.0.7", True),
        ("192.168.1.2:11434", True),
        ("0.0.0.0", True),
        ("host.docker.internal:11434", True),
        ("foo.local", True),
        ("a.b.internal:1", True),
        ("x.localhost", True),
        ("gateway.example.com", False),
        ("8.8.8.8", False),
        ("localhost.evil.example", False),
    ],
)
def test_local_hosts_are_accepted(host: str, local: bool) -> None:
    """Loopback, private addresses and local names; no others."""
    assert host_is_local(host) is local


@pytest.mark.parametrize(
    ("origin", "verdict"),
    [
        (None, "none"),
        ("http://localhost", "none"),
        ("http://localhost:3000", "allowed"),
        ("https://127.0.0.1:8443", "allowed"),
        ("app://-", "allowed"),
        ("https://evil.example", "foreign"),
        ("null", "foreign"),
        ("http://[", "foreign"),
    ],
)
def test_origins_are_classified(origin: str | None, verdict: Origin) -> None:
    """Local pages and apps are allowed, other pages are not."""
    assert classify_origin(origin, "localhost") == verdict
