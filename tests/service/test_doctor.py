"""``lethe doctor``: each thing is broken for real, and the doctor names it, and nothing else."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from api.cli import app
from embedding.encoder import TextEncoder
from memory.database import connect
from service import doctor
from service.settings import Settings
from service.views import Scope
from service.wiring import load_root_key
from tests.postgres import Server
from tests.service.harness import TENANT, House
from tests.tiny import build_tiny_encoder
from workers.broker import EmbeddedBroker

HOUR_US = 3_600_000_000


@dataclass
class Patient:
    """A data folder that was used and is not served, with its settings."""

    house: House
    settings: Settings

    @property
    def data(self) -> Path:
        return self.house.data

    def execute(self, statement: str) -> None:
        """Change the database behind the service's back."""
        with sqlite3.connect(self.data / "lethe.db") as connection:
            assert connection.execute(statement).rowcount
        connection.close()

    def ails(self) -> dict[str, tuple[str, str]]:
        """Return state and words of everything that is not well."""
        found = doctor.examine(self.settings)
        assert [one.check for one in found] == list(doctor.CHECKS)
        return {
            one.check: (one.finding.state, f"{one.finding.detail}; {one.finding.advice}")
            for one in found
            if one.finding.state != "ok"
        }


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_encoder(tmp_path_factory.mktemp("doctor"))


@pytest.fixture
def patient(tmp_path: Path, encoder: TextEncoder, model: Path) -> Patient:
    house = House(tmp_path / "data", encoder)
    house.clock.now_us = time.time_ns() // 1_000 - HOUR_US
    house.remember("Alice came to the river tower.", subjects=("alice",))
    house.lethe.forget(TENANT, Scope(subjects=("alice",)), preview=False)
    house.waker.drain()
    house.remember("Bob likes the harbour.")
    house.close()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = Settings(
        data=house.data, port=port, reader="extractive", embedder=f"hf:{model}", models_cache=tmp_path / "m"
    )
    return Patient(house, settings)


def test_a_healthy_installation_is_told_so(patient: Patient) -> None:
    """Stopped and running; and looking changes nothing."""
    before = sorted(patient.data.rglob("*"))
    assert patient.ails() == {}
    assert sorted(patient.data.rglob("*")) == before
    patient.house.open()
    assert patient.ails() == {}
    patient.house.close()


def replace_folder(patient: Patient) -> None:
    shutil.rmtree(patient.data)
    patient.data.write_text("a file")


def open_root_key(patient: Patient) -> None:
    (patient.data / "root.key").chmod(0o640)


def change_root_key(patient: Patient) -> None:
    (patient.data / "root.key").write_bytes(os.urandom(32))


def cut_root_key(patient: Patient) -> None:
    (patient.data / "root.key").write_bytes(b"short")


def lose_keys(patient: Patient) -> None:
    (patient.data / "keys.db").unlink()


def lose_journal(patient: Patient) -> None:
    patient.execute("DELETE FROM tenants")


def age_schema(patient: Patient) -> None:
    patient.execute("UPDATE alembic_version SET version_num = '0000'")


def spoil_database(patient: Patient) -> None:
    (patient.data / "lethe.db").write_bytes(os.urandom(8192))


def stray_file(patient: Patient) -> None:
    (patient.data / "index" / "notes").mkdir(parents=True)
    (patient.data / "dump.sql").write_text("left behind")


def lose_model(patient: Patient) -> None:
    patient.settings = patient.settings.model_copy(update={"embedder": "all-minilm-l6-v2"})


def lose_reader(patient: Patient) -> None:
    patient.settings = patient.settings.model_copy(update={"reader": "qwen2.5-coder-0.5b-instruct"})


def lose_reader_server(patient: Patient) -> None:
    given = {"reader": "openai", "reader_url": "http://127.0.0.1:1"}
    patient.settings = patient.settings.model_copy(update=given)


def lose_broker(patient: Patient) -> None:
    patient.settings = patient.settings.model_copy(update={"broker_url": "redis://:secret@127.0.0.1:1/0"})


def kill_worker(patient: Patient) -> None:
    patient.execute("UPDATE jobs SET status = 'running', lease_until_us = 1 WHERE kind = 'fold'")


def fail_job(patient: Patient) -> None:
    patient.execute("UPDATE jobs SET status = 'failed' WHERE kind = 'ingest'")


def delay_certificate(patient: Patient) -> None:
    patient.execute("UPDATE forgets SET state = 'erasing'")


def fail_forget(patient: Patient) -> None:
    patient.execute(f"UPDATE forgets SET state = 'failed', fenced_us = {time.time_ns() // 1000}")


def turn_clock_back(patient: Patient) -> None:
    patient.execute(f"UPDATE jobs SET created_us = {time.time_ns() // 1000 + HOUR_US}")


CASES: dict[Callable[[Patient], None], tuple[str, str, str]] = {
    open_root_key: ("keys", "broken", "chmod 600"),
    change_root_key: ("keys", "broken", "wrong root key"),
    cut_root_key: ("keys", "broken", "should hold 32 bytes"),
    lose_keys: ("keys", "broken", "no keys database"),
    lose_journal: ("keys", "broken", "lethe restore"),
    stray_file: ("files", "broken", "dump.sql"),
    lose_model: ("models", "broken", "lethe models get all-minilm-l6-v2"),
    lose_reader: ("models", "warning", "answers are extractive"),
    lose_reader_server: ("reader", "warning", "mend LETHE_READER_URL; till then extractive reads alone"),
    lose_broker: ("broker", "broken", "LETHE_BROKER_URL"),
    kill_worker: ("leases", "warning", "start a worker"),
    fail_job: ("jobs", "warning", " ingest"),
    delay_certificate: ("forgets", "broken", "1 erasing"),
    fail_forget: ("forgets", "broken", "1 failed"),
    turn_clock_back: ("clock", "broken", "NTP"),
}


@pytest.mark.parametrize("break_it", CASES, ids=lambda break_it: break_it.__name__)
def test_what_is_broken_is_named(patient: Patient, break_it: Callable[[Patient], None]) -> None:
    check, state, said = CASES[break_it]
    break_it(patient)
    ails = patient.ails()
    assert set(ails) == {check}
    assert ails[check][0] == state
    assert said in ails[check][1]
    assert "secret" not in str(ails), "no password is shown"


@pytest.mark.parametrize(
    ("break_it", "said"),
    [(replace_folder, "is no folder"), (age_schema, "lethe db upgrade"), (spoil_database, "does not answer")],
    ids=["folder", "revision", "spoilt"],
)
def test_other_checks_go_on_when_the_database_is_gone(
    patient: Patient, break_it: Callable[[Patient], None], said: str
) -> None:
    break_it(patient)
    ails = patient.ails()
    assert said in str(ails)
    assert not {"models", "port", "broker"} & set(ails)


def test_a_full_disk_a_taken_port_and_a_folder_that_cannot_be_written(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 1 << 60)
    with socket.socket() as rival:
        rival.bind(("127.0.0.1", patient.settings.port))
        rival.listen()
        ails = patient.ails()
        assert set(ails) == {"disk space", "port"}
        assert "--port" in ails["port"][1]

    def refuse(*_: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)  # root writes wherever the medium lets it
    assert "cannot be written: Read-only" in doctor.look_at_folder(doctor.Visit(patient.settings)).detail


def test_a_damaged_model_is_named(patient: Patient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from memory.errors import DigestMismatchError

    def fail(self: Any, name: str) -> None:
        raise DigestMismatchError("model.safetensors", "a", "b")

    monkeypatch.setattr("embedding.models.ModelStore.find", lambda self, name: tmp_path)
    monkeypatch.setattr("embedding.models.ModelStore.verify", fail)
    lose_model(patient)
    assert "expected sha256" in patient.ails()["models"][1]


def test_a_broker_that_answers_is_well(patient: Patient, tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path / "broker")
    broker.start()
    try:
        patient.settings = patient.settings.model_copy(update={"broker_url": broker.url})
        assert patient.ails() == {}
    finally:
        broker.stop()


def test_the_doctor_knows_every_store(patient: Patient) -> None:
    patient.house.open()
    assert set(doctor.OWNERS) == {type(store) for store in patient.house.lethe.stores}
    patient.house.close()


def test_the_command_exits_with_1_and_prints_json(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("embedder", "reader", "port", "models_cache"):
        monkeypatch.setenv(f"LETHE_{name.upper()}", str(getattr(patient.settings, name)))
    command = ["doctor", "--data", str(patient.data)]
    well = CliRunner().invoke(app, [*command, "--json"])
    assert (well.exit_code, json.loads(well.stdout)["healthy"]) == (0, True), well.stdout
    stray_file(patient)
    told = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert told.exit_code == 1
    assert "dump.sql" in told.stdout
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert [one["check"] for one in found["checks"] if one["state"] == "broken"] == ["files"]


def test_a_server_that_does_not_wait_for_its_disk(postgres: Server, tmp_path: Path) -> None:
    """The tests' own server is told not to, for speed; one that is given may be in order."""
    with postgres.database("data") as data, postgres.database("keys") as keys:
        settings = Settings(data=tmp_path, database_url=data, keys_url=keys)
        load_root_key(tmp_path / "root.key")
        (found,) = [one.finding for one in doctor.examine(settings) if one.check == "database"]
        with connect(data).read() as connection:
            waits = connection.scalar(sa.text("SHOW fsync")) == "on"
        assert found.state == ("ok" if waits else "warning")
        assert waits or "power cut" in found.detail
