import json
import sys
from collections.abc import Callable

import msgspec
import pytest

from gateway.errors import UpstreamProtocolError
from gateway.models.discovery import (
    ps_body,
    show_body,
    tags_body,
    v1_model_body,
    v1_models_body,
)
from gateway.models.listing import Listing, parse_listing
from tests.models.recorded import (
    BLOB,
    PS_0_24,
    SHOW_VERBOSE_0_33,
    TAGS_0_24,
    TAGS_0_33,
    V1_MODEL_TINY_0_24,
    V1_MODELS_0_24,
)

TOO_DEEP = 800 if sys.version_info < (3, 12) else 3000
"""Deeper than our own code can recurse, not deeper than the decoder can."""


def listing_of(body: bytes) -> Listing:
    return parse_listing(body, fetched_at=0.0)


def any_model(_: str) -> bool:
    return True


def only(*names: str) -> Callable[[str], bool]:
    return lambda name: name in names


@pytest.mark.parametrize("full", [True, False])
def test_tags_without_host_details_pass_byte_for_byte(full: bool) -> None:
    assert tags_body(listing_of(TAGS_0_24), any_model, full=full) == TAGS_0_24


def test_tags_leave_out_paths() -> None:
    """Everything else stays as it was."""
    expected = json.loads(TAGS_0_33)
    del expected["models"][0]["details"]["parent_model"]

    body = tags_body(listing_of(TAGS_0_33), any_model, full=False)

    assert expected == json.loads(body)
    assert BLOB.encode() not in body


def test_full_tags_pass_unchanged() -> None:
    assert tags_body(listing_of(TAGS_0_33), any_model, full=True) == TAGS_0_33


def test_tags_keep_unknown_fields_beside_the_list() -> None:
    """A newer Ollama may add some."""
    body = b'{"next":"page","models":[{"name":"a:latest","new":{"x":[1,null]}}]}'

    assert body == tags_body(listing_of(body), any_model, full=False)


def test_tags_hold_only_models_that_the_key_may_use() -> None:
    body = tags_body(listing_of(TAGS_0_24), only("tiny:latest"), full=False)

    assert [entry["name"] for entry in json.loads(body)["models"]] == ["tiny:latest"]
    assert tags_body(listing_of(TAGS_0_24), only(), full=True) == b'{"models":[]}'


def test_filtering_does_not_change_the_listing() -> None:
    """It is shared by all requests."""
    listing = listing_of(TAGS_0_33)
    tags_body(listing, only(), full=False)

    assert tags_body(listing, any_model, full=True) == TAGS_0_33


@pytest.mark.parametrize("parent", ["llama3.2:1b", "hf.co/Some/Model:Q4", ""])
def test_parent_models_that_are_names_stay(parent: str) -> None:
    """They tell about the model."""
    body = msgspec.json.encode({"models": [{"name": "a", "details": {"parent_model": parent}}]})

    assert body == tags_body(listing_of(body), any_model, full=False)


@pytest.mark.parametrize("parent", [BLOB, "C:\\x\\y", ["/home/ann"], {"path": "/home/ann"}])
def test_parent_models_that_are_paths_are_left_out_at_any_depth(parent: object) -> None:
    entry = {"name": "a", "parent_model": parent, "more": [{"details": {"parent_model": parent}}]}
    body = msgspec.json.encode({"models": [entry]})

    assert tags_body(listing_of(body), any_model, full=False) == (
        b'{"models":[{"name":"a","more":[{"details":{}}]}]}'
    )


def test_v1_models_are_as_recorded() -> None:
    """From the same models."""
    assert v1_models_body(listing_of(TAGS_0_24), any_model) == V1_MODELS_0_24


def test_v1_models_hold_only_models_that_the_key_may_use() -> None:
    """Without any model the list is empty, and a list."""
    body = v1_models_body(listing_of(TAGS_0_24), only("mid:1b"))

    assert [entry["id"] for entry in json.loads(body)["data"]] == ["mid:1b"]
    assert v1_models_body(listing_of(TAGS_0_24), only()) == b'{"object":"list","data":[]}\n'


def test_v1_model_echoes_the_requested_name() -> None:
    """As Ollama does."""
    model = listing_of(TAGS_0_24).find("tiny")

    assert model is not None
    assert v1_model_body(model, "tiny") == V1_MODEL_TINY_0_24
    assert json.loads(v1_model_body(model, "TINY:latest"))["id"] == "TINY:latest"


def test_owned_by_is_the_namespace() -> None:
    """Or library."""
    listing = listing_of(b'{"models":[{"name":"hf.co/Ann/m:q4"},{"name":"ann/m:q4"},{"name":"m"}]}')

    body = json.loads(v1_models_body(listing, any_model))

    assert [entry["owned_by"] for entry in body["data"]] == ["Ann", "ann", "library"]


def test_ps_passes_byte_for_byte() -> None:
    """To a key that may use the models."""
    assert ps_body(PS_0_24, any_model, full=False) == PS_0_24
    assert ps_body(PS_0_24, only("other:latest"), full=True) == b'{"models":[]}'


def test_ps_leaves_out_host_details() -> None:
    """The same fields as everywhere."""
    raw = b'{"models":[{"name":"a","system":"s","details":{"parent_model":"/x","format":"gguf"}}]}'

    assert ps_body(raw, any_model, full=False) == (
        b'{"models":[{"name":"a","details":{"format":"gguf"}}]}'
    )


def test_show_leaves_out_host_details() -> None:
    """Modelfile, template, system, messages and the path of the blob."""
    raw = SHOW_VERBOSE_0_33[:-1] + b',"system":"secret","messages":[{"content":"secret"}]}'
    expected = json.loads(SHOW_VERBOSE_0_33)
    del expected["modelfile"], expected["template"], expected["details"]["parent_model"]

    body = show_body(raw, full=False)

    assert expected == json.loads(body)
    assert list(expected) == list(json.loads(body))
    assert not any(word in body for word in (b"secret", b"/usr/share", b"Modelfile", b".Prompt"))


def test_show_passes_numbers_as_sent() -> None:
    """Values without host details are not decoded."""
    assert b'"bert.attention.layer_norm_epsilon":1e-12' in show_body(SHOW_VERBOSE_0_33, full=False)


def test_full_show_passes_unchanged() -> None:
    assert show_body(SHOW_VERBOSE_0_33, full=True) == SHOW_VERBOSE_0_33


@pytest.mark.parametrize(
    "raw",
    [
        b'{"parent_model":"/home/ann","x":1}',
        b'{"projector_info":{"details":[{"parent_model":"/home/ann"}]}}',
    ],
)
def test_show_leaves_out_paths_at_any_depth(raw: bytes) -> None:
    assert b"/home/ann" not in show_body(raw, full=False)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"<html>",
        b'{"a":1',
        b'{"details":{"parent_model":"\\ud800"}}',
        b'{"parent_model":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"d":{"parent_model":"", "n":' + b"[" * TOO_DEEP + b"]" * TOO_DEEP + b"}}",
    ],
)
def test_a_show_body_that_is_not_ollamas_is_an_error(raw: bytes) -> None:
    """A protocol error, never a crash."""
    with pytest.raises(UpstreamProtocolError, match="/api/show"):
        show_body(raw, full=False)


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"models":7}', b"no"])
def test_a_ps_body_that_is_not_ollamas_is_an_error(raw: bytes) -> None:
    """A protocol error, never a crash."""
    with pytest.raises(UpstreamProtocolError, match="/api/ps"):
        ps_body(raw, any_model, full=False)


def test_numbers_beyond_64_bits_pass() -> None:
    raw = b'{"models":[{"name":"a","size":' + b"9" * 40 + b"}]}"

    assert raw == ps_body(raw, any_model, full=False)
