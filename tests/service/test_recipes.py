"""What hears speech names recordings and captions alone: another model hears them again, and no text changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from embedding.encoder import TextEncoder
from memory.ledger import Recipe
from memory.ports import Samples
from memory.tables import artifacts, jobs
from memory.telling import Told, unheard
from memory.values import Attributes, Content, Transcript, Utterance
from service.cards import Card
from service.ingest import Recipes
from service.views import Scope
from tests.service.harness import TENANT, House
from tests.sources.moving import make_media

CAPTIONS = b"WEBVTT\n\n00:01.000 --> 00:04.000\nThe ferry leaves at nine.\n"


class Hearer:
    """Hears the same words in any recording, and counts how often."""

    def __init__(self, name: str, words: str) -> None:
        self.name, self.digest, self.words, self.count = name, name * 8, words, 0

    def transcribe(
        self, samples: Samples, *, language: str | None = None, told: Told = unheard
    ) -> Transcript:
        self.count += 1
        return Transcript((Utterance(100, 900, self.words),), "en")

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def hearers(monkeypatch: pytest.MonkeyPatch) -> list[Hearer]:
    """The last of them is what hears in a house that is opened."""
    found = [Hearer("first", "A storm is coming from the west.")]
    monkeypatch.setattr("service.wiring.make_speech", lambda *_: found[-1])
    return found


@pytest.fixture
def home(tmp_path: Path, encoder: TextEncoder, hearers: list[Hearer]) -> Iterator[House]:
    opened = House(tmp_path / "data", encoder, guarded=True)
    yield opened
    opened.close()


def remember(home: House) -> None:
    home.ids.given = [f"{number:032x}" for number in (0xA, 0xB, 0xC)]
    home.lethe.remember(
        TENANT,
        [
            Content("document", "text/plain", b"The lighthouse was lit in 1790.", Attributes(title="Note")),
            Content("document", "text/vtt", CAPTIONS, Attributes(title="Captions")),
            Content("document", "audio/wav", make_media("wav", seconds=1.0), Attributes(title="Sound")),
        ],
    )
    home.waker.drain()


def list_made(home: House) -> dict[str, set[str]]:
    """Return the names of artifacts by the title of their entry."""
    titles = {card.row.id: card.title for card in home.lethe.indexes.get(TENANT).state.cards}
    made: dict[str, set[str]] = {str(title): set() for title in titles.values()}
    with home.lethe.kernel.database.read() as connection:
        rows = connection.execute(sa.select(artifacts.c.name, artifacts.c.sealed_under))
        for name, under in rows:
            if under:
                made[str(titles[under])].add(name)
    return made


def texts(home: House, query: str) -> set[str]:
    return {hit.text for hit in home.lethe.recall(TENANT, query, limit=20).hits}


def test_recipes_name_what_hears_for_recordings_alone(encoder: TextEncoder) -> None:
    plain, heard = Recipes.of(encoder), Recipes.of(encoder, Hearer("first", ""))
    assert plain.parse == heard.parse == Recipe("parse", 2)
    assert heard.timed.parameters == {"speech": "first", "speech_digest": "first" * 8}
    assert plain.timed.digest != heard.timed.digest
    assert plain.vectors == heard.vectors


def test_another_model_hears_recordings_again_and_texts_stay(home: House, hearers: list[Hearer]) -> None:
    remember(home)
    before, said = list_made(home), texts(home, "storm lighthouse ferry")
    assert all(len(names) == 3 for names in before.values())
    assert "A storm is coming from the west." in said and len(said) == 3
    home.lethe.indexes.save(TENANT)  # saved files must not hide what is to be made again

    hearers.append(Hearer("second", "A swarm is humming from the vest."))
    home.restart()
    assert texts(home, "storm lighthouse ferry swarm") == {"The lighthouse was lit in 1790."}
    home.waker.drain()

    after = list_made(home)
    assert after["Note"] == before["Note"]
    assert not after["Sound"] & before["Sound"] and len(after["Sound"]) == 3
    assert texts(home, "storm lighthouse ferry swarm") == said - {"A storm is coming from the west."} | {
        "A swarm is humming from the vest."
    }
    assert (hearers[0].count, hearers[1].count) == (1, 1)


def test_nothing_is_made_again_while_nothing_changes(home: House, hearers: list[Hearer]) -> None:
    remember(home)
    home.lethe.indexes.save(TENANT)
    home.restart()
    home.waker.drain()
    with home.lethe.kernel.database.read() as connection:
        assert "rebuild" not in set(connection.scalars(sa.select(jobs.c.kind)))
    assert hearers[0].count == 1


def test_rebuilding_once_more_changes_nothing(home: House, hearers: list[Hearer]) -> None:
    """What an earlier model had heard is gone, and so is all that was made of it."""
    remember(home)
    hearers.append(Hearer("second", "A swarm is humming from the vest."))
    home.restart()
    home.waker.drain()
    digest = home.digest()
    home.lethe.rebuild(TENANT)
    home.waker.drain()
    assert home.digest() == digest


def test_captions_of_an_earlier_release_are_derived_again_and_know_their_times(home: House) -> None:
    """They were parsed by the recipe of texts, which knew no times."""
    recipes = home.lethe.indexes.recipes
    object.__setattr__(home.lethe.indexes, "recipes", Recipes(**{**_fields(recipes), "timed": recipes.parse}))
    remember(home)
    earlier = list_made(home)
    home.lethe.indexes.save(TENANT)
    home.restart()
    home.waker.drain()
    after = list_made(home)
    assert after["Note"] == earlier["Note"] and not after["Captions"] & earlier["Captions"]
    found = home.lethe.recaller.load_parsed(TENANT, [card.row.id for card in _cards(home)])
    assert sum(bool(parsed.times) for parsed in found.values()) == 2


def _fields(recipes: Recipes) -> dict[str, Recipe]:
    return {name: getattr(recipes, name) for name in recipes.__dataclass_fields__}


def _cards(home: House) -> list[Card]:
    return list(home.lethe.indexes.get(TENANT).state.cards)


def test_forgetting_takes_recordings_and_captions_with_it(home: House) -> None:
    remember(home)
    ids = tuple(card.row.source_id for card in _cards(home) if card.timed)
    assert len(ids) == 2
    home.lethe.forget(TENANT, Scope(ids=ids), preview=False)
    home.waker.drain()
    assert set(list_made(home)) == {"Note"}
    assert texts(home, "storm lighthouse ferry") == {"The lighthouse was lit in 1790."}
