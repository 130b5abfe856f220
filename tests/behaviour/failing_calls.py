"""The rows of the error table that are the caller's own doing, or the owner's decision."""

from typing import Any

from tests.behaviour.failing import NO_RETRY, RETRY_SOON, Row, Scene, as_json
from tests.behaviour.speech import MODEL, NATIVE, OPENAI
from tests.behaviour.wire import Told, ask, caller, request

_SEARCH = [{"type": "web_search_20250305", "name": "web_search"}]
_CHALLENGE = {"www-authenticate": 'Bearer realm="ollama-gateway"'}


async def no_key(scene: Scene) -> Told:
    return await ask(scene.gateway.port, scene.speech.path, scene.speech.body())


async def placeholder_key(scene: Scene) -> Told:
    return await scene.ask(key="ollama")


async def unknown_key(scene: Scene) -> Told:
    return await scene.ask(key="ogw_" + "x" * 43)


async def too_many_unknown_keys(scene: Scene) -> Told:
    await unknown_key(scene)
    return await unknown_key(scene)


async def discovery_key(scene: Scene) -> Told:
    return await scene.ask(key=scene.gateway.discovery)


async def forbidden_model(scene: Scene) -> Told:
    return await scene.ask(key=scene.gateway.new_key("narrow", models=("nomic*", "llama3.3")))


async def cloud_model(scene: Scene) -> Told:
    return await scene.ask(model="gpt-oss:120b-cloud")


async def web_search(scene: Scene) -> Told:
    return await scene.ask(tools=_SEARCH)


async def load_only(scene: Scene) -> Told:
    return await scene.ask({"model": MODEL})


async def too_often(scene: Scene) -> Told:
    key = scene.gateway.new_key("slow", rpm=1)
    await scene.ask(key=key)
    return await scene.ask(key=key)


async def too_many_of_one_key(scene: Scene) -> Told:
    async with scene.occupied(), scene.waiting():
        await scene.queued(1)
        return await scene.ask()


async def late_body(scene: Scene) -> Told:
    async with caller(scene.gateway.port) as one:
        head = {**scene.gateway.bearer, "Content-Length": "100"}
        one.send(request(scene.speech.path, b"{", headers=head))
        return await one.answer()


async def large_body(scene: Scene) -> Told:
    return await scene.ask(padding="x" * 1024)


async def large_body_in_chunks(scene: Scene) -> Told:
    async with caller(scene.gateway.port) as one:
        head = request(scene.speech.path, method="POST", headers=scene.gateway.bearer)
        one.send(head.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
        one.send(b"401\r\n" + b"x" * 1025 + b"\r\n")
        return await one.answer()


async def compressed(scene: Scene) -> Told:
    return await scene.ask(b"\x1f\x8b", headers={"Content-Encoding": "gzip"})


async def not_json(scene: Scene) -> Told:
    return await scene.ask(b"model=llama")


async def no_body(scene: Scene) -> Told:
    return await scene.ask(b"")


async def two_readings(scene: Scene) -> Told:
    return await scene.ask(as_json({**scene.speech.body(), "MODEL": "other"}))


async def no_model(scene: Scene) -> Told:
    fields: dict[str, Any] = scene.speech.body()
    del fields["model"]
    return await scene.ask(fields)


async def stream_of_words(scene: Scene) -> Told:
    return await scene.ask(stream="yes")


async def unknown_route(scene: Scene) -> Told:
    path = "/api/pull" if scene.speech is NATIVE else "/v1/images"
    return await scene.ask(path=path)


async def wrong_method(scene: Scene) -> Told:
    return await scene.ask(b"", method="GET")


async def unknown_model(scene: Scene) -> Told:
    return await scene.ask(model="llama9:1b")


async def nothing_pulled(scene: Scene) -> Told:
    listing = (await scene.gateway.gateway.host.catalog.get()).listing
    for model in listing.models:
        scene.sim.remove(model.name)
    await scene.gateway.gateway.host.catalog.get(max_age=0.0)
    return await scene.ask()


async def not_http(scene: Scene) -> Told:
    async with caller(scene.gateway.port) as one:
        one.send(b"GET / HTTP/1.1\r\nbad header\x01\r\n\r\n")
        return await one.answer()


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
        "Wait for answers before sending more",
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
