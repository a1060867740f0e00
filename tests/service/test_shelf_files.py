"""The disk's part of the shelf by itself: nobody who writes waits for room to be made."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from memory.values import ArtifactName, EntryId, TenantId
from service.shelf_files import Kept, SealedFiles
from tests.service.harness import TestClock

KEPT = Kept(TenantId("t"), EntryId("e1"), 0, ArtifactName("a" * 64))


def test_a_file_is_written_while_room_is_made_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who writes holds the fence, so that a forget waits for whom it waits for."""
    files = SealedFiles(tmp_path, 1_000, TestClock(), "b" * 16)
    looking, go_on = threading.Event(), threading.Event()

    def find_none() -> list[TenantId]:
        looking.set()
        assert go_on.wait(10)
        return []

    monkeypatch.setattr(files, "list_tenants", find_none)
    making = threading.Thread(target=files.make_room, daemon=True)
    writing = threading.Thread(target=files.write, args=(KEPT, b"x" * 600), daemon=True)
    try:
        making.start()
        assert looking.wait(10)
        writing.start()
        writing.join(10)
        assert not writing.is_alive()
    finally:
        go_on.set()
    making.join(10)
    assert files.read(KEPT) == b"x" * 600
    assert not files.has_room(300)
    assert files.has_room(200)
