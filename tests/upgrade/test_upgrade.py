"""Each kept data folder is opened by today's code, as a user would who only installed the new release."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import sqlalchemy as sa

from embedding.encoder import TextEncoder
from memory.sqlite import SqliteDatabase
from memory.tables import forgets
from tests.served import serve
from tests.service.harness import House
from tests.tiny import build_tiny_encoder
from tests.upgrade.story import GOING, GONE, check
from unlearning.forget import find_unowned

KEPT = sorted(Path(__file__).parent.glob("*.tar.gz"))


def test_there_are_kept_folders() -> None:
    assert KEPT


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.name.partition(".")[0])
def test_a_folder_of_an_earlier_release_is_opened_and_nothing_is_lost(kept: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with tarfile.open(kept) as archive:
        archive.extractall(data, filter="data")
    model = build_tiny_encoder(tmp_path / "model")
    database = SqliteDatabase(f"sqlite:///{data}/lethe.db")
    with database.engine.connect() as connection:
        requests = list(connection.scalars(sa.select(forgets.c.id)))
        states = set(connection.scalars(sa.select(forgets.c.state)))
    database.close()
    assert len(requests) == 2 and states > {"certified"}, "it was left in the midst of forgetting"

    for turn in range(2):
        with serve(data, model, tmp_path / f"log-{turn}") as served:
            check(served, requests)
    house = House(data, TextEncoder(model, name=f"hf:{model}"))
    try:
        assert find_unowned(data, house.lethe.stores) == []
    finally:
        house.close()
    for path in data.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert GONE.encode() not in content and GOING.encode() not in content, path
