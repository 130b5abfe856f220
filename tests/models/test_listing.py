import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamProtocolError
from gateway.models.listing import parameter_count, parse_listing
from tests.models.fakes import tags_of
from tests.models.recorded import TAGS_0_24, TAGS_0_33

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def entry_of(**fields: object) -> bytes:
    return msgspec.json.encode({"models": [{"name": "tiny:latest", **fields}]})


def test_a_recorded_list_is_read() -> None:
    """With its digests, sizes, counts and times."""
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
    """Of the entries and beside the list."""
    listing = parse_listing(TAGS_0_33[:-1] + b',"next":"page"}', fetched_at=0.0)

    assert listing.models[0].raw["capabilities"] == ["completion"]
    assert listing.envelope == {"next": "page"}


@pytest.mark.parametrize("name", ["tiny", "TINY", "tiny:latest", "Tiny:Latest", "library/tiny"])
def test_find_accepts_any_spelling(name: str) -> None:
    """Every name under which Ollama would run the model."""
    found = parse_listing(TAGS_0_24, fetched_at=0.0).find(name)

    assert found is not None
    assert found.name == "tiny:latest"


@pytest.mark.parametrize("name", ["tin", "tiny:1b", "mid", "", "tiny\n", "me/tiny"])
def test_find_returns_none_for_other_names(name: str) -> None:
    assert parse_listing(TAGS_0_24, fetched_at=0.0).find(name) is None


def test_found_models_have_the_listed_spelling() -> None:
    """Whatever case was asked for."""
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
def test_remote_entries_leave_the_machine(fields: dict[str, object]) -> None:
    """Their size on disk says nothing."""
    model = parse_listing(entry_of(size=350, **fields), fetched_at=0.0).models[0]

    assert model.remote
    assert model.leaves_the_machine
    assert model.size_bytes is None


@pytest.mark.parametrize("fields", [{}, {"remote_host": ""}, {"remote_model": None}])
def test_entries_with_empty_remote_fields_are_local(fields: dict[str, object]) -> None:
    assert not parse_listing(entry_of(**fields), fetched_at=0.0).models[0].remote


def test_a_cloud_name_leaves_the_machine() -> None:
    """Also without a remote field."""
    model = parse_listing(tags_of("gpt-oss:120b-cloud"), fetched_at=0.0).models[0]

    assert (model.remote, model.leaves_the_machine) == (False, True)


def test_entries_without_a_name_are_skipped() -> None:
    """They cannot be requested."""
    body = b'{"models":[{"name":""},{"size":1},null,7,"x",{"model":5},{"name":"tiny:latest"}]}'

    assert [model.name for model in parse_listing(body, fetched_at=0.0).models] == ["tiny:latest"]


def test_the_model_field_counts_more_than_name() -> None:
    """It is what Ollama shows on /v1/models."""
    body = b'{"models":[{"name":"old:latest","model":"new:latest"}]}'

    assert [model.name for model in parse_listing(body, fetched_at=0.0).models] == ["new:latest"]


@pytest.mark.parametrize(
    "size", [-1, 0, 1 << 63, 10**400], ids=["negative", "none", "64 bits", "no float"]
)
def test_an_implausible_size_is_unknown(size: int) -> None:
    """Timeouts calculate with it, and JSON can express numbers that no float can hold."""
    body = b'{"models":[{"name":"tiny:latest","size":%d}]}' % size

    assert parse_listing(body, fetched_at=0.0).models[0].size_bytes is None


def test_fields_of_wrong_types_are_unknown() -> None:
    """The rest of the entry is read."""
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
def test_created_is_in_whole_seconds(text: str, seconds: int) -> None:
    """Fractions are cut off and offsets counted, as Go does."""
    assert seconds == parse_listing(entry_of(modified_at=text), fetched_at=0.0).models[0].created


@pytest.mark.parametrize("body", [b'{"models":[]}', b'{"models":null}'])
def test_an_empty_list_has_no_models(body: bytes) -> None:
    """Also when Go writes null."""
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
def test_a_body_that_is_not_ollamas_is_an_error(body: bytes) -> None:
    """The message names the setting to check."""
    with pytest.raises(UpstreamProtocolError, match=r"/api/tags.*ollama\.url"):
        parse_listing(body, fetched_at=0.0)


@given(st.binary())
def test_any_bytes_are_a_list_or_a_protocol_error(body: bytes) -> None:
    try:
        parse_listing(body, fetched_at=0.0)
    except UpstreamProtocolError:
        return


@given(st.lists(st.dictionaries(st.sampled_from(["name", "model", "size", "details"]), JSON)))
def test_any_entries_give_models_with_names(entries: list[dict[str, object]]) -> None:
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


# Parameter counts.


@pytest.mark.parametrize(
    ("text", "billions"),
    [
        ("70.6B", 70.6),
        ("8.0B", 8.0),
        ("1.2B", 1.2),
        ("405B", 405.0),
        ("494.03M", 0.49403),
        ("152K", 0.000152),
        ("8x7B", 56.0),
        ("8X22b", 176.0),
        ("1.04T", 1040.0),
        ("480000000000", 480.0),
        ("999", 9.99e-7),
        (" 7 B ", 7.0),
    ],
)
def test_parameter_counts_are_read_as_ollama_writes_them(text: str, billions: float) -> None:
    assert billions == pytest.approx(parameter_count(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "B",
        "x7B",
        "8x",
        "0B",
        "0x7B",
        "-7B",
        "7Q",
        "7B5",
        "1e3B",
        "infB",
        "nan",
        "\u0667B",
        "7.B",
        ".5B",
        "999999T",
        "9" * 100_000,
        "9" * 30,
    ],
)
def test_implausible_parameter_counts_are_unknown(text: str) -> None:
    """Empty, garbled and absurd texts."""
    assert parameter_count(text) is None


@given(st.text())
def test_any_text_is_a_plausible_parameter_count_or_none(text: str) -> None:
    billions = parameter_count(text)

    assert billions is None or 0.0 < billions <= 100_000.0


@given(st.integers(1, 999), st.integers(0, 99), st.sampled_from("KMB"))
def test_units_of_parameter_counts_are_steps_of_a_thousand(
    whole: int, part: int, unit: str
) -> None:
    scale = {"K": 1e-6, "M": 1e-3, "B": 1.0}[unit]

    assert (whole + part / 100) * scale == pytest.approx(
        parameter_count(f"{whole}.{part:02}{unit}")
    )
