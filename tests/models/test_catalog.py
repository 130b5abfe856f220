import asyncio

import pytest

from gateway.errors import (
    ModelNotAllowed,
    ModelNotFound,
    NoModelsPulled,
    UpstreamUnreachable,
)
from gateway.models import Catalog, CatalogSnapshot, Source
from tests.models.fakes import FakeSource, model_of, tags_of
from tests.models.virtual import now, ticks, virtual_time

AWAY = UpstreamUnreachable("connection refused")


def catalog_of(source: Source, *, changes: list[bool] | None = None) -> Catalog:
    told = [] if changes is None else changes
    return Catalog(
        source,
        ttl=60.0,
        stale_limit=600.0,
        now=now,
        on_change=lambda up, _: told.append(up),
    )


def any_model(_: str) -> bool:
    return True


@pytest.mark.parametrize("name", ["tiny", "TINY:Latest", "library/tiny"])
@virtual_time
async def test_resolve_any_spelling(name: str) -> None:
    """Every spelling of a listed model is that model, with its name as listed."""
    assert model_of("tiny:latest") == await catalog_of(FakeSource("tiny:latest")).resolve(
        name, any_model
    )


@virtual_time
async def test_resolve_asks_the_key_about_the_listed_name() -> None:
    """A key's globs are held against one spelling, not against the caller's."""
    asked: list[str] = []

    def may_use(name: str) -> bool:
        asked.append(name)
        return True

    await catalog_of(FakeSource("Tiny:latest")).resolve("library/TINY", may_use)

    assert asked == ["Tiny:latest"]


@virtual_time
async def test_resolve_finds_what_was_pulled_a_moment_ago() -> None:
    """A name that is not in the list is looked up at Ollama before it is refused."""
    source = FakeSource("tiny:latest")
    catalog = catalog_of(source)
    await catalog.listing()
    source.tags_body = tags_of("tiny:latest", "new:1b")
    await asyncio.sleep(1.1)

    assert (await catalog.resolve("new:1b", any_model)).name == "new:1b"


@virtual_time
async def test_wrong_names_do_not_hammer_ollama() -> None:
    """A thousand calls for a model that is not there are one question a second."""
    source = FakeSource("tiny:latest")
    catalog = catalog_of(source)
    for _ in range(3):
        async with asyncio.TaskGroup() as group:
            for _ in range(300):
                group.create_task(_refusal(catalog, "nope"))
        await asyncio.sleep(1.1)

    assert source.asked_for("tags") == 3


@virtual_time
async def test_impossible_names_are_refused_without_asking() -> None:
    """Ollama cannot have pulled what it could not name."""
    source = FakeSource("tiny:latest")
    catalog = catalog_of(source)
    await catalog.listing()
    await asyncio.sleep(1.1)

    assert isinstance(await _refusal(catalog, "a b//c:::d"), ModelNotFound)
    assert source.asked_for("tags") == 1


@virtual_time
async def test_resolve_refusals() -> None:
    """Not there, not allowed and nothing pulled are three different things."""
    catalog = catalog_of(FakeSource("tiny:latest", "mid:1b"))

    assert isinstance(await _refusal(catalog, "nope"), ModelNotFound)
    with pytest.raises(ModelNotAllowed, match=r"mid:1b.*may use: tiny:latest\."):
        await catalog.resolve("mid:1b", lambda name: name == "tiny:latest")
    assert isinstance(await _refusal(catalog_of(FakeSource()), "tiny"), NoModelsPulled)


@virtual_time
async def test_resolve_while_ollama_is_away() -> None:
    """A listed model resolves from the last list; of another nobody can tell."""
    source = FakeSource("tiny:latest")
    catalog = catalog_of(source)
    await catalog.listing()
    source.error = AWAY
    await asyncio.sleep(100)

    assert (await catalog.resolve("tiny", any_model)).name == "tiny:latest"
    error = await _refusal(catalog, "new:1b")
    assert isinstance(error, UpstreamUnreachable)
    assert "'new:1b'" in error.message


@virtual_time
async def test_resolve_without_any_list() -> None:
    """Before Ollama answered once, a call fails as unreachable."""
    source = FakeSource("tiny:latest")
    source.error = AWAY

    assert isinstance(await _refusal(catalog_of(source), "tiny"), UpstreamUnreachable)


@pytest.mark.parametrize("steps", range(10))
@virtual_time
async def test_a_cancelled_resolve_does_not_fail_the_others(steps: int) -> None:
    """Wherever one caller leaves, the other one gets his model."""
    source = FakeSource("tiny:latest")
    source.latency = 0.5
    catalog = catalog_of(source)
    async with asyncio.TaskGroup() as group:
        leaving = group.create_task(catalog.resolve("tiny", any_model))
        staying = group.create_task(catalog.resolve("tiny", any_model))
        await ticks(steps)
        leaving.cancel()

    assert staying.result().name == "tiny:latest"


@virtual_time
async def test_refresh_asks_now_and_serves_the_last_list_if_it_must() -> None:
    """Also a moment after the last answer; stale if Ollama is away."""
    source = FakeSource("tiny:latest")
    catalog = catalog_of(source)
    await catalog.listing()
    await asyncio.sleep(0.1)
    assert not (await catalog.refresh()).stale
    assert source.asked_for("tags") == 2

    source.error = AWAY
    await asyncio.sleep(5)
    served = await catalog.refresh()
    assert (served.age, served.stale) == (5.0, True)


@virtual_time
async def test_fresh_asks_unless_it_did_within_a_second() -> None:
    """The list that a validation sees is at most a second old."""
    source = FakeSource("tiny:latest")
    catalog = catalog_of(source)
    for _ in range(3):
        await catalog.fresh()
    await asyncio.sleep(1.1)
    await catalog.fresh()

    assert source.asked_for("tags") == 2


@virtual_time
async def test_show_version_and_ps_are_served() -> None:
    """What else is discovered comes through the same catalog."""
    catalog = catalog_of(FakeSource("tiny:latest"))
    model = await catalog.resolve("tiny", any_model)

    assert (await catalog.show(model, verbose=False)).body == b'{"license":"MIT"}'
    assert await catalog.version() == b'{"version":"0.33.0"}'
    assert await catalog.ps() == b'{"models":[]}'


@virtual_time
async def test_what_it_says_of_itself() -> None:
    """Its repr and snapshot tell models, age and whether Ollama is up."""
    source = FakeSource("tiny:latest", "mid:1b")
    catalog = catalog_of(source)
    assert repr(catalog) == "<Catalog no list, down>"
    assert catalog.snapshot() == CatalogSnapshot(up=False, age=None, models=0)

    await catalog.listing()
    await asyncio.sleep(12)
    assert repr(catalog) == "<Catalog 2 models, 12 s old, up>"
    assert catalog.snapshot() == CatalogSnapshot(up=True, age=12.0, models=2)

    source.error = AWAY
    await catalog.refresh()
    assert repr(catalog) == "<Catalog 2 models, 12 s old, down>"


async def _refusal(catalog: Catalog, name: str) -> Exception:
    try:
        await catalog.resolve(name, any_model)
    except (ModelNotFound, NoModelsPulled, UpstreamUnreachable) as error:
        return error
    raise AssertionError("was not refused")
