"""A scan finds every planted needle, wherever it lies, and nothing that is not there."""

from __future__ import annotations

import base64
import json
import os
import socket
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from memory.canonical import canonical_json
from memory.errors import NotFoundError
from unlearning import probes
from unlearning.probes import Needle, Needles, Searcher, build_needles, scan_files

SECRET = "Ann Thornbury moved the “blue” ledger\tto Zürich on the 3rd of May"
FORMS = {
    "utf-8": SECRET.encode(),
    "utf-16-le": SECRET.encode("utf-16-le"),
    "utf-16-be": SECRET.encode("utf-16-be"),
    "json": json.dumps({"a": SECRET}).encode(),
    "json ": json.dumps({"a": SECRET}, ensure_ascii=False).encode(),
    "base64": base64.b64encode(SECRET.encode()),
    "base64 1": base64.b64encode(b"." + SECRET.encode() + b"!"),
    "base64 2": base64.b64encode(b".." + SECRET.encode() + b"!!!!"),
}
WORDS = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=9)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(probes, "CHUNK_BYTES", 1_000)
    return 1_000


def scan_bytes(data: bytes, needles: Needles) -> probes.ScanReport:
    with TemporaryDirectory() as folder:
        (Path(folder) / "file").write_bytes(data)
        return scan_files(Path(folder), needles)


@pytest.mark.parametrize("form", FORMS)
def test_each_encoding_is_found_wherever_chunks_end(form: str, small_chunks: int) -> None:
    needles = build_needles([SECRET])
    planted = FORMS[form]
    for shift in range(-len(planted) - 8, 16):
        start = 2 * small_chunks + shift
        report = scan_bytes(b"\x01" * start + planted + b"\x01" * 700, needles)
        hits = [finding for finding in report.found if finding.encoding == form.split()[0]]
        assert len(hits) == 1
        assert start <= hits[0].offset <= start + 8
        # Every needle once: the overlap of chunks counts none twice.
        once = {needle for needle in needles.items if needle.data in planted}
        assert sum(finding.count for finding in report.found) == len(once)


@given(st.binary(min_size=3, max_size=8), st.binary(max_size=5))
def test_base64_is_found_whatever_stands_around_it(before: bytes, after: bytes) -> None:
    """One shingle only: each of the three alignments must carry by itself."""
    text = "alpha beta gamma delta epsilon zeta eta theta"
    coded = base64.b64encode(before + text.encode() + after)
    assert Searcher(build_needles([text]).items).found_in(coded)


def test_a_fragment_of_eight_tokens_is_found() -> None:
    needles = build_needles([" ".join(f"word{number}" for number in range(100))])
    fragment = " ".join(f"word{number}" for number in range(41, 49))
    assert scan_bytes(fragment.encode(), needles).found
    assert not scan_bytes(fragment.rpartition(" ")[0].encode(), needles).found


def test_white_space_may_have_been_made_one() -> None:
    needles = build_needles(["one\n\ntwo  three\tfour five six seven eight"])
    assert scan_bytes(b"one two three four five six seven eight", needles).found
    assert scan_bytes(b"one\n\ntwo  three\tfour five six seven eight", needles).found


def test_scripts_without_spaces_are_cut_into_shingles() -> None:
    text = "彼女は五月三日に青い台帳をチューリッヒへ移し、それから誰にも話さなかった。"
    assert scan_bytes(text[5:25].encode(), build_needles([text])).found


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", False),
        ("  \n", False),
        ("the cat", False),
        ("Introduction", False),
        ("Ann Thornbury", True),
        ("ann@example.org", True),
        ("ABCDEF-123456", True),
        ("こんにちは世界", True),
    ],
)
def test_short_texts_are_kept_when_distinctive_and_else_counted(text: str, kept: bool) -> None:
    needles = build_needles([text])
    assert bool(needles.items) is kept
    assert needles.too_short == (0 if kept or not text.strip() else 1)


@pytest.mark.parametrize("kind", ["float32", "float16"])
@pytest.mark.parametrize("shift", range(9))
def test_vectors_are_found_at_any_alignment(kind: str, shift: int) -> None:
    rows = np.random.default_rng(1).standard_normal((3, 48)).astype(np.float32)
    report = scan_bytes(b"x" * shift + rows[1].astype(kind).tobytes(), build_needles([], [rows]))
    assert [(finding.encoding, finding.offset) for finding in report.found] == [(kind, shift)]


def test_a_vector_that_begins_with_zeros_is_looked_for_where_it_does_not() -> None:
    rows = np.zeros((2, 64), dtype=np.float32)
    rows[0, 40:] = np.random.default_rng(1).standard_normal(24)
    needles = build_needles([], [rows])
    assert needles.too_short == 2
    assert scan_bytes(rows[0].tobytes(), needles).found
    assert not scan_bytes(bytes(4_096), needles).found


def test_what_survives_elsewhere_is_no_residue() -> None:
    shared = "everyone who came to the office that day signed the book"
    rows = np.random.default_rng(1).standard_normal((2, 48)).astype(np.float32)
    needles = build_needles([shared, SECRET], [rows])
    left = needles.exclude(["First,\n" + shared.replace(" ", "\n") + ", as they do."], [rows[:1]])
    assert left.excluded == len(needles.items) - len(left.items) > 0
    everything = canonical_json({"text": shared}) + shared.encode("utf-16-le") + rows[0].tobytes()
    assert not scan_bytes(everything + base64.b64encode(shared.encode()), left).found
    assert scan_bytes(SECRET.encode(), left).found
    assert scan_bytes(rows[1].tobytes(), left).found
    assert scan_bytes(everything, left).excluded == left.excluded


def test_base64_of_a_text_that_differs_in_its_last_letter_is_no_residue() -> None:
    """Base64 needles lack the last bits; where a surviving text holds them, they cannot tell."""
    needles = build_needles(["alpha beta gamma delta epsilon zeta eta theta!"])
    survivor = "alpha beta gamma delta epsilon zeta eta theta#"
    coded = b"".join(base64.b64encode(bytes(before) + survivor.encode()) for before in range(3))
    assert scan_bytes(coded, needles).found
    assert not scan_bytes(coded, needles.exclude([survivor])).found


def test_exclusion_reaches_across_blocks(small_chunks: int) -> None:
    needles = build_needles([SECRET])
    fillers = ["lorem ipsum " * 60 for _ in range(5)]
    assert needles.exclude(fillers).excluded == 0
    left = needles.exclude([*fillers, "x" * 985 + SECRET])
    assert {needle.encoding for needle in left.items} <= {"base64"}


@given(st.lists(WORDS, min_size=8, max_size=20), st.binary(max_size=40), st.sampled_from(sorted(FORMS)))
@settings(max_examples=60)
def test_planted_random_text_is_always_found(words: list[str], before: bytes, form: str) -> None:
    text = " ".join(words)
    needles = build_needles([text])
    planted = {
        "json": json.dumps(text).encode(),
        "json ": canonical_json(text),
        "base64": base64.b64encode(text.encode()),
        "base64 1": base64.b64encode(b"a" + text.encode()),
        "base64 2": base64.b64encode(b"ab" + text.encode()),
    }.get(form) or text.encode(form)
    if any(len(needle.data) >= 11 for needle in needles.items):
        found = Searcher(needles.items).found_in(before + planted + b"tail")
        expected = {i for i, needle in enumerate(needles.items) if needle.data in before + planted + b"tail"}
        assert found == expected
        assert expected


@given(
    st.binary(max_size=300), st.lists(st.binary(min_size=11, max_size=40), max_size=8, unique=True), st.data()
)
@settings(max_examples=150)
def test_the_search_agrees_with_pythons(hay: bytes, data: list[bytes], draw: st.DataObject) -> None:
    """Needles of every length, absent ones too, against ``bytes.find``."""
    for item in data:
        if draw.draw(st.booleans()):
            at = draw.draw(st.integers(0, len(hay)))
            hay = hay[:at] + item + hay[at:]
    needles = [Needle(item, "utf-8", number) for number, item in enumerate(data)]
    expected = {
        (number, at) for number, item in enumerate(data) for at in range(len(hay)) if hay.startswith(item, at)
    }
    assert set(Searcher(needles).iter_found(np.frombuffer(hay, dtype=np.uint8))) == expected


@given(st.integers(1, 3), st.integers(11, 40), st.integers(0, 200))
def test_repetition_is_found_at_every_place(period: int, length: int, size: int) -> None:
    hay = (bytes(range(period)) * 200)[:size]
    item = (bytes(range(period)) * 40)[:length]
    found = {at for _, at in Searcher([Needle(item, "utf-8", 0)]).iter_found(np.frombuffer(hay, np.uint8))}
    assert found == {at for at in range(size) if hay.startswith(item, at)}


def test_many_needles_that_begin_alike_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_BATCH", 64)
    lines = [f"2026-05-01T00:00:00Z request {number:06d} served" for number in range(400)]
    needles = [Needle(line.encode(), "utf-8", number) for number, line in enumerate(lines)]
    hay = "\n".join(lines[::3]).encode()
    assert Searcher(needles).found_in(hay) == set(range(0, 400, 3))


def test_nothing_to_look_for_finds_nothing() -> None:
    report = scan_bytes(b"x" * 100, build_needles([]))
    assert (report.files, report.bytes, report.needles, report.found, report.clean) == (1, 100, 0, (), True)


def test_what_cannot_be_covered_is_listed_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(SECRET.encode())
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "file")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        report = scan_files(tmp_path, build_needles([SECRET]))
    assert dict(report.uncovered) == {
        "link": "a symbolic link, not followed",
        "loop": "a symbolic link, not followed",
        "pipe": "not a plain file",
        "socket": "not a plain file",
    }
    assert {finding.path for finding in report.found} == {"deep/file"}
    assert (report.files, report.bytes) == (1, len(SECRET.encode()))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_listed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "file").chmod(0)
    report = scan_files(tmp_path, build_needles([SECRET]))
    assert report.uncovered == (("file", "it could not be read: Permission denied"),)


def test_a_file_that_vanishes_or_keeps_changing_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").write_bytes(b"x" * 50)
    (tmp_path / "grows").write_bytes(SECRET.encode())
    listed = sorted(probes._iter_files(tmp_path, tmp_path, []))
    monkeypatch.setattr(probes, "_iter_files", lambda *_: iter(listed))
    (tmp_path / "gone").unlink()
    search = probes._scan_open

    def search_and_grow(file: probes.io.FileIO, size: int, searcher: Searcher) -> object:
        found = search(file, size, searcher)
        with (tmp_path / "grows").open("ab") as more:
            more.write(b"more")
        return found

    monkeypatch.setattr(probes, "_scan_open", search_and_grow)
    report = scan_files(tmp_path, build_needles([SECRET]))
    assert report.uncovered == (
        ("gone", "it vanished during the scan"),
        ("grows", "it kept changing during the scan"),
    )
    assert not report.clean, "what was seen counts although the file changed"


def test_a_file_that_changes_once_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(SECRET.encode())
    search, calls = probes._scan_open, []

    def search_and_erase(file: probes.io.FileIO, size: int, searcher: Searcher) -> object:
        found = search(file, size, searcher)
        if not calls:
            (tmp_path / "file").write_bytes(b"clean")
        calls.append(size)
        return found

    monkeypatch.setattr(probes, "_scan_open", search_and_erase)
    report = scan_files(tmp_path, build_needles([SECRET]))
    assert (report.clean, report.uncovered, len(calls)) == (True, (), 2)


def test_the_report_holds_no_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(SECRET.encode())
    (tmp_path / os.fsdecode(b"odd-\xff-name")).write_bytes(b"")
    report = scan_files(tmp_path, build_needles([SECRET]))
    assert not report.clean
    assert "Thornbury" not in repr(report)
    assert "Thornbury" not in repr(build_needles([SECRET]))
    assert report.to_json()["found"] == sum(finding.count for finding in report.found)
    assert canonical_json(report.to_json())


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(b"x" * 10)
    seen: list[tuple[int, int]] = []
    scan_files(tmp_path, build_needles([SECRET]), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(10, 30), (20, 30), (30, 30)]


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        scan_files(tmp_path / "absent", build_needles([SECRET]))


def test_a_short_text_made_long_by_white_space_is_too_short() -> None:
    """It is erased as any other; to look for what little it says would find chance."""
    needles = build_needles(["no.\r\n\r\n\r\n\r\n\r\nyes."], [])
    assert (needles.items, needles.too_short) == ((), 1)


@given(st.lists(st.text(max_size=60), max_size=4))
def test_any_text_can_be_built_and_excluded(texts: list[str]) -> None:
    """Control characters, surrogates and mixed scripts; a text that survives whole leaves no UTF-8 needle."""
    needles = build_needles(texts)
    assume(needles.items)
    left = needles.exclude(texts)
    assert not any(needle.encoding == "utf-8" for needle in left.items)
