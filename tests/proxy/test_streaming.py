"""Whether a call streams: known before Ollama says a word, for its caller may have to be told."""

import json
from typing import Any

import pytest

from gateway.auth.principal import Principal, Scope
from gateway.dialects import ANTHROPIC, OLLAMA, OPENAI, RESPONSES, Dialect
from gateway.errors import InvalidRequestBody
from gateway.proxy.inference import Target
from gateway.proxy.request import understand
from gateway.public.routes import ROUTES

NEVER = {"/v1/embeddings", "/api/embed", "/api/embeddings"}
SOMEBODY = Principal(key="k", scopes=frozenset({Scope.INFERENCE}))

INFERENCE = [route for route in ROUTES if route.scope is Scope.INFERENCE]
every_route = pytest.mark.parametrize("route", INFERENCE, ids=lambda route: route.template)


def streams(target: Target, **fields: Any) -> bool:
    body = json.dumps({"model": "m", "prompt": "p", "input": "i", "messages": [{}], **fields})
    return understand(body.encode(), target, SOMEBODY).streaming


@every_route
@pytest.mark.parametrize("asked", [True, False, None, "nothing"])
def test_each_route_streams_as_ollama_does(route: Any, asked: Any) -> None:
    """Ollama's own API unless told not to, the others only when told to, embeddings never."""
    fields = {} if asked == "nothing" else {"stream": asked}
    target = Target(route.template, route.dialect, can_stream=route.can_stream)
    usual = route.template.startswith("/api/") and asked is not False
    expected = (usual or asked is True) and route.template not in NEVER

    assert streams(target, **fields) is expected


@pytest.mark.parametrize("dialect", [OPENAI, RESPONSES, ANTHROPIC, OLLAMA], ids=lambda d: d.name)
def test_a_route_that_cannot_stream_does_not(dialect: Dialect) -> None:
    """Whatever is asked for, and whatever the dialect does elsewhere."""
    path = "/api/chat" if dialect is OLLAMA else "/v1/chat/completions"

    assert streams(Target(path, dialect), stream=True)
    assert not streams(Target(path, dialect, can_stream=False), stream=True)


@every_route
def test_what_is_no_boolean_is_refused_everywhere(route: Any) -> None:
    """One rule for all, also where nothing can stream."""
    target = Target(route.template, route.dialect, can_stream=route.can_stream)
    with pytest.raises(InvalidRequestBody):
        streams(target, stream="yes")
