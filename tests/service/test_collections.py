"""Saved vectors searched in Milvus or on a device: what the service does with them, and what it says of them.

Over a stand-in for what a default run can test, and over a real server where there is one.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedding.encoder import TextEncoder
from memory.errors import InvalidInputError, UnavailableError
from retrieval import coded
from service import doctor
from service.catalog import list_catalog_names
from service.milvus import Collections
from service.published import find_published
from service.settings import Settings
from service.views import Scope
from service.wiring import find_collections, find_device
from tests import milvus
from tests.plain_milvus import PlainMilvus
from tests.postgres import Server
from tests.service.harness import TENANT, House, text_content
from unlearning.certificate import OUTSIDE_NOT_PROMISED, verify_certificate

MARA = Scope(subjects=("person:mara",))
TEXTS = [f"Ferry {at} leaves pier {at % 7} in month {at % 12}." for at in range(230)]
"""More than a recall ranks, or all would be compared in the files."""
GOING = [f"Mara takes ferry {at} to the tower." for at in range(5)]
HOUR_US = 3_600_000_000

_numbers = count()


@dataclass
class Engine:
    """Where it listens, and the stand-in where it is one."""

    address: str
    plain: PlainMilvus | None = None

    def settings(self, prefix: str = "") -> dict[str, Any]:
        return {
            "vectors": "milvus",
            "milvus_address": self.address,
            "milvus_prefix": prefix or f"t{time.time_ns()}n{next(_numbers)}",
        }


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> PlainMilvus:
    standing_in = PlainMilvus()
    monkeypatch.setitem(sys.modules, "retrieval.milvus_vectors", standing_in.as_module())
    monkeypatch.setattr("service.wiring.find_spec", lambda name: importlib.machinery.ModuleSpec(name, None))
    return standing_in


@pytest.fixture(scope="module")
def server() -> Iterator[milvus.Server]:
    with milvus.serve() as running:
        yield running


needs_milvus = pytest.mark.skipif(milvus.missing() is not None, reason=str(milvus.missing()))


@pytest.fixture(params=["plain", pytest.param("milvus", marks=needs_milvus)])
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "plain":
        standing_in: PlainMilvus = request.getfixturevalue("plain")
        return Engine(standing_in.address, standing_in)
    return Engine(request.getfixturevalue("server").address)


@pytest.fixture(autouse=True)
def ask_for_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """In life some thousands are compared in the files."""
    monkeypatch.setattr(coded, "FEW", 20)


@pytest.fixture
def build(tmp_path: Path, encoder: TextEncoder) -> Iterator[Callable[..., House]]:
    made: list[House] = []

    def build_house(name: str = "data", **settings: Any) -> House:
        made.append(House(tmp_path / name, encoder, **settings))
        return made[-1]

    yield build_house
    for house in made:
        house.close()


def tell(house: House, texts: list[str], first_id: int, **attributes: Any) -> None:
    """Remember texts under ids that tell which they are, whatever else was told."""
    house.ids.given = [f"{first_id + at:032x}" for at in range(len(texts))]
    house.lethe.remember(TENANT, [text_content(text, **attributes) for text in texts])
    house.ids.given = []
    house.waker.drain()


def tell_all(house: House) -> None:
    tell(house, TEXTS, 1 << 64)
    tell(house, GOING, 1 << 65, subjects=("person:mara",))
    house.lethe.indexes.save(TENANT)


def forget(house: House, scope: Scope = MARA) -> str:
    view = house.lethe.forget(TENANT, scope, preview=False)
    house.waker.drain()
    return view.id


def collection_of(house: House) -> Any:
    name = house.lethe.indexes.name_collection(TENANT)
    collections = house.lethe.indexes.collections
    assert name is not None and collections is not None
    return collections.open(name, house.encoder.space.dimension)


def saved_names(house: House) -> list[int]:
    published = find_published(house.lethe.kernel, TENANT)
    assert published is not None
    return sorted(list_catalog_names(house.data / "index" / TENANT, published.catalog).tolist())


def texts(house: House, query: str = "ferry", limit: int = 100) -> set[str]:
    return {text for _, text, _ in house.found(query, limit=limit)}


def test_what_is_found_is_what_files_find_and_what_is_forgotten_leaves_the_engine(
    engine: Engine, build: Callable[..., House]
) -> None:
    house = build("engine", **engine.settings())
    tell_all(house)
    assert house.lethe.stats(TENANT)["vectors_searched_in"] == "milvus"
    assert collection_of(house).keys().tolist() == saved_names(house)
    queries = ("ferry 7 pier", "Mara", "month 3")
    by_engine = [house.found(query) for query in queries]
    vectors = house.lethe.indexes.get(TENANT).vectors
    searcher, vectors.searcher = vectors.searcher, None
    assert house.lethe.stats(TENANT)["vectors_searched_in"] == "files"
    assert [house.found(query) for query in queries] == by_engine
    vectors.searcher = searcher
    if engine.plain is not None:
        assert engine.plain.searches == len(queries)
    state = house.lethe.indexes.get(TENANT).state
    ordinals = [state.ordinals[i] for i in state.ordinals if int(i, 16) >= 1 << 65]
    going = state.row_name[state.rows_of(np.array(ordinals))]
    assert len(collection_of(house).find(going)) == len(going) >= len(GOING)

    document = house.lethe.get_certificate(TENANT, forget(house))

    assert not len(collection_of(house).find(going))
    assert collection_of(house).keys().tolist() == saved_names(house)
    assert not texts(house, "Mara") & set(GOING)
    assert verify_certificate(document).valid
    payload: Any = document["payload"]
    said = payload["engines"]["milvus"]
    assert "none of them stores a removed row" in str(said["assured"])
    assert "message log" in str(said["not_assured"])
    assert OUTSIDE_NOT_PROMISED in payload["not_promised"]
    (store,) = [store for store in payload["stores"] if store["name"] == "milvus"]
    assert (store["erased"], store["remaining"]) == (len(going), 0)

    # What is left there is what one holds that never knew.
    twin = build("twin", **engine.settings())
    tell(twin, TEXTS, 1 << 64)
    twin.lethe.indexes.save(TENANT)
    assert house.digest()["milvus"] == twin.digest()["milvus"]


def test_another_process_searches_whole_states_only(
    engine: Engine, tmp_path: Path, encoder: TextEncoder, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one brings in and takes out, another finds, on its older files, all that is not denied."""
    monkeypatch.setattr("service.lethe.TEND_SECONDS", 3600.0)
    monkeypatch.setattr("service.presence.RENEW_SECONDS", 3600.0)
    monkeypatch.setattr("service.presence.PRESENT_SECONDS", 200.0)  # a real engine takes its time
    monkeypatch.setattr("service.forgetting.DRAIN_SECONDS", 0.2)
    settings = engine.settings()
    with postgres.database("data") as data, postgres.database("keys") as keys:
        one = House(tmp_path / "data", encoder, database_url=data, keys_url=keys, **settings)
        other = House(tmp_path / "data", encoder, database_url=data, keys_url=keys, **settings)
        other.ids.count = 1_000_000
        other.clock = one.clock
        tell_all(one)
        other.lethe.indexes.keep_up()
        looks: list[str] = []

        def look(when: str) -> None:
            looks.append(when)
            assert other.lethe.stats(TENANT)["vectors_searched_in"] == "milvus"
            assert seen_by_vectors(other) == expected, when

        for step in ("bring", "trim"):
            do = getattr(Collections, step)

            def looked_around(*given: Any, do: Any = do, step: str = step) -> None:
                look(f"before {step}")
                do(*given)
                look(f"after {step}")

            monkeypatch.setattr(Collections, step, looked_around)

        expected = {*TEXTS, *GOING}
        look("all saved")
        late = ["A late ferry leaves at night.", "A later ferry is cancelled."]
        tell(one, late, 1 << 66)
        expected |= set(late)
        one.lethe.indexes.save(TENANT)
        expected -= set(GOING)
        forget_id = forget(one)
        assert one.lethe.get_forget(TENANT, forget_id).state == "fenced", "the other holds the older files"
        look("waited for")
        other.lethe.indexes.keep_up()
        look("let go")
        one.clock.now_us += HOUR_US
        for each in (one, other):
            each.lethe.indexes.presence.renew()
        one.waker.drain()
        assert one.lethe.get_forget(TENANT, forget_id).state == "certified"
        assert seen_by_vectors(one) == seen_by_vectors(other) == expected
        assert len(looks) > 10
        other.close()
        one.close()


def seen_by_vectors(house: House) -> set[str]:
    """Return the texts of all passages that the engine shows of what is saved, and of what is new beside it."""
    generation = house.lethe.indexes.get(TENANT)
    state, searcher = generation.state, generation.vectors.searcher
    assert searcher is not None
    allowed = state.select_passages(state.list_visible(None))
    query = house.encoder.encode(["ferry"], role="query")[0]
    found, _ = searcher.search(query, limit=state.saved, allowed=allowed[: state.saved])
    rows = [*found.tolist(), *(state.saved + np.flatnonzero(allowed[state.saved :])).tolist()]
    ids = {state.cards[int(ordinal)].row.id for ordinal in state.row_entry[sorted(rows)]}
    return {entry.text.strip() for entry in house.lethe.recaller.load_parsed(TENANT, sorted(ids)).values()}


@pytest.mark.parametrize("step", ["bring", "trim", "match", "settle"])
def test_what_ended_half_way_is_mended_by_the_next_try(
    step: str, engine: Engine, build: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine goes away before or within a step: no certificate until it holds what it should."""
    house = build(**engine.settings())
    tell_all(house)
    tell(house, ["A late ferry leaves at night."], 1 << 66)
    do = getattr(Collections, step)
    with monkeypatch.context() as patch:

        def fail(*given: Any) -> None:
            if step == "bring":
                do(*given)
            raise UnavailableError("the engine went away")

        patch.setattr(Collections, step, fail)
        forget_id = forget(house)
        view = house.lethe.get_forget(TENANT, forget_id)
        assert view.state == "fenced"
        assert view.error is not None and "went away" in str(view.error["detail"])
        assert not texts(house, "Mara") & set(GOING)
    house.clock.now_us += HOUR_US
    house.waker.drain()
    assert house.lethe.get_forget(TENANT, forget_id).state == "certified"
    assert collection_of(house).keys().tolist() == saved_names(house)


def test_a_silent_engine_is_named_and_holds_up_no_fence(
    plain: PlainMilvus, build: Callable[..., House]
) -> None:
    house = build(**Engine(plain.address).settings())
    tell_all(house)
    plain.is_silent = True
    with pytest.raises(UnavailableError, match=plain.address):
        house.found("ferry")
    house.restart()
    house.remember("A late ferry leaves at night.")
    forget_id = forget(house)
    view = house.lethe.get_forget(TENANT, forget_id)
    assert view.state == "fenced"
    assert view.error is not None and plain.address in str(view.error["detail"])
    plain.is_silent = False
    house.clock.now_us += HOUR_US
    house.waker.drain()
    assert house.lethe.get_forget(TENANT, forget_id).state == "certified"
    assert plain.compactions == 1
    assert not texts(house, "Mara") & set(GOING)


@needs_milvus
def test_a_real_silence_is_told_by_name(build: Callable[..., House]) -> None:
    house = build(vectors="files")
    tell_all(house)
    house.settings = house.settings.model_copy(
        update={"vectors": "milvus", "milvus_address": "http://127.0.0.1:1"}
    )
    assert find_collections(house.settings) is not None
    with pytest.raises(UnavailableError, match=r"http://127\.0\.0\.1:1 does not answer"):
        doctor.look_at_vectors(doctor.Visit(house.settings))


def test_switching_on_and_off_moves_what_is_saved(engine: Engine, build: Callable[..., House]) -> None:
    """Until it is moved, codes are searched; a process that knows no engine does not leave anything there."""
    house = build()
    tell_all(house)
    names = saved_names(house)
    before = house.found("ferry 7")
    settings = engine.settings()
    house.settings = house.settings.model_copy(update=settings)
    house.restart()
    assert house.lethe.stats(TENANT)["vectors_searched_in"] == "files"
    assert house.found("ferry 7") == before
    house.waker.drain()
    assert house.lethe.stats(TENANT)["vectors_searched_in"] == "milvus"
    assert house.found("ferry 7") == before
    assert collection_of(house).keys().tolist() == names

    house.settings = house.settings.model_copy(update={"vectors": "files", "milvus_address": None})
    house.restart()
    assert house.lethe.stats(TENANT)["vectors_searched_in"] == "files"
    forget_id = forget(house)
    view = house.lethe.get_forget(TENANT, forget_id)
    assert view.state == "fenced"
    assert view.error is not None and "LETHE_MILVUS_ADDRESS" in str(view.error["detail"])

    house.settings = house.settings.model_copy(update={"milvus_address": engine.address})
    house.clock.now_us += HOUR_US
    house.restart()
    house.waker.drain()
    assert house.lethe.get_forget(TENANT, forget_id).state == "certified"
    said: Any = house.lethe.get_certificate(TENANT, forget_id)["payload"]
    assert "lists no collection" in str(said["engines"]["milvus"]["assured"])
    collections = house.lethe.indexes.collections
    assert collections is not None and collections.list_names(TENANT) == []


def test_another_index_is_another_collection(engine: Engine, build: Callable[..., House]) -> None:
    house = build(**engine.settings())
    tell_all(house)
    before = collection_of(house).keys().tolist()
    house.settings = house.settings.model_copy(update={"milvus_index": "HNSW"})
    house.restart()
    house.waker.drain()
    assert collection_of(house).keys().tolist() == before
    collections = house.lethe.indexes.collections
    assert collections is not None
    assert collections.list_names(TENANT) == [house.lethe.indexes.name_collection(TENANT)]
    assert house.lethe.stats(TENANT)["vectors_searched_in"] == "milvus"
    assert house.found("ferry 7 pier")[0][1].startswith("Ferry 7 ")


def test_a_set_that_became_small_leaves_the_engine(engine: Engine, build: Callable[..., House]) -> None:
    house = build(**engine.settings())
    tell(house, TEXTS[:5], 1 << 64)
    tell(house, [f"Mara takes ferry {at}." for at in range(30)], 1 << 65, subjects=("person:mara",))
    house.lethe.indexes.save(TENANT)
    collections = house.lethe.indexes.collections
    assert collections is not None and len(collections.list_names(TENANT)) == 1
    said: Any = house.lethe.get_certificate(TENANT, forget(house))["payload"]
    assert "lists no collection" in str(said["engines"]["milvus"]["assured"])
    assert collections.list_names(TENANT) == []
    assert house.lethe.stats(TENANT)["vectors_searched_in"] == "memory"
    assert texts(house) == set(TEXTS[:5])
    tell(house, TEXTS[5:], 1 << 66)
    house.lethe.indexes.save(TENANT)
    assert collection_of(house).keys().tolist() == saved_names(house)


def test_what_the_engine_lost_is_told_and_put_back(engine: Engine, build: Callable[..., House]) -> None:
    """A row that is gone, and one that nobody knows."""
    house = build(**engine.settings())
    tell_all(house)
    names = saved_names(house)
    well = doctor.look_at_vectors(doctor.Visit(house.settings))
    assert well.state == "ok" and "1 collections are whole" in well.detail
    collection_of(house).remove(names[:3])
    ill = doctor.look_at_vectors(doctor.Visit(house.settings))
    assert ill.state == "broken" and f"{len(names) - 3} of {len(names)} rows" in ill.detail
    collection_of(house).put([12345], house.lethe.indexes.get(TENANT).vectors.rows([0]))
    house.lethe.indexes.save(TENANT)
    assert collection_of(house).keys().tolist() == names
    collection_of(house).remove(names)
    house.lethe.rebuild(TENANT)
    house.waker.drain()
    assert collection_of(house).keys().tolist() == saved_names(house)


def test_no_two_tenants_share_a_collection() -> None:
    collections = Collections("http://nowhere")
    tenants = ["a", "a-b", "a_b", "ab", "a_0123456789abcdef", "a-0123456789abcdef"]
    names = [collections.name(tenant, about) for tenant in tenants for about in ("x", "y")]  # type: ignore[arg-type]
    assert len(set(names)) == len(names)
    assert all(name.replace("_", "").isalnum() for name in names)


def test_a_device_finds_what_files_find(build: Callable[..., House]) -> None:
    """Through the path of a CUDA device; that there is one is what this machine may lack."""
    house = build()
    tell_all(house)
    before = house.found("ferry 7 pier")
    house.lethe.indexes.device = "cpu"
    house.lethe.indexes.reopen(TENANT)
    assert house.lethe.stats(TENANT)["vectors_searched_in"] == "cpu"
    assert house.found("ferry 7 pier") == before
    forget(house)
    assert house.lethe.stats(TENANT)["vectors_searched_in"] == "cpu"
    assert not texts(house, "Mara") & set(GOING)


def test_a_device_without_room_leaves_the_codes(
    build: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UnavailableError("no room")

    monkeypatch.setattr("retrieval.torch_vectors.fill", refuse)
    house = build()
    house.lethe.indexes.device = "cpu"
    tell_all(house)
    assert house.lethe.stats(TENANT)["vectors_searched_in"] == "files"
    assert house.found("ferry 7 pier")


def test_what_cannot_be_had_is_refused_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InvalidInputError, match="LETHE_VECTORS: torch sees no CUDA device"):
        find_device(Settings(data=tmp_path, vectors="cuda"))
    with pytest.raises(InvalidInputError, match="LETHE_MILVUS_ADDRESS: say where"):
        find_collections(Settings(data=tmp_path, vectors="milvus"))
    monkeypatch.setattr("service.wiring.find_spec", lambda name: None)
    with pytest.raises(InvalidInputError, match=r"pip install 'lethe\[milvus\]'"):
        find_collections(Settings(data=tmp_path, vectors="milvus", milvus_address="http://x:1"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert find_device(Settings(data=tmp_path, vectors="cuda")) == "cuda"
    assert find_device(Settings(data=tmp_path)) is None
    assert find_collections(Settings(data=tmp_path)) is None


def test_who_does_not_use_milvus_imports_nothing_of_it() -> None:
    code = (
        "import sys, service.wiring, service.doctor\n"
        "assert not {'pymilvus', 'retrieval.milvus_vectors', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
