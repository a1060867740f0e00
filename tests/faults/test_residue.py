"""Residue: after a certified forget, no file under the data folder holds what was forgotten.

The scanner is the test's own. The control shows that it finds everything when content is neither
sealed nor erased.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import zstandard

from api.client import LetheClient
from embedding.encoder import TextEncoder
from memory.errors import ForgottenError, NotFoundError
from memory.tables import keys
from memory.values import EntryId, TenantId
from memory.vault import SealedVault
from service import wiring
from service.views import Scope
from tests.faults.scanner import find_words, list_needles, scan
from tests.faults.stories import (
    CASES,
    EXAMPLES,
    SECRET,
    TENANT,
    Case,
    World,
    html,
    open_world,
    scope_for,
    tell_all,
)
from unlearning.certificate import verify_certificate

KEPT = "marblewick"
ZSTANDARD_MAGIC = b"\x28\xb5\x2f\xfd"


def wrapped_keys(world: World, entry_ids: Sequence[str]) -> dict[bytes, str]:
    """Return the wrapped data keys of entries, which must not stay in the key file either."""
    vault: Any = world.house.lethe.kernel.vault
    names = [f"entry:{entry_id}" for entry_id in entry_ids]
    with vault.database.read() as connection:
        rows = connection.execute(sa.select(keys.c.name, keys.c.wrapped).where(keys.c.name.in_(names)))
        return {row.wrapped[:24]: "wrapped key" for row in rows}


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_nothing_of_it_remains_in_any_file(case: Case, world: World) -> None:
    """Running, stopped and started again: no text, no vector, no key; what was to stay is still found."""
    kept = tell_all(world, {"subjects": ("crew",)}, KEPT, "kept")
    gone = tell_all(world, case.mark, SECRET, "gone")
    needles = list_needles(world.texts_of(gone), world.vectors_of(gone))
    sealed = wrapped_keys(world, [one.entry_id for one in gone])
    assert len(sealed) == len(gone)
    assert scan(world.house.data, sealed), "keys lie in the key file before"
    world.indexes.rewrite(TENANT)
    assert scan(world.house.data, needles), "vectors lie in the segment before"
    world.read([*kept, *gone])
    files = world.house.data / "kv" / TENANT
    assert len(list(files.iterdir())) == len(kept) + len(gone)

    forget_id = world.forget(scope_for(case, gone))

    for stage in (lambda: None, world.house.lethe.stop, world.house.open):
        stage()
        assert not scan(world.house.data, needles | sealed)
        assert not find_words(world.house.data, [SECRET])
        assert {path.name.split(".")[0] for path in files.iterdir()} == {one.entry_id for one in kept}
    assert world.find_read([*kept, *gone]) == {one.entry_id for one in kept}
    document = world.house.lethe.get_certificate(TENANT, forget_id)
    assert verify_certificate(document).valid
    assert document["payload"]["counts"]["entries"] == len(gone)  # type: ignore[index,call-overload]
    found = {text for _, text, _ in world.ranked()}
    assert any(KEPT in text for text in found) and not any(SECRET in text for text in found)
    assert all(world.house.lethe.get_source(TENANT, one.source_id).text for one in kept)


class PlainRing:
    """Seals nothing, and packs nothing either: what is stored is what was said."""

    def seal(self, key_of: str, label: str, plaintext: bytes) -> bytes:
        return zstandard.decompress(plaintext) if plaintext.startswith(ZSTANDARD_MAGIC) else plaintext

    def open(self, key_of: str, label: str, sealed: bytes) -> bytes:
        return sealed if label.startswith("header:") else zstandard.compress(sealed)


class PlainVault(SealedVault):
    """A vault that leaves content as it is."""

    def opener(self, tenant_id: TenantId, entry_ids: Iterable[EntryId]) -> PlainRing:
        return PlainRing()


def test_the_scan_finds_what_is_neither_sealed_nor_erased(
    tmp_path: Path, encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: without vault and erasure, texts, vectors and keys are all found."""
    monkeypatch.setattr(wiring, "SealedVault", PlainVault)
    world = open_world(tmp_path / "data", encoder)
    gone = tell_all(world, {"subjects": ("person:alice",)}, SECRET, "gone")
    world.indexes.rewrite(TENANT)
    world.read(gone)
    vectors = list_needles([], world.vectors_of(gone))
    texts = list_needles(world.texts_of(gone), [])
    for store in world.house.lethe.stores:
        monkeypatch.setattr(store, "erase", lambda tenant_id, ids: 0)
    view = world.house.lethe.forget(TENANT, Scope(subjects=("person:alice",)), preview=False)
    world.house.waker.drain()

    assert world.house.lethe.get_forget(TENANT, view.id).state == "failed"
    assert any(".segment" in place for place in scan(world.house.data, vectors))
    assert any(".kv: utf-8" in place for place in scan(world.house.data, texts))
    assert len({place.partition(" of ")[2] for place in scan(world.house.data, texts)}) > 100
    assert find_words(world.house.data, [SECRET])
    world.close()
    assert scan(world.house.data, texts) and scan(world.house.data, vectors)


@contextmanager
def serving(data: Path, model_folder: Path) -> Iterator[LetheClient]:
    """Run ``lethe serve`` as a process of its own, with its embedded broker and worker."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "LETHE_EMBEDDER": f"hf:{model_folder}",
        "LETHE_READER": "extractive",
        "LETHE_SPEECH": "none",
        "LETHE_TORCH_THREADS": "1",
        "LETHE_MODELS_CACHE": str(data.parent / "models"),
    }
    root = Path(__file__).parents[2]
    log = data.parent / "serve.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", "from api.cli import main; main()", "serve", "--data", str(data), "--port", str(port)],
            env={**os.environ, **settings, "PYTHONPATH": str(root)},
            cwd=data.parent,
            stdout=output,
            stderr=output,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not (data / "admin.key").exists():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        with LetheClient(f"http://127.0.0.1:{port}", (data / "admin.key").read_text().strip()) as client:
            while not client.is_ready():
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield client
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_a_served_folder_keeps_nothing(tmp_path: Path, model_folder: Path, encoder: TextEncoder) -> None:
    """The whole product over HTTP, stopped and started again: nothing in the folder, nothing in the log."""
    data = tmp_path / "data"
    lines = [
        f"The {SECRET} lantern number {n} hangs in room {n} of the tower, says Alice." for n in range(40)
    ]
    text = "\n\n".join(lines)
    messages = [{"role": "user", "content": f"Alice sold the {SECRET} lantern to Bob for ninety crowns."}]
    mark: Any = {"subjects": ["person:alice"], "metadata": {"note": f"about the {SECRET} lantern and Alice"}}
    page = tmp_path / f"{SECRET}.html"
    page.write_text(html(1, SECRET))
    with serving(data, model_folder) as client:
        report = client.remember_document(EXAMPLES / "survey-solbris-BY-2604.pdf", wait=60, **mark)
        gone = [
            report,
            client.remember_document(text, title=f"On the {SECRET} lantern", external_id=f"{SECRET}-1", wait=60, **mark),
            client.remember_document(page, wait=60, **mark),
            client.remember_messages(messages, user_id=f"{SECRET}@example.org", wait=60, **mark),
        ]  # fmt: skip
        kept = client.remember_document(f"The {KEPT} ferry leaves at nine in the morning.", wait=60)
        texts = [
            text,
            messages[0]["content"],
            *(client.get_document(one["id"])["text"] or "" for one in gone),
        ]
        assert len(texts[2]) > 1_000
        needles = list_needles(texts, [encoder.encode([lines[0], messages[0]["content"]], role="passage")])
        assert client.recall(f"{SECRET} lantern")["hits"]
        assert list(client.iter_answer(f"Who sold the {SECRET} lantern?"))

        done = client.forget({"subjects": ["person:alice"]}, wait=120)

        assert done["state"] == "certified"
        assert done["counts"]["entries"] == len(gone)
        assert not scan(data, needles) and not find_words(data, [SECRET])
        for one in gone:
            with pytest.raises((ForgottenError, NotFoundError)):
                client.get_document(one["id"])
        assert not any(SECRET in hit["text"] for hit in client.recall(f"{SECRET} lantern")["hits"])
        assert client.get_document(kept["id"])["text"]
        certificate = client.get_certificate(done["id"])
    assert not scan(data, needles) and not find_words(data, [SECRET])
    assert verify_certificate(certificate).valid
    with serving(data, model_folder) as client:
        assert not scan(data, needles) and not find_words(data, [SECRET])
        assert client.recall(f"{KEPT} ferry")["hits"][0]["source_id"] == kept["id"]
    page.unlink()
    assert not find_words(tmp_path, [SECRET]), "neither the log nor anything beside the data folder has it"
