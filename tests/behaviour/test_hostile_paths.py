"""Paths that mean another route to other software: here each is its row of the table, or none."""

import itertools

import pytest

from gateway.simulator import Simulator
from tests.behaviour.wire import RawResponse, raw_client, request
from tests.harness import Running

FORBIDDEN = {
    "POST": (
        *("/api/pull", "/api/push", "/api/create", "/api/copy", "/api/blobs/sha256:0"),
        *("/api/me", "/api/signout", "/api/experimental/web_search", "/api/experimental/web_fetch"),
        *("/api/experimental/aliases", "/v1/messages/count_tokens", "/v1/images/generations"),
        *("/v1/audio/transcriptions", "/api/web_search", "/api/tokenize", "/debug/pprof/"),
    ),
    "DELETE": ("/api/delete", "/api/user/keys/x", "/v1/models/llama3.2:1b", "/api/tags"),
    "HEAD": ("/api/blobs/sha256:0",),
    "GET": (
        "/api/status",
        "/api/user/keys",
        "/metrics",
        "/status.json",
        "/readyz",
        "/v1/responses/x",
    ),
}
"""What Ollama serves, or may serve later, and what no client may reach; and our own."""

TARGETS = ("/api/delete", "/api/pull", "/api/tags")


def spellings(path: str) -> list[str]:
    """Everything that some router, proxy or library takes for ``path``."""
    family, name = path.split("/")[1:]
    return [
        f"/{family}%2f{name}",
        f"/{family}%2F{name}",
        f"%2f{family}/{name}",
        f"//{family}/{name}",
        f"/{family}//{name}",
        f"/./{family}/{name}",
        f"/{family}/./{name}",
        f"/v1/../{family}/{name}",
        f"/v1/%2e%2e/{family}/{name}",
        f"/v1/..%2f{family}/{name}",
        f"/v1/models/../../{family}/{name}/.",
        f"/{family}/x/../{name}",
        f"/{family}\\{name}",
        f"\\{family}\\{name}",
        f"/{family.upper()}/{name}",
        f"/{family}/{name.upper()}",
        f"/{family}/{name}/",
        f"/{family}/{name};x",
        f"/{family}/{name}%00",
        f"/{family}/{name}%20",
        f"/{family}/{name}%3f",
        f"/{family}/{name}.",
        f"/{family}/%{ord(name[0]):02x}{name[1:]}",
        f"/{family}/%25{ord(name[0]):02x}{name[1:]}",
        f"/v1/{family}/{name}",
        f"/{family}/v1/{name}",
        f"/x/{family}/{name}",
        f"http://gateway//{family}/{name}",
        f"http://127.0.0.1:11434/v1/../{family}/{name}",
        f"http://gateway?/{family}/{name}",
        f"file:///{family}/{name}",
    ]


async def tell(gateway: Running, method: str, path: str) -> RawResponse:
    async with raw_client(gateway.port) as client:
        body = {"model": "llama3.2:1b", "name": "llama3.2:1b"} if method == "POST" else None
        client.send(request(path, body, method=method, headers=gateway.bearer))
        return await client.response(method)


def received(sim: Simulator) -> list[tuple[str, str]]:
    """What reached Ollama, besides the list that the gateway requests by itself."""
    return [(r.method, r.path) for r in sim.requests if (r.method, r.path) != ("GET", "/api/tags")]


@pytest.mark.parametrize(
    ("method", "path"), [(method, path) for method in FORBIDDEN for path in FORBIDDEN[method]]
)
async def test_routes_that_administer_ollama_are_unreachable(
    gateway: Running, sim: Simulator, method: str, path: str
) -> None:
    """With any key: 404, or 405 if the path is that of another route."""
    for prefix in ("", "/v1", f"/k/{gateway.discovery}", "http://gateway"):
        response = await tell(gateway, method, prefix + path)

        assert response.status in (404, 405), prefix
    assert received(sim) == []


@pytest.mark.parametrize("path", list(itertools.chain.from_iterable(map(spellings, TARGETS))))
async def test_paths_match_byte_for_byte(gateway: Running, sim: Simulator, path: str) -> None:
    """No other spelling is served, and none is forwarded."""
    known = path.startswith("http://gateway?")  # of this the path is `/`
    for method in ("GET", "POST", "DELETE"):
        response = await tell(gateway, method, path)

        assert response.status in ((200, 405) if known else (400, 404, 405)), method
        assert response.status != 405 or known or path.startswith("/v1/models/"), method
    assert received(sim) == []


@pytest.mark.parametrize(
    "path",
    [
        "/k/LOOK/k/LOOK/api/tags",
        "/k/LOOK/k/LOOK/k/LOOK/",
        "/k//api/tags/k/LOOK/api/tags",
        "/v1/k/LOOK/api/tags",
        "//k/LOOK/api/tags",
        "/K/LOOK/api/tags",
        "/k/LOOK//api/tags",
        "/k/LOOK/api/tags/",
        "/k/LOOK%2fapi%2ftags",
        "/k/LOOK/../LOOK/api/tags",
        "/k/../api/tags",
        "/k%2fLOOK/api/tags",
    ],
)
async def test_token_counts_only_once_and_in_its_place(
    gateway: Running, sim: Simulator, path: str
) -> None:
    """No other path with a token is a route, nor a credential."""
    async with raw_client(gateway.port) as client:
        client.send(request(path.replace("LOOK", gateway.discovery)))
        response = await client.response()

    assert response.status in (401, 404)
    assert gateway.discovery not in response.body.decode()
    assert received(sim) == []


async def test_percent_encoded_token_is_accepted(gateway: Running) -> None:
    """Encoded twice it is another text."""
    once = "".join(f"%{ord(letter):02x}" for letter in gateway.discovery)
    for token, status in ((once, 200), (once.replace("%", "%25"), 401)):
        async with raw_client(gateway.port) as client:
            client.send(request(f"/k/{token}/api/version"))

            assert (await client.response()).status == status


async def test_absolute_form_counts_by_its_path(gateway: Running) -> None:
    """RFC 9112 requires servers to accept it; the host in it changes nothing."""
    for origin in ("http://gateway", "https://elsewhere:1", "HTTP://name:secret@127.0.0.1:11434"):
        response = await tell(gateway, "GET", f"{origin}/api/version?x=/api/pull")

        assert (response.status, response.json()) == (200, {"version": "0.33.0"})


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
async def test_other_methods_are_405(gateway: Running, sim: Simulator, method: str) -> None:
    """The response names what is allowed; TRACE echoes nothing."""
    for path in ("/", "/api/tags", "/v1/models/x", "/api/chat", "/v1/messages", "/healthz"):
        response = await tell(gateway, method, path)

        assert response.status == 405
        assert set(response.headers["allow"].split(", ")) <= {"GET", "HEAD", "POST"}
        assert gateway.key not in response.body.decode()
    assert received(sim) == []


async def test_model_in_the_path_is_looked_up_and_never_forwarded(
    gateway: Running, sim: Simulator
) -> None:
    """What follows `/v1/models/` is a name, whatever it looks like."""
    for name in ("../../api/delete", "..%2f..%2fapi%2fdelete", "x/../../../etc/passwd", "%00", "?"):
        response = await tell(gateway, "GET", f"/v1/models/{name}")

        assert response.status == 404
    assert (await tell(gateway, "GET", "/v1/models/LLAMA3%2e2%3A1b")).status == 200
    assert received(sim) == []
