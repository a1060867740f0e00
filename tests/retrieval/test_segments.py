"""Segment files: the same arrays are the same file, and a damaged one is noticed."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.errors import CorruptionError, DigestMismatchError
from retrieval.segments import check_file, read_segment, write_file, write_segment

TYPES = st.sampled_from(["i1", "i4", "i8", "f2", "f4", "S26", "u8"])


@st.composite
def arrays(draw):
    found = {}
    for name in draw(st.lists(st.sampled_from("abcdef"), unique=True)):
        shape = draw(st.tuples(st.integers(0, 9), st.integers(1, 5)))
        raw = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 99, shape)
        found[name] = raw.astype(draw(TYPES))
    return found


@settings(max_examples=60, deadline=None)
@given(given=arrays(), order=st.randoms())
def test_what_is_read_is_what_was_written(tmp_path_factory, given, order):
    folder = tmp_path_factory.mktemp("segments")
    name = write_segment(folder, {"space": "minilm"}, given)
    shuffled = list(given)
    order.shuffle(shuffled)
    assert write_segment(folder, {"space": "minilm"}, {key: given[key] for key in shuffled}) == name
    assert [path.name for path in folder.iterdir()] == [name]
    segment = read_segment(folder / name)
    assert segment.about == {"space": "minilm"}
    assert segment.arrays.keys() == given.keys()
    for key, array in given.items():
        read = segment.arrays[key]
        assert read.dtype == array.dtype and read.shape == array.shape
        assert np.array_equal(read, array)
        assert not array.size or not read.flags.writeable


def test_another_subject_is_another_file(tmp_path):
    rows = {"rows": np.arange(3)}
    assert write_segment(tmp_path, {"a": 1}, rows) != write_segment(tmp_path, {"a": 2}, rows)


@pytest.mark.parametrize("damage", ["torn", "flipped", "longer", "empty"])
def test_damage_is_noticed(tmp_path, damage):
    path = tmp_path / write_segment(tmp_path, {}, {"rows": np.arange(12)})
    content = path.read_bytes()
    changed = {
        "torn": content[:-3],
        "flipped": content[:-1] + bytes([content[-1] ^ 1]),
        "longer": content + b"\0",
        "empty": b"",
    }[damage]
    path.write_bytes(changed)
    with pytest.raises(DigestMismatchError):
        read_segment(path)


@pytest.mark.parametrize(
    "content",
    [
        b"not a segment",
        b'{"format": "lethe-segment-1", "about": {}, "arrays": []}\n',
        b'{"format": "lethe-segment-2", "about": {}}\n',
        b'{"format": "lethe-segment-2", "about": {}, "arrays": [{"name": "a", "type": "<i8", "shape": [9]}]}\n',
        b'{"format": "lethe-segment-2", "about": {}, "arrays": []}\nand more',
    ],
)
def test_a_true_digest_does_not_excuse_a_foreign_file(tmp_path, content):
    path = tmp_path / f"{hashlib.sha256(content).hexdigest()}.segment"
    path.write_bytes(content)
    with pytest.raises(CorruptionError):
        read_segment(path)


def test_any_file_is_named_by_its_digest(tmp_path):
    name = write_file(tmp_path, [b"one", b"two"], ".codes")
    assert name == hashlib.sha256(b"onetwo").hexdigest() + ".codes"
    check_file(tmp_path / name)
    (tmp_path / name).write_bytes(b"else")
    with pytest.raises(DigestMismatchError):
        check_file(tmp_path / name)


def test_what_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError("the disk is full")

    monkeypatch.setattr("retrieval.segments.os.fsync", fail)
    with pytest.raises(OSError, match="full"):
        write_file(tmp_path, [b"one"], ".codes")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_written_anew(tmp_path):
    name = write_file(tmp_path, [b"one"], ".codes")
    (tmp_path / name).write_bytes(b"on")
    assert write_file(tmp_path, [b"one"], ".codes") == name
    assert (tmp_path / name).read_bytes() == b"one"
