"""``lethe backup`` and ``lethe restore`` as a person uses them, on a real data folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from api.cli import app
from embedding.encoder import TextEncoder
from service.views import Scope
from tests.service.harness import TENANT, House
from tests.tiny import build_tiny_encoder


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "300"})
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    return TextEncoder(build_tiny_encoder(tmp_path_factory.mktemp("model")), name="tiny")


def test_the_drill(tmp_path: Path, encoder: TextEncoder) -> None:
    """Backed up while served, one forgotten since, all but the keys lost, checked, restored."""
    data, file = tmp_path / "data", tmp_path / "journal.lethe"
    house = House(data, encoder)
    house.remember("The river tower of glass was built in winter.")
    house.remember("Alice hid a letter in the harbour.", subjects=("alice",))
    run("backup", file, "--data", data)
    house.lethe.forget(TENANT, Scope(subjects=("alice",)), preview=False)
    house.waker.drain()
    run("restore", file, "--data", data, code=1)  # its journal is not empty
    house.close()
    for path in data.iterdir():
        if path.name not in ("keys.db", "root.key"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    said = run("restore", file, "--data", data, "--check").output
    assert "1 entries come back; 1 were forgotten since" in said
    assert not (data / "lethe.db").exists(), "a check writes nothing"
    run("restore", file, "--data", data)

    house.open()
    house.waker.drain()
    assert [text for _, text, _ in house.found("tower")] == ["The river tower of glass was built in winter."]
    house.close()


def test_refusals_say_what_to_do(tmp_path: Path, encoder: TextEncoder) -> None:
    data, file = tmp_path / "data", tmp_path / "journal.lethe"
    assert "no data database" in run("backup", file, "--data", data, code=1).stderr
    assert not data.exists()
    House(data, encoder).close()
    assert "does not belong" in run("backup", data / "b", "--data", data, code=1).stderr
    run("backup", file, "--data", data)
    assert "is there already" in run("backup", file, "--data", data, code=1).stderr
    elsewhere = tmp_path / "elsewhere"
    assert "root key" in run("restore", file, "--data", elsewhere, code=1).stderr
    assert not (elsewhere / "root.key").exists(), "a restore makes no keys"
    file.write_text("not a backup")
    assert "not a backup of Lethe" in run("restore", file, "--data", data, code=1).stderr
