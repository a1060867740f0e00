"""Backup and restore: what survives is answerable again, what was forgotten stays gone, alone it tells nothing."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import orjson
import pytest
import sqlalchemy as sa
import zstandard

from embedding.encoder import TextEncoder
from memory.database import connect
from memory.digest import digest_content
from memory.errors import ConflictError, CorruptionError, ForgottenError, InvalidInputError, NotFoundError
from memory.tables import api_keys, artifacts, certificates, denied, entries, keys, metadata, tenants
from memory.values import CUES_MEDIA_TYPE, Attributes, Content, EntryId, Part, SourceId
from memory.vault import SealedVault
from service.backup import MAGIC, Survey, open_backup, restore, survey, write_backup
from service.stream_events import Mark
from service.views import Scope
from service.wiring import build_kernel, open_vault
from tests.service.harness import TENANT, House
from tests.tiny import WORDS
from unlearning.certificate import verify_certificate
from unlearning.probes import build_needles, scan_files

SECRET = "Alice hid the winter letter under the glass stone of the harbour garden tower by the river."
KEPT = "The river tower of glass was built in winter."
KEY_FILES = ("keys.db", "root.key")


def tell(house: House) -> dict[str, str]:
    """Remember a dozen texts, the secret among them; return source ids by entry id."""
    sources = {}
    for number in range(12):
        house.clock.now_us += 1_000_000
        entry_id = f"{number:032x}".replace("0", "e", 1)
        text = f"{WORDS[number + 5]} {KEPT} {number}"
        sources[entry_id] = house.remember(
            text, entry_id, external_id=f"d{number}", subjects=(f"s{number % 3}",)
        )
    house.clock.now_us += 1_000_000
    return sources


def back_up(house: House, path: Path) -> dict[str, int]:
    kernel = house.lethe.kernel
    assert isinstance(kernel.vault, SealedVault)
    return write_backup(kernel.database, kernel.vault, path, clock=kernel.clock, version="9.9")


def lose(house: House) -> None:
    """Lose all but the keys: the data database, the index, the broker's queue."""
    house.lethe.stop()
    for path in house.data.iterdir():
        if path.name not in KEY_FILES:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    database = connect(house.settings.resolved_database_url)
    if database.is_shared:
        metadata.drop_all(database.engine)
        with database.write() as connection:
            connection.execute(sa.text("DROP TABLE alembic_version"))
    database.close()


def bring_back(house: House, path: Path, **how: bool) -> Survey:
    """Restore as the command line does."""
    kernel = build_kernel(house.settings, clock=house.clock, new_id=house.ids)
    assert isinstance(kernel.vault, SealedVault)
    try:
        backup = open_backup(path)
        found = survey(backup, kernel.vault)
        restore(kernel, backup, found, **how)
    finally:
        kernel.database.close()
        kernel.vault.close()
    return found


def certify(house: House, scope: Scope) -> str:
    view = house.lethe.forget(TENANT, scope, preview=False)
    house.waker.drain()
    assert house.lethe.get_forget(TENANT, view.id).state == "certified"
    return view.id


def open_all(backup_file: Path, vault: SealedVault, into: Path) -> int:
    """Write out everything in a backup that opens with these keys, and the file's own bytes, unpacked."""
    into.mkdir()
    (into / "raw").write_bytes(backup_file.read_bytes())
    raw = backup_file.read_bytes()[len(MAGIC) : -32]
    (into / "unpacked").write_bytes(zstandard.ZstdDecompressor().decompressobj().decompress(raw))
    opened = 0
    for name, row in open_backup(backup_file).iter_rows():
        if name != "entries":
            continue
        opener = vault.opener(TENANT, [row["id"]])
        try:
            header = opener.open(row["id"], f"header:{row['id']}", row["header"])
            body = zstandard.decompress(opener.open(row["id"], f"body:{row['id']}", row["body"]))
        except ForgottenError:
            continue
        (into / row["id"]).write_bytes(header + b"\n" + body)
        opened += 1
    return opened


def test_a_restore_brings_back_all_but_what_was_forgotten_since(
    tmp_path: Path, house: House, encoder: TextEncoder
) -> None:
    """The whole drill, against a twin over the same keys that never knew the secret."""
    file = tmp_path / "journal.lethe"
    sources = tell(house)
    secret = house.remember(SECRET, "f" * 32, external_id="secret", subjects=("alice",))
    assert back_up(house, file)["entries"] == 13
    vault = open_vault(house.settings)
    needles = build_needles([SECRET])
    assert open_all(file, vault, tmp_path / "before") == 13
    assert not scan_files(tmp_path / "before", needles).clean, "the control: with its key it can be read"

    certify(house, Scope(subjects=("alice",)))
    twin_digest = digest_content(house.lethe.forgetting.derived, TENANT)
    never_knew = {text for _, text, _ in house.found("winter letter", limit=50)}
    lose(house)
    found = bring_back(house, file)

    assert (found.entries, found.restored, found.newer) == (13, 12, 0)
    house.open()
    house.waker.drain()
    assert {text for _, text, _ in house.found("winter letter", limit=50)} == never_knew
    assert all(house.lethe.get_source(TENANT, SourceId(source_id)).text for source_id in sources.values())
    with pytest.raises((ForgottenError, NotFoundError)):
        house.lethe.get_source(TENANT, SourceId(secret))
    assert digest_content(house.lethe.forgetting.derived, TENANT) == twin_digest
    assert scan_files(house.data, needles).clean

    assert open_all(file, vault, tmp_path / "after") == 12
    assert scan_files(tmp_path / "after", needles).clean, "no key in the store opens it any more"
    vault.close()


def test_the_restored_equals_a_world_that_never_knew(tmp_path: Path, encoder: TextEncoder) -> None:
    """The twin has the same tenant key, never heard the secret, and ends with the same derived content."""
    knowing, twin = House(tmp_path / "knowing", encoder), House(tmp_path / "twin", encoder)
    key = b"k" * 32
    for house in (knowing, twin):
        vault = house.lethe.kernel.vault
        assert isinstance(vault, SealedVault)
        with vault.database.write() as connection:
            connection.execute(keys.delete().where(keys.c.name == f"tenant:{TENANT}"))
        vault.adopt_tenant_key(TENANT, key)
        tell(house)
    knowing.remember(SECRET, "f" * 32, subjects=("alice",))
    file = tmp_path / "journal.lethe"
    back_up(knowing, file)
    certify(knowing, Scope(subjects=("alice",)))
    lose(knowing)
    bring_back(knowing, file)
    knowing.open()
    knowing.waker.drain()
    for house in (knowing, twin):  # the segment is written at compaction, whenever that comes
        house.lethe.indexes.rewrite(TENANT)
    try:
        for stores in ("derived", "truth"):
            mine = getattr(knowing.lethe.forgetting, stores)
            others = getattr(twin.lethe.forgetting, stores)
            assert digest_content(mine, TENANT) == digest_content(others, TENANT), stores
    finally:
        knowing.close()
        twin.close()


def test_what_was_forgotten_before_the_backup_is_not_in_it(tmp_path: Path, house: House) -> None:
    """Certified or only fenced: neither its rows nor its tombstone's absence can bring it back."""
    tell(house)
    house.remember(SECRET, "f" * 32, subjects=("alice",))
    certify(house, Scope(subjects=("alice",)))
    house.remember("Bob likes winter music in the tower of glass by the harbour.", "b" * 32, user_id="bob")
    house.lethe.forget(TENANT, Scope(user_id="bob"), preview=False)  # fenced; its job has not run

    counts = back_up(house, tmp_path / "b")

    assert (counts["entries"], counts["forgets"], counts["certificates"]) == (12, 2, 1)
    lose(house)
    bring_back(house, tmp_path / "b")
    house.open()
    house.waker.drain()
    with house.lethe.kernel.database.read() as connection:
        assert set(connection.scalars(sa.select(denied.c.entry_id))) == {"f" * 32, "b" * 32}
        assert connection.scalar(sa.select(sa.func.count()).select_from(certificates)) == 2
        documents = list(
            connection.scalars(sa.select(certificates.c.document).order_by(certificates.c.position))
        )
    assert all(verify_certificate(document).valid for document in documents)
    assert documents[1]["payload"]["previous"], "the log goes on from the restored certificate"
    assert isinstance(house.lethe.kernel.vault, SealedVault)
    assert house.lethe.kernel.vault.count_keys(TENANT, [EntryId("b" * 32)]) == 0


def test_a_later_forget_leaves_its_tombstone_and_a_higher_epoch(tmp_path: Path, house: House) -> None:
    tell(house)
    source_id = house.remember(SECRET, "f" * 32, subjects=("alice",))
    back_up(house, tmp_path / "b")
    certify(house, Scope(subjects=("alice",)))
    lose(house)
    bring_back(house, tmp_path / "b")
    house.open()

    with house.lethe.kernel.database.read() as connection:
        assert connection.scalar(sa.select(tenants.c.epoch).where(tenants.c.id == TENANT)) == 1
        assert connection.scalar(sa.select(artifacts.c.name).limit(1)) is None, "nothing derived was in it"
    with pytest.raises(ForgottenError):
        house.lethe.get_source(TENANT, SourceId(source_id))


def test_newer_rows_of_the_control_plane_are_kept(tmp_path: Path, house: House) -> None:
    """Only the journal was lost: later certificates, tombstones and epochs stand as they are."""
    tell(house)
    house.remember(SECRET, "f" * 32, subjects=("alice",))
    certify(house, Scope(external_ids=("d3",)))
    back_up(house, tmp_path / "b")
    later = certify(house, Scope(subjects=("alice",)))
    certificate = house.lethe.get_certificate(TENANT, later)
    epoch = house.lethe.stats(TENANT)["epoch"]
    with house.lethe.kernel.database.write() as connection:
        connection.execute(entries.delete())
        connection.execute(artifacts.delete())
    house.lethe.stop()

    found = bring_back(house, tmp_path / "b")

    assert found.restored == 11
    house.open()
    house.waker.drain()
    assert house.lethe.get_certificate(TENANT, later) == certificate
    assert house.lethe.stats(TENANT)["epoch"] == epoch
    assert house.lethe.stats(TENANT)["entries"] == 11
    with house.lethe.kernel.database.read() as connection:
        assert len(list(connection.execute(sa.select(denied)))) == 2


def test_api_keys_come_back_only_when_asked(tmp_path: Path, house: House) -> None:
    """One revoked after the backup would work again."""
    key = house.lethe.access.issue(TENANT, ["read"], name="reader").key
    tell(house)
    assert back_up(house, tmp_path / "b")["api_keys"] == 2
    for asked, expected in ((False, 0), (True, 2)):
        lose(house)
        bring_back(house, tmp_path / "b", with_api_keys=asked)
        database = connect(house.settings.resolved_database_url)
        with database.read() as connection:
            assert len(list(connection.execute(sa.select(api_keys)))) == expected
        database.close()
    house.open()
    assert house.lethe.authenticate(key).roles == {"read"}


def test_a_service_whose_journal_is_lost_does_not_start_and_keeps_its_keys(
    tmp_path: Path, house: House
) -> None:
    """Starting would take the keys of the lost entries for orphans and destroy what a restore needs."""
    tell(house)
    back_up(house, tmp_path / "b")
    lose(house)
    kernel = build_kernel(house.settings)
    kernel.database.close()
    kernel.vault.close()

    with pytest.raises(CorruptionError, match="lethe restore"):
        house.open()

    house.lethe.kernel.database.close()
    assert bring_back(house, tmp_path / "b").restored == 12
    house.open()


def test_entries_newer_than_the_backup_are_counted(tmp_path: Path, house: House) -> None:
    tell(house)
    back_up(house, tmp_path / "b")
    house.remember("Later the engine was heard at the harbour.")
    lose(house)
    assert bring_back(house, tmp_path / "b").newer == 1
    house.open()


@pytest.fixture
def told(tmp_path: Path, house: House) -> Path:
    tell(house)
    back_up(house, tmp_path / "b")
    return tmp_path / "b"


def test_a_torn_altered_or_foreign_file_is_refused(told: Path, tmp_path: Path) -> None:
    """Wherever it is cut or changed, before anything is written."""
    whole = told.read_bytes()
    assert open_backup(told).lethe_version == "9.9"
    other = tmp_path / "other"
    for at in (len(MAGIC), len(MAGIC) + 40, len(whole) // 2, len(whole) - 33, len(whole) - 1):
        other.write_bytes(whole[:at])
        with pytest.raises(CorruptionError, match="torn or was altered"):
            open_backup(other)
        other.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CorruptionError, match="torn or was altered"):
            open_backup(other)
    other.write_bytes(whole + b"\n")
    with pytest.raises(CorruptionError, match="torn or was altered"):
        open_backup(other)
    for foreign in (b"", b"PK\x03\x04", whole[1:]):
        other.write_bytes(foreign)
        with pytest.raises(InvalidInputError, match="not a backup of Lethe"):
            open_backup(other)


def sign(path: Path, lines: bytes) -> Path:
    content = MAGIC + zstandard.compress(lines)
    path.write_bytes(content + hashlib.sha256(content).digest())
    return path


def test_a_backup_of_a_newer_lethe_is_refused_by_name(told: Path, tmp_path: Path, house: House) -> None:
    raw = told.read_bytes()[len(MAGIC) : -32]
    lines = zstandard.ZstdDecompressor().decompressobj().decompress(raw)
    assert isinstance(house.lethe.kernel.vault, SealedVault)
    vault = house.lethe.kernel.vault
    with pytest.raises(InvalidInputError, match=r"newer Lethe .*format 2"):
        open_backup(sign(tmp_path / "c", lines.replace(b'"format":1', b'"format":2')))
    column = open_backup(sign(tmp_path / "d", lines.replace(b'"content_key"', b'"content_kez"')))
    with pytest.raises(InvalidInputError, match=r"newer Lethe .*entries\.content_kez"):
        survey(column, vault)
    short = open_backup(sign(tmp_path / "e", b"\n".join(lines.splitlines()[:-2]) + b"\n"))
    with pytest.raises(CorruptionError, match="no end"):
        survey(short, vault)
    fewer = lines.splitlines()
    del fewer[-2]
    with pytest.raises(CorruptionError, match="does not hold what it says"):
        survey(open_backup(sign(tmp_path / "f", b"\n".join(fewer) + b"\n")), vault)


def test_a_backup_from_before_a_table_was_there_is_restored(told: Path, tmp_path: Path, house: House) -> None:
    raw = told.read_bytes()[len(MAGIC) : -32]
    lines = zstandard.ZstdDecompressor().decompressobj().decompress(raw).splitlines()
    end = orjson.loads(lines[-1])
    assert end["end"].pop("streams") == 0
    older = [*lines[:-1], orjson.dumps(end)]
    lose(house)

    found = bring_back(house, sign(tmp_path / "older", b"\n".join(older) + b"\n"))

    assert found.restored == 12
    house.open()
    assert isinstance(house.lethe.kernel.vault, SealedVault)
    del end["end"]["entries"]
    silent = sign(tmp_path / "silent", b"\n".join([*lines[:-1], orjson.dumps(end)]) + b"\n")
    with pytest.raises(CorruptionError, match="does not hold what it says"):
        survey(open_backup(silent), house.lethe.kernel.vault)


def test_keys_of_another_installation_are_refused_not_taken_for_forgetting(
    told: Path, tmp_path: Path, encoder: TextEncoder
) -> None:
    other = House(tmp_path / "other", encoder)
    try:
        other.remember(KEPT)
        assert isinstance(other.lethe.kernel.vault, SealedVault)
        with pytest.raises(ConflictError, match="not the one of this backup"):
            survey(open_backup(told), other.lethe.kernel.vault)
    finally:
        other.close()


def test_a_journal_that_holds_entries_is_not_written_over(told: Path, house: House) -> None:
    assert isinstance(house.lethe.kernel.vault, SealedVault)
    backup = open_backup(told)
    found = survey(backup, house.lethe.kernel.vault)
    with pytest.raises(ConflictError, match="not empty"):
        restore(house.lethe.kernel, backup, found)


def test_an_altered_row_stops_the_restore(told: Path, tmp_path: Path, house: House) -> None:
    """Whoever alters a row and the checksum too still has not the key."""
    raw = told.read_bytes()[len(MAGIC) : -32]
    lines = zstandard.ZstdDecompressor().decompressobj().decompress(raw).splitlines()
    first, second = [at for at, line in enumerate(lines) if b'"table":"entries"' in line][:2]
    swapped = [line.partition(b'"body":') for line in (lines[first], lines[second])]
    lines[first] = swapped[0][0] + swapped[0][1] + swapped[1][2]
    altered = open_backup(sign(tmp_path / "a", b"\n".join(lines) + b"\n"))
    assert isinstance(house.lethe.kernel.vault, SealedVault)
    with pytest.raises(CorruptionError, match="were altered"):
        survey(altered, house.lethe.kernel.vault)


def test_a_backup_never_replaces_a_file_and_leaves_no_half_of_one(
    told: Path, tmp_path: Path, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConflictError, match="already"):
        back_up(house, told)

    def fail(*_: object) -> str:
        raise OSError("no space left on device")

    monkeypatch.setattr("service.backup._pack", fail)
    with pytest.raises(OSError, match="no space"):
        back_up(house, tmp_path / "second")
    assert not list(tmp_path.glob("second*"))
    assert told.stat().st_mode & 0o777 == 0o600


def test_a_backup_sees_one_moment(tmp_path: Path, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries that come while it is written are in none of its tables."""
    tell(house)
    from service import backup

    pack = backup._pack
    waiting = ["Bob came to the harbour while it was written."]

    def pack_and_remember(row):  # type: ignore[no-untyped-def]
        if waiting:
            house.remember(waiting.pop())
        return pack(row)

    monkeypatch.setattr(backup, "_pack", pack_and_remember)
    assert back_up(house, tmp_path / "b")["entries"] == 12
    assert house.lethe.stats(TENANT)["entries"] == 13


def test_a_restored_stream_is_told_of_again_with_what_its_watches_match(house: House, tmp_path: Path) -> None:
    file = tmp_path / "journal.lethe"
    streams, events = house.lethe.streams, house.lethe.stream_events
    stream_id = streams.open(TENANT, "text", Attributes())[0].id
    watch = house.lethe.watches.create(TENANT, "glass tower", threshold=1.0, subjects=("s1",))
    for number, text in enumerate(("A letter.", "The tower is of glass.")):
        cues = orjson.dumps([{"start_ms": number, "end_ms": number, "text": text, "speaker": None}])
        part = Attributes(part=Part(stream_id, number, number, number))
        streams.append(TENANT, stream_id, Content("segment", CUES_MEDIA_TYPE, cues, part))
    streams.close(TENANT, stream_id)
    assert events.look(TENANT, stream_id, Mark()).events == (), "none of it is read yet"
    house.waker.drain()
    before = events.look(TENANT, stream_id, Mark())
    assert [event.kind for event in before.events] == ["segment", "segment", "match", "closed"]
    back_up(house, file)

    lose(house)
    bring_back(house, file)
    house.open()
    house.waker.drain()

    events = house.lethe.stream_events
    again = events.look(TENANT, stream_id, Mark())
    assert sorted(map(str, (event.data for event in again.events))) == sorted(
        map(str, (event.data for event in before.events))
    )
    assert house.lethe.watches.get(TENANT, watch.id) == watch
    house.lethe.rebuild(TENANT)
    house.waker.drain()
    assert events.look(TENANT, stream_id, again.after).events[:-1] == (), "told once"
