"""From a body to what it asks for, and what identifies the attempts of one request."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.keys import Principal, Scope
from gateway.dialects import ANTHROPIC, OLLAMA, OPENAI, RESPONSES, Dialect
from gateway.errors import InvalidRequestBody
from gateway.proxy.request import Fingerprint, parse_request
from gateway.public.routes import ROUTES

NEVER_STREAMING = {"/v1/embeddings", "/api/embed", "/api/embeddings"}
PRINCIPAL = Principal(key="k", scopes=frozenset({Scope.INFERENCE}))

INFERENCE = [route for route in ROUTES if route.scope is Scope.INFERENCE]
every_route = pytest.mark.parametrize("route", INFERENCE, ids=lambda route: route.template)


def streams(path: str, dialect: Dialect, *, can_stream: bool = True, **fields: Any) -> bool:
    body = json.dumps({"model": "m", "prompt": "p", "input": "i", "messages": [{}], **fields})
    return parse_request(
        body.encode(), path=path, dialect=dialect, principal=PRINCIPAL, can_stream=can_stream
    ).streaming


@every_route
@pytest.mark.parametrize("stream", [True, False, None, "absent"])
def test_each_route_streams_as_ollama_does(route: Any, stream: Any) -> None:
    """Ollama's own API unless told not to, the others only when told to, embeddings never."""
    fields = {} if stream == "absent" else {"stream": stream}
    by_default = route.template.startswith("/api/") and stream is not False
    expected = (by_default or stream is True) and route.template not in NEVER_STREAMING

    assert streams(route.template, route.dialect, can_stream=route.can_stream, **fields) is expected


@pytest.mark.parametrize("dialect", [OPENAI, RESPONSES, ANTHROPIC, OLLAMA], ids=lambda d: d.name)
def test_a_route_that_cannot_stream_does_not(dialect: Dialect) -> None:
    """Whatever the body says, and whatever the dialect does elsewhere."""
    path = "/api/chat" if dialect is OLLAMA else "/v1/chat/completions"

    assert streams(path, dialect, stream=True)
    assert not streams(path, dialect, can_stream=False, stream=True)


@every_route
def test_stream_must_be_a_boolean_on_every_route(route: Any) -> None:
    """One rule for all, also where nothing can stream."""
    with pytest.raises(InvalidRequestBody):
        streams(route.template, route.dialect, can_stream=route.can_stream, stream="yes")


PARTS = st.sampled_from(["", "a", "b"])
BODIES = st.sampled_from([b"{}", b'{"a":1}', b"x" * 5000, b"x" * 4999 + b"y", b"y" + b"x" * 4999])
IDENTITIES = st.tuples(PARTS, PARTS, BODIES)


@given(IDENTITIES, IDENTITIES)
def test_fingerprints_are_equal_exactly_if_key_path_and_body_are(
    one: tuple[str, str, bytes], other: tuple[str, str, bytes]
) -> None:
    """So are their digests, and equal ones have the same hash."""
    first, second = Fingerprint(*one), Fingerprint(*other)

    assert (first == second) is (one == other)
    assert (first.digest() == second.digest()) is (one == other)
    assert hash(first) == hash(second) or one != other


def test_a_fingerprint_equals_nothing_else() -> None:
    """Not even what it was made from."""
    assert Fingerprint("k", "/p", b"{}") != b"{}"
