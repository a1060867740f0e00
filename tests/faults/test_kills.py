"""Real processes killed with -9 at random moments of ingesting, forgetting and rebuilding.

A client goes on saying what was not acknowledged, a supervisor starts again what ended. LETHE_FAULTS=all
kills as often as the release asks for, else a few times.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from embedding.encoder import TextEncoder
from tests.engine.serving import free_port
from tests.faults.installation import Installation
from tests.postgres import serve_own
from tests.served import PATIENCE
from tests.service.harness import TENANT, House
from unlearning.certificate import verify_certificate
from unlearning.forget import find_unowned
from workers.broker import EmbeddedBroker

ALL = os.environ.get("LETHE_FAULTS") == "all"
DOCUMENTS = 12
LATEST_SECONDS = 1.2
WORD = "zquorvex"


class Client:
    """Says everything until it is acknowledged, and knows what was."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.told: dict[str, str] = {}
        self.gone: set[str] = set()
        """Words of what is forgotten."""
        self.forgets: list[str] = []

    def insist(self, path: str, body: object) -> Any:
        late = time.monotonic() + PATIENCE
        while True:
            try:
                return self.installation.door.ask(path, body)
            except HTTPError as error:
                assert error.code in (500, 503), error.read()  # nothing that it said is wrong
            except (OSError, HTTPException):
                pass
            assert time.monotonic() < late, "it never came to be acknowledged"
            self.installation.restore()
            self.check_fence()
            time.sleep(0.05)

    def ingest(self, number: int) -> None:
        """Tell some that stay, some that will be forgotten, and new versions of some told before."""
        texts = {
            f"n{number}-{at}": f"The ferry {number} leaves pier {at} at noon." for at in range(DOCUMENTS)
        }
        again = sorted(name for name in self.told if name.startswith("n"))[-2:]
        texts |= {name: f"The ferry of {name} leaves later, as told in turn {number}." for name in again}
        bodies: list[dict[str, object]] = [{"text": t, "external_id": n} for n, t in texts.items()]
        secret = f"Mara carries {WORD}{number} lanterns to the tower."
        bodies += [{"text": secret, "external_id": f"s{number}", "subjects": [f"person:mara-{number}"]}]
        self.insist("/v1/documents/batch", bodies)
        self.told |= {**texts, f"s{number}": secret}

    def forget(self, number: int) -> None:
        """Forget the oldest of what is to be forgotten."""
        waiting = sorted(int(name[1:]) for name in self.told if name.startswith("s"))
        if not waiting:
            return self.ingest(number)
        oldest = waiting[0]
        scope = {"subjects": [f"person:mara-{oldest}"]}
        reply = self.insist("/v1/forget", {"scope": scope, "mode": "execute"})
        self.forgets.append(reply["id"])
        self.gone.add(f"{WORD}{oldest} ")
        del self.told[f"s{oldest}"]
        return self.check_fence()

    def rebuild(self, _number: int) -> None:
        self.insist("/v1/rebuild", {})

    def check_fence(self) -> None:
        """Nothing that was forgotten is found, whatever just ended."""
        try:
            hits = self.installation.door.ask("/v1/recall", {"query": f"{WORD} lanterns tower", "limit": 50})[
                "hits"
            ]
        except (OSError, HTTPException):
            return  # nobody is there to find anything
        assert not [hit["text"] for hit in hits for word in self.gone if word in hit["text"]]

    def wait(self) -> None:
        """Wait until every job has ended and every request is certified."""
        late = time.monotonic() + PATIENCE * 2
        ask = self.installation.door.ask
        while True:
            stats = ask("/v1/stats")
            states = {ask(f"/v1/forget/{name}")["state"] for name in self.forgets}
            if not stats["jobs"] and states <= {"certified"}:
                return
            assert time.monotonic() < late, (stats["jobs"], states)
            time.sleep(0.1)

    def check(self) -> None:
        """Assert that what was acknowledged is there, word for word, and what was forgotten is gone."""
        self.check_fence()
        ask = self.installation.door.ask
        for name in self.forgets:
            assert verify_certificate(ask(f"/v1/forget/{name}/certificate")).valid
        held = {item["external_id"]: item["id"] for item in self._iter_documents()}
        assert held.keys() == self.told.keys()
        assert {name: ask(f"/v1/documents/{i}")["text"] for name, i in held.items()} == self.told

    def _iter_documents(self) -> Iterator[dict[str, Any]]:
        cursor = ""
        while True:
            page = self.installation.door.ask(f"/v1/documents?limit=100{cursor}")
            yield from page["items"]
            if not page.get("next_cursor"):
                return
            cursor = f"&cursor={page['next_cursor']}"


def play(
    installation: Installation, targets: tuple[str, ...], seed: int, kills: int
) -> dict[str, dict[str, int]]:
    """Kill one target after the other in the midst of something; return how many survived, by target."""
    rng = random.Random(seed)
    client = Client(installation)
    client.ingest(0)
    counts: dict[str, dict[str, int]] = {}
    acts: tuple[Callable[[int], None], ...] = (client.ingest, client.forget, client.rebuild)
    for number in range(1, kills + 1):
        target = targets[number % len(targets)]
        act = acts[number // len(targets) % len(acts)] if ALL else acts[number % 2]
        timer = threading.Timer(rng.uniform(0, LATEST_SECONDS), installation.kill, [target])
        timer.start()
        act(number)
        timer.join()
        told = counts.setdefault(f"kill {target.split()[0]}", {"injected": 0, "survived": 0})
        told["injected"] += 1
        installation.restore()
        client.check_fence()
    client.wait()
    client.check()
    for told in counts.values():
        told["survived"] = told["injected"]
    return counts


@pytest.mark.timeout(3600)
def test_one_process_and_its_broker_killed_hard(
    tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    installation = Installation(tmp_path, ("serve",), {})
    try:
        targets = ("broker", "serve 0", "serve 0") if ALL else ("broker", "serve 0")
        counts = play(installation, targets, seed=3, kills=27 if ALL else 2)
    finally:
        installation.stop()
    house = House(installation.data, TextEncoder(installation.model, name=f"hf:{installation.model}"))
    try:
        assert find_unowned(installation.data, house.lethe.stores) == []
        assert not house.lethe.kernel.jobs.count_open(TENANT)
    finally:
        house.close()
    record_property("faults", {f"sqlite {kind}": told for kind, told in counts.items()})


@pytest.mark.timeout(3600)
def test_engine_api_workers_database_and_broker_killed_hard(
    tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    """Several processes over one database, one broker, one engine and one data folder."""
    broker = EmbeddedBroker(tmp_path / "valkey")
    broker.start()
    with serve_own() as server, server.database() as data, server.database() as keys:
        settings = {
            "LETHE_DATABASE_URL": data,
            "LETHE_KEYS_URL": keys,
            "LETHE_BROKER_URL": broker.url,
            "LETHE_ENGINE_URL": f"http://localhost:{free_port()}",
        }
        installation = Installation(tmp_path, ("engine", "api", "worker", "worker"), settings)
        installation.broker, installation.database = broker, server
        # In the sample no worker: what it held is free only when its lease has run out.
        targets = ("engine 0", "database", "api 1", *(("worker 2", "worker 3", "broker") if ALL else ()))
        try:
            counts = play(installation, targets, seed=4, kills=36 if ALL else len(targets))
        finally:
            installation.stop()
            broker.stop()
    record_property("faults", {f"postgresql {kind}": told for kind, told in counts.items()})
