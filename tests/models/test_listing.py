import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamProtocolError
from gateway.models.listing import parse_listing
from tests.models.fakes import tags_of
from tests.models.recorded import TAGS_0_24, TAGS_0_33

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def entry_of(**fields: object) -> bytes:
    return msgspec.json.encode({"models": [{"name": "tiny:latest", **fields}]})


def test_a_recorded_list() -> None:
    """What Ollama lists is read with its digests, sizes, counts and times."""
    listing = parse_listing(TAGS_0_24, fetched_at=12.5)

    assert [(model.name, model.size_bytes, model.created) for model in listing.models] == [
        ("mid:1b", 405_003_631, 1_795_349_294),
        ("tiny:latest", 318_892, 1_795_349_293),
        ("tinybert:latest", 247_108, 1_795_349_293),
    ]
    assert listing.models[0].parameters == pytest.approx(0.20247)
    assert listing.fetched_at == 12.5
    assert listing.models[0].digest.startswith("264b15909a")
    assert not any(model.leaves_the_machine for model in listing.models)


def test_unknown_fields_are_kept() -> None:
    """What a newer Ollama adds stays with the entry, and beside the list."""
    listing = parse_listing(TAGS_0_33[:-1] + b',"next":"page"}', fetched_at=0.0)

    assert listing.models[0].raw["capabilities"] == ["completion"]
    assert listing.envelope == {"next": "page"}


@pytest.mark.parametrize("name", ["tiny", "TINY", "tiny:latest", "Tiny:Latest", "library/tiny"])
def test_find_by_any_spelling(name: str) -> None:
    """A model is found by every name under which Ollama would run it."""
    found = parse_listing(TAGS_0_24, fetched_at=0.0).find(name)

    assert found is not None
    assert found.name == "tiny:latest"


@pytest.mark.parametrize("name", ["tin", "tiny:1b", "mid", "", "tiny\n", "me/tiny"])
def test_find_nothing(name: str) -> None:
    """No other name finds it."""
    assert parse_listing(TAGS_0_24, fetched_at=0.0).find(name) is None


def test_the_listed_spelling_is_canonical() -> None:
    """Whatever case is asked for, the name is the one that the list writes."""
    found = parse_listing(tags_of("hf.co/Some/Model:Q4"), fetched_at=0.0).find(
        "hf.co/some/model:q4"
    )

    assert found is not None
    assert found.name == "hf.co/Some/Model:Q4"


@pytest.mark.parametrize(
    "fields",
    [
        {"remote_host": "https://ollama.com:443"},
        {"remote_model": "gpt-oss:120b"},
        {"remote_model": {"name": "x"}},
    ],
)
def test_remote_entries(fields: dict[str, object]) -> None:
    """An entry with a remote host or model leaves the machine, and its size says nothing."""
    model = parse_listing(entry_of(size=350, **fields), fetched_at=0.0).models[0]

    assert model.remote
    assert model.leaves_the_machine
    assert model.size_bytes is None


@pytest.mark.parametrize("fields", [{}, {"remote_host": ""}, {"remote_model": None}])
def test_local_entries(fields: dict[str, object]) -> None:
    """Empty remote fields are those of a local model."""
    assert not parse_listing(entry_of(**fields), fetched_at=0.0).models[0].remote


def test_a_cloud_name_leaves_the_machine() -> None:
    """A listed model with a cloud name does so without any remote field."""
    model = parse_listing(tags_of("gpt-oss:120b-cloud"), fetched_at=0.0).models[0]

    assert (model.remote, model.leaves_the_machine) == (False, True)


def test_entries_without_a_name_are_skipped() -> None:
    """What cannot be called by a name is not a model."""
    body = b'{"models":[{"name":""},{"size":1},null,7,"x",{"model":5},{"name":"tiny:latest"}]}'

    assert [model.name for model in parse_listing(body, fetched_at=0.0).models] == ["tiny:latest"]


def test_model_is_the_identity() -> None:
    """Where an entry's two names differ, the one that Ollama shows on /v1/models counts."""
    body = b'{"models":[{"name":"old:latest","model":"new:latest"}]}'

    assert [model.name for model in parse_listing(body, fetched_at=0.0).models] == ["new:latest"]


@pytest.mark.parametrize(
    "size", [-1, 0, 1 << 63, 10**400], ids=["negative", "none", "64 bits", "no float"]
)
def test_a_size_that_none_has_is_unknown(size: int) -> None:
    """Clocks and pages calculate with it, and no float is as large as JSON can say."""
    body = b'{"models":[{"name":"tiny:latest","size":%d}]}' % size

    assert parse_listing(body, fetched_at=0.0).models[0].size_bytes is None


def test_fields_of_wrong_types_are_unknown() -> None:
    """Nonsense in one field costs that field, not the list."""
    body = entry_of(size="big", digest=7, details=[1], modified_at="yesterday")
    model = parse_listing(body, fetched_at=0.0).models[0]

    assert (
        model.size_bytes,
        model.digest,
        model.parameters,
        model.created,
    ) == (None, "", None, 0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-22T12:08:14.999999999Z", 1_795_349_294),
        ("2026-11-22T14:08:14.5+02:00", 1_795_349_294),
        ("0001-01-01T00:00:00Z", -62_135_596_800),
        ("2026-11-22T12:08:14", 0),
        ("9999-12-31T23:59:59-23:59", 253_402_387_139),
        ("", 0),
    ],
)
def test_created_is_whole_seconds(text: str, seconds: int) -> None:
    """Fractions are cut off and offsets counted, as Go does."""
    assert seconds == parse_listing(entry_of(modified_at=text), fetched_at=0.0).models[0].created


@pytest.mark.parametrize("body", [b'{"models":[]}', b'{"models":null}'])
def test_an_empty_list(body: bytes) -> None:
    """Nothing pulled is a list without models, however it is written."""
    assert parse_listing(body, fetched_at=0.0).models == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>nginx</html>",
        b"[]",
        b"null",
        b"{}",
        b'{"models":{}}',
        b'{"models":"x"}',
        b'{"models":[',
        b'{"models":[]} trailing',
        b'{"models":[{"name":"\xff"}]}',
        b'{"models":[{"name":"\\ud800"}]}',
        b'{"models":' + b"[" * 100_000,
        b"\x00" * 100,
    ],
)
def test_what_is_not_ollamas_list(body: bytes) -> None:
    """Anything else than a list fails with a message that names the setting to check."""
    with pytest.raises(UpstreamProtocolError, match=r"/api/tags.*ollama\.url"):
        parse_listing(body, fetched_at=0.0)


@given(st.binary())
def test_any_bytes(body: bytes) -> None:
    """No bytes do worse than a protocol error."""
    try:
        parse_listing(body, fetched_at=0.0)
    except UpstreamProtocolError:
        return


@given(st.lists(st.dictionaries(st.sampled_from(["name", "model", "size", "details"]), JSON)))
def test_any_entries(entries: list[dict[str, object]]) -> None:
    """Entries of any content give models that have a name."""
    body = msgspec.json.encode({"models": entries}) if _encodable(entries) else b"{}"
    try:
        listing = parse_listing(body, fetched_at=0.0)
    except UpstreamProtocolError:
        return

    assert all(model.name for model in listing.models)


def _encodable(value: object) -> bool:
    try:
        msgspec.json.encode(value)
    except (OverflowError, UnicodeError):
        return False
    return True
