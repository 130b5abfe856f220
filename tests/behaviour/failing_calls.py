"""The rows of the error table that are the caller's own doing, or the owner's decision."""

from typing import Any

from tests.behaviour.dialect_specs import MODEL, NATIVE, OPENAI
from tests.behaviour.failing import NO_RETRY, RETRY_SOON, Row, Scene, as_json
from tests.behaviour.wire import RawResponse, fetch, raw_client, request

_SEARCH = [{"type": "web_search_20250305", "name": "web_search"}]
_CHALLENGE = {"www-authenticate": 'Bearer realm="ollama-gateway"'}


async def no_key(scene: Scene) -> RawResponse:
    return await fetch(scene.gateway.port, scene.spec.path, scene.spec.body())


async def placeholder_key(scene: Scene) -> RawResponse:
    return await scene.fetch(key="ollama")


async def unknown_key(scene: Scene) -> RawResponse:
    return await scene.fetch(key="ogw_" + "x" * 43)


async def too_many_unknown_keys(scene: Scene) -> RawResponse:
    await unknown_key(scene)
    return await unknown_key(scene)


async def discovery_key(scene: Scene) -> RawResponse:
    return await scene.fetch(key=scene.gateway.discovery)


async def forbidden_model(scene: Scene) -> RawResponse:
    return await scene.fetch(key=scene.gateway.new_key("narrow", models=("nomic*", "llama3.3")))


async def cloud_model(scene: Scene) -> RawResponse:
    return await scene.fetch(model="gpt-oss:120b-cloud")


async def web_search(scene: Scene) -> RawResponse:
    return await scene.fetch(tools=_SEARCH)


async def load_only(scene: Scene) -> RawResponse:
    return await scene.fetch({"model": MODEL})


async def too_often(scene: Scene) -> RawResponse:
    key = scene.gateway.new_key("slow", rpm=1)
    await scene.fetch(key=key)
    return await scene.fetch(key=key)


async def too_many_of_one_key(scene: Scene) -> RawResponse:
    async with scene.occupied(), scene.waiting():
        await scene.queued(1)
        return await scene.fetch()


async def late_body(scene: Scene) -> RawResponse:
    async with raw_client(scene.gateway.port) as one:
        head = {**scene.gateway.bearer, "Content-Length": "100"}
        one.send(request(scene.spec.path, b"{", headers=head))
        return await one.response()


async def large_body(scene: Scene) -> RawResponse:
    return await scene.fetch(padding="x" * 1024)


async def large_body_in_chunks(scene: Scene) -> RawResponse:
    async with raw_client(scene.gateway.port) as one:
        head = request(scene.spec.path, method="POST", headers=scene.gateway.bearer)
        one.send(head.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
        one.send(b"401\r\n" + b"x" * 1025 + b"\r\n")
        return await one.response()


async def compressed(scene: Scene) -> RawResponse:
    return await scene.fetch(b"\x1f\x8b", headers={"Content-Encoding": "gzip"})


async def not_json(scene: Scene) -> RawResponse:
    return await scene.fetch(b"model=llama")


async def no_body(scene: Scene) -> RawResponse:
    return await scene.fetch(b"")


async def two_readings(scene: Scene) -> RawResponse:
    return await scene.fetch(as_json({**scene.spec.body(), "MODEL": "other"}))


async def no_model(scene: Scene) -> RawResponse:
    fields: dict[str, Any] = scene.spec.body()
    del fields["model"]
    return await scene.fetch(fields)


async def stream_of_words(scene: Scene) -> RawResponse:
    return await scene.fetch(stream="yes")


async def unknown_route(scene: Scene) -> RawResponse:
    path = "/api/pull" if scene.spec is NATIVE else "/v1/images"
    return await scene.fetch(path=path)


async def wrong_method(scene: Scene) -> RawResponse:
    return await scene.fetch(b"", method="GET")


async def unknown_model(scene: Scene) -> RawResponse:
    return await scene.fetch(model="llama9:1b")


async def nothing_pulled(scene: Scene) -> RawResponse:
    listing = (await scene.gateway.gateway.host.catalog.get()).listing
    for model in listing.models:
        scene.sim.remove(model.name)
    await scene.gateway.gateway.host.catalog.get(max_age=0.0)
    return await scene.fetch()


async def not_http(scene: Scene) -> RawResponse:
    async with raw_client(scene.gateway.port) as one:
        one.send(b"GET / HTTP/1.1\r\nbad header\x01\r\n\r\n")
        return await one.response()


def _unauthorised(name: str, provoke: Any, *says: str) -> Row:
    return Row(
        name=name,
        code="invalid_api_key",
        status=401,
        type="authentication_error",
        provoke=provoke,
        says=(*says, "`ollama-gateway keys rotate NAME`"),
        headers=_CHALLENGE,
    )


def _forbidden(name: str, code: str, provoke: Any, *says: str, **more: Any) -> Row:
    return Row(
        name=name,
        code=code,
        status=403,
        type="permission_error",
        provoke=provoke,
        says=says,
        **more,
    )


def _bad(name: str, provoke: Any, *says: str) -> Row:
    return Row(
        name=name,
        code="invalid_request_body",
        status=400,
        type="invalid_request_error",
        provoke=provoke,
        says=says,
    )


def _too_large(name: str, provoke: Any) -> Row:
    return Row(
        name=name,
        code="request_too_large",
        status=413,
        type="invalid_request_error",
        provoke=provoke,
        says=("1024 bytes", "`limits.body_bytes`"),
        settings={"limits": {"body_bytes": 1024}},
    )


def _too_much(name: str, code: str, provoke: Any, *says: str, **more: Any) -> Row:
    return Row(
        name=name,
        code=code,
        status=429,
        type="rate_limit_error",
        provoke=provoke,
        says=says,
        headers=RETRY_SOON,
        **more,
    )


ROWS = (
    _unauthorised("no key", no_key, "Authorization: Bearer <key>", "keys create NAME"),
    _unauthorised("placeholder", placeholder_key, "`ollama`, a placeholder", "`ogw_`"),
    _unauthorised("unknown key", unknown_key, "copied completely"),
    _too_much(
        "too many unknown keys",
        "too_many_failures",
        too_many_unknown_keys,
        "Correct the key, then retry",
        settings={"limits": {"failures_per_minute": 1}},
    ),
    _forbidden("scope", "scope_not_allowed", discovery_key, "keys create NAME --scope inference"),
    _forbidden(
        "model",
        "model_not_allowed",
        forbidden_model,
        "llama3.3:latest, nomic-embed-text:latest",
        "ask the gateway's owner",
    ),
    _forbidden(
        "cloud model", "cloud_not_allowed", cloud_model, "`--cloud`", "model that runs here"
    ),
    _forbidden("web search", "cloud_not_allowed", web_search, "`--cloud web_search`", "Leave the"),
    _forbidden("no prompt", "tuning_not_allowed", load_only, "Send `messages`", speeches=(NATIVE,)),
    _too_much("rate", "rate_limit_exceeded", too_often, "1 requests per minute", "`rpm`"),
    _too_much(
        "own queue",
        "rate_limit_exceeded",
        too_many_of_one_key,
        "Wait for responses before sending more",
        settings={"scheduler": {"max_queued_per_key": 1}},
    ),
    Row(
        name="late body",
        code="request_body_timeout",
        status=408,
        type="invalid_request_error",
        provoke=late_body,
        says=("0.1 s", "`timeouts.body_timeout`"),
        headers=NO_RETRY,
        settings={"timeouts": {"body_timeout": 0.1}},
    ),
    _too_large("large body", large_body),
    _too_large("large body in chunks", large_body_in_chunks),
    Row(
        name="compressed",
        code="unsupported_encoding",
        status=415,
        type="invalid_request_error",
        provoke=compressed,
        says=("without a Content-Encoding header",),
    ),
    _bad("not JSON", not_json, "not one JSON object"),
    _bad("no body", no_body, "Send a JSON object"),
    _bad("two readings", two_readings, "write it as `model`, once"),
    _bad("no model", no_model, "`model` is missing", "GET /v1/models"),
    _bad("stream of words", stream_of_words, "`stream` must be true or false"),
    Row(
        name="unknown route",
        code="unknown_route",
        status=404,
        type="not_found_error",
        provoke=unknown_route,
        says=("/v1/chat/completions",),
        speeches=(OPENAI, NATIVE),
    ),
    Row(
        name="wrong method",
        code="method_not_allowed",
        status=405,
        type="invalid_request_error",
        provoke=wrong_method,
        says=("is called with POST",),
        headers={"allow": "POST"},
    ),
    Row(
        name="unknown model",
        code="model_not_found",
        status=404,
        type="not_found_error",
        provoke=unknown_model,
        says=("llama3.2:1b", "`ollama pull`"),
        headers=NO_RETRY,
    ),
    Row(
        name="nothing pulled",
        code="no_models_pulled",
        status=404,
        type="not_found_error",
        provoke=nothing_pulled,
        says=("`ollama pull llama3.2:1b`",),
        headers=NO_RETRY,
    ),
    Row(
        name="not HTTP",
        code="bad_request",
        status=400,
        type="invalid_request_error",
        provoke=not_http,
        says=("Check the client or the proxy",),
        speeches=(OPENAI,),
    ),
)
