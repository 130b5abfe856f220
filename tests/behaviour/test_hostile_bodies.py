"""Bodies that mean one thing to the gateway and another to Ollama: Ollama gets what was checked."""

import gzip
import json
import zlib
from typing import Any

import pytest
import zstandard

from gateway.simulator import Received, Simulator
from tests.behaviour.wire import RawResponse, fetch, raw_client, request
from tests.harness import Running

MODEL = b'"model":"llama3.2:1b"'
MESSAGES = b'"messages":[{"role":"user","content":"hi"}]'
GOOD = b"{" + MODEL + b"," + MESSAGES + b"}"
CHAT = "/v1/chat/completions"
INFERENCE = {
    CHAT: MESSAGES,
    "/v1/completions": b'"prompt":"hi"',
    "/v1/embeddings": b'"input":"hi"',
    "/v1/responses": b'"input":"hi"',
    "/v1/messages": MESSAGES + b',"max_tokens":4',
    "/api/chat": MESSAGES,
    "/api/generate": b'"prompt":"hi"',
    "/api/embed": b'"input":"hi"',
    "/api/embeddings": b'"prompt":"hi"',
}

UNREADABLE = {
    "nothing": b"",
    "spaces": b"   \r\n",
    "a list": b"[" + GOOD + b"]",
    "a text": b'"llama3.2:1b"',
    "null": b"null",
    "form": b"model=llama3.2:1b&prompt=hi",
    "half of it": GOOD[:-1],
    "something behind it": GOOD + b"x",
    "another object behind it": GOOD + b'{"model":"other"}',
    "a null byte behind it": GOOD + b"\x00",
    "something before it": b")]}'\n" + GOOD,
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "UTF-16 without a mark": GOOD.decode().encode("utf-16-le"),
    "UTF-7": GOOD.replace(b'"', b"+ACI-"),
    "single quotes": GOOD.replace(b'"', b"'"),
    "comment": GOOD[:-1] + b"/*,*/}",
    "comma at the end": GOOD[:-1] + b",}",
    "NaN": GOOD[:-1] + b',"temperature":NaN}',
    "infinity": GOOD[:-1] + b',"temperature":-Infinity}',
    "number with a zero before it": GOOD[:-1] + b',"seed":007}',
    "control byte in a text": GOOD.replace(b"hi", b"h\x01"),
    "half a surrogate in a key": GOOD[:-1] + b',"\\ud800":1}',
    "key that is not UTF-8": GOOD[:-1] + b',"mod\xffel":"other"}',
    "overlong encoding in a key": GOOD[:-1] + b',"\xc1\xadodel":"other"}',
    "100,000 lists deep": GOOD[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 lists that never end": GOOD[:-1] + b',"x":' + b"[" * 100_000,
    "100,000 objects deep": GOOD[:-1] + b',"x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    "100,000 lists for messages": b"{"
    + MODEL
    + b',"messages":'
    + b"[" * 10**5
    + b"]" * 10**5
    + b"}",
    "a thousand fields": b"{" + b"".join(b'"f%d":0,' % i for i in range(1000)) + GOOD[1:],
    "a million fields": b"{" + b"".join(b'"%x":0,' % i for i in range(10**6)) + GOOD[1:],
    "model missing": b"{" + MESSAGES + b"}",
    "model empty": b'{"model":"",' + MESSAGES + b"}",
    "model of spaces": b'{"model":" \\t ",' + MESSAGES + b"}",
    "model null": b'{"model":null,' + MESSAGES + b"}",
    "model a number of 10,000 digits": b'{"model":' + b"9" * 10_000 + b"," + MESSAGES + b"}",
    "model beyond all numbers": b'{"model":1e999999,' + MESSAGES + b"}",
    "model a list": b'{"model":["llama3.2:1b"],' + MESSAGES + b"}",
    "model not UTF-8": b'{"model":"llama3.2:1b\xff",' + MESSAGES + b"}",
    "model half a surrogate": b'{"model":"llama3.2:1b\\ud83d",' + MESSAGES + b"}",
    "model named as before": b'{"name":"llama3.2:1b",' + MESSAGES + b"}",
    "stream a text": GOOD[:-1] + b',"stream":"true"}',
    "stream a number": GOOD[:-1] + b',"stream":1}',
    "options a list": GOOD[:-1] + b',"options":[]}',
    "tools an object": GOOD[:-1] + b',"tools":{"type":"web_search"}}',
    "tools of texts": GOOD[:-1] + b',"tools":["web_search"]}',
}

SECOND_READINGS = [
    *("MODEL", "Model", "mOdEl", "\\u004dodel", "\\u006dODEL"),
    *("\\u017ftream", "\u017ftream", "STREAM", "Stream"),
    *(
        "\\u212aeep_alive",
        "\u212aeep_alive",
        "Keep_Alive",
        "keep_al\\u0130ve".replace("\\u0130", "I"),
    ),
    *("Options", "option\u017f", "TOOLS", "tool\\u017f"),
    *(
        "Messages",
        "me\u017fsages",
        "me\\u017f\\u017fages",
        "PROMPT",
        "Input",
        "NAME",
        "Verbo\u017fe",
    ),
    *("_debug_render_only", "_DEBUG_render_only", "\\u005fdebug_x", "_debug"),
]
"""Field names that Go's decoder takes for one of its own, by simple folding, raw and escaped."""


async def send(gateway: Running, body: bytes, path: str = CHAT, **headers: str) -> RawResponse:
    return await fetch(gateway.port, path, body, headers={**gateway.bearer, **headers})


def last(sim: Simulator) -> Received:
    return sim.requests[-1]


def requests_to_ollama(sim: Simulator) -> list[str]:
    return [received.path for received in sim.requests if received.method == "POST"]


@pytest.mark.parametrize("what", UNREADABLE)
async def test_body_that_is_not_one_clear_object_is_400(
    gateway: Running, sim: Simulator, what: str
) -> None:
    """However it is broken, it is the client's mistake, and Ollama never gets it."""
    response = await send(gateway, UNREADABLE[what])

    assert (response.status, response.json()["error"]["code"]) == (400, "invalid_request_body")
    assert len(response.body) < 1000
    assert requests_to_ollama(sim) == []


@pytest.mark.parametrize("key", SECOND_READINGS)
async def test_field_name_with_two_readings_is_400(
    gateway: Running, sim: Simulator, key: str
) -> None:
    """Beside the proper name or alone, before or after it, on a route of each dialect."""
    field = f'"{key}":"other"'.encode()
    bodies = (b"{" + field + b"," + GOOD[1:], GOOD[:-1] + b"," + field + b"}")
    for path in (CHAT, "/api/chat", "/v1/messages"):
        for body in bodies:
            response = await send(gateway, body, path)

            assert response.status == 400
    assert requests_to_ollama(sim) == []


@pytest.mark.parametrize("field", [b"messages", b"tools", b"options", b"x"])
async def test_deep_nesting_is_no_internal_error(gateway: Running, field: bytes) -> None:
    """Python's own limit must not show as a 500."""
    seen = set()
    for depth in range(880, 1000):
        body = b"{" + MODEL + b',"' + field + b'":' + b"[" * depth + b"]" * depth + b"}"
        seen.add((await send(gateway, body, "/api/chat")).status)

    assert seen <= {200, 400, 403}
    assert gateway.log("request.crashed") == []


@pytest.mark.parametrize("path", INFERENCE)
async def test_last_of_duplicate_fields_is_sent(
    gateway: Running, sim: Simulator, path: str
) -> None:
    """Each field once; the last counts, as it does for Ollama."""
    body = b'{"model":"other","stream":true,' + INFERENCE[path] + b',"stream":false,"model":'
    body += b'"llama3.2:1b"}'

    response = await send(gateway, body, path)

    assert response.status in (200, 400, 501), response.body
    assert last(sim).body.count(b'"model"') == 1
    assert last(sim).body.count(b'"stream"') == 1
    assert {"model": "llama3.2:1b", "stream": False}.items() <= json.loads(last(sim).body).items()


async def test_escaped_field_name_is_sent_unescaped(gateway: Running, sim: Simulator) -> None:
    """It is read as what it means."""
    body = b'{"mod\\u0065l":"llama3.2:1b","\\u0073tream":false,' + MESSAGES + b"}"

    assert (await send(gateway, body)).status == 200
    assert last(sim).body.startswith(b'{"model":"llama3.2:1b","stream":false,')


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("zstd", zstandard.compress),
        ("br", bytes),
        ("compress", bytes),
        ("aws-chunked", bytes),
        ("identity, zstd", zstandard.compress),
        ("zstd, identity", zstandard.compress),
        ("gzip", bytes),
        ("unheard-of", bytes),
    ],
)
async def test_encoded_body_is_415(
    gateway: Running, sim: Simulator, encoding: str, pack: Any
) -> None:
    """By the header, whether or not the bytes are encoded."""
    response = await send(gateway, pack(GOOD), **{"Content-Encoding": encoding})

    assert (response.status, response.json()["error"]["code"]) == (415, "unsupported_encoding")
    assert requests_to_ollama(sim) == []


async def test_every_content_encoding_header_counts(gateway: Running) -> None:
    """A list may come in several lines."""
    head = request(CHAT, GOOD, headers={**gateway.bearer, "Content-Encoding": "identity"})
    async with raw_client(gateway.port) as client:
        client.send(head.replace(b"\r\n\r\n", b"\r\nContent-Encoding: zstd\r\n\r\n", 1))

        assert (await client.response()).status == 415


async def test_identity_encoding_is_accepted_and_not_forwarded(
    gateway: Running, sim: Simulator
) -> None:
    """RFC 9110: bytes as they are."""
    response = await send(gateway, GOOD, **{"Content-Encoding": "identity"})

    assert response.status == 200
    assert last(sim).header("Content-Encoding") is None


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_chunks_of_any_size_are_one_body(gateway: Running, sim: Simulator, size: int) -> None:
    """Extensions and trailers are skipped; Ollama gets a length."""
    pieces = [GOOD[at : at + size] for at in range(0, len(GOOD), size)]
    body = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    head = request(CHAT, b"", headers={**gateway.bearer, "Transfer-Encoding": "chunked"})
    async with raw_client(gateway.port) as client:
        client.send(
            head.replace(b"Content-Length: 0\r\n", b"") + body + b"0\r\nX-Trailer: 1\r\n\r\n"
        )

        assert (await client.response()).status == 200
    assert last(sim).body == GOOD
    assert last(sim).header("Content-Length") == str(len(GOOD))
    assert last(sim).header("Transfer-Encoding") is None


async def test_body_shorter_than_declared_is_never_sent(gateway: Running, sim: Simulator) -> None:
    """Even if what came is a complete object: the client left before the end."""
    async with raw_client(gateway.port) as client:
        client.send(request(CHAT, GOOD, headers={**gateway.bearer, "Content-Length": "1000"}))
        client.writer.write_eof()
        await client.read_until_closed()

    assert (await gateway.finished())[0]["outcome"] == "client_disconnected"
    assert requests_to_ollama(sim) == []


async def test_bytes_after_the_declared_length_are_the_next_request(
    gateway: Running, sim: Simulator
) -> None:
    """They are not part of the body: here they are a 400 of their own."""
    async with raw_client(gateway.port) as client:
        head = {**gateway.bearer, "Content-Length": str(len(GOOD))}
        client.send(request(CHAT, GOOD + b'{"model":"x"}', headers=head))
        responses = await client.read_until_closed()

    assert responses.count(b" 400 Bad Request\r\n") == 1
    assert [received.body for received in sim.requests if received.method == "POST"] in ([], [GOOD])
