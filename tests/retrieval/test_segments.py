"""Segment files: the same rows are the same file, and a damaged one is noticed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.errors import CorruptionError, DigestMismatchError, InvalidInputError
from retrieval.segments import as_stored, read_segment, write_segment


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 8)).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(12)))
def test_order_of_writing_leaves_no_trace(tmp_path_factory, order):
    ids, vectors = [f"p{i}" for i in range(12)], rows(12)
    folder = tmp_path_factory.mktemp("segments")
    one = write_segment(folder, space="s", ids=ids, vectors=vectors)
    other = write_segment(folder, space="s", ids=[ids[i] for i in order], vectors=vectors[order])
    assert one == other
    assert [path.name for path in folder.iterdir()] == [one]


def test_what_is_read_is_what_was_written(tmp_path):
    vectors = rows(5)
    name = write_segment(tmp_path, space="minilm", ids=["b", "a", "c", "é", "d"], vectors=vectors)
    segment = read_segment(tmp_path / name)
    assert (segment.space, segment.ids, segment.dimension) == ("minilm", ("a", "b", "c", "d", "é"), 8)
    assert isinstance(segment.vectors, np.memmap)
    expected = as_stored(vectors[[1, 0, 2, 4, 3]])
    assert np.array_equal(segment.vectors.astype(np.float32), expected)


def test_empty_segment(tmp_path):
    name = write_segment(tmp_path, space="s", ids=[], vectors=np.empty((0, 8), dtype=np.float32))
    assert read_segment(tmp_path / name).vectors.shape == (0, 8)


@pytest.mark.parametrize("damage", ["torn", "flipped", "longer", "empty"])
def test_damage_is_noticed(tmp_path, damage):
    path = tmp_path / write_segment(tmp_path, space="s", ids=["a", "b"], vectors=rows(2))
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


def test_a_true_digest_does_not_excuse_a_foreign_file(tmp_path):
    import hashlib

    content = b"not a segment"
    path = tmp_path / f"{hashlib.sha256(content).hexdigest()}.segment"
    path.write_bytes(content)
    with pytest.raises(CorruptionError):
        read_segment(path)


@pytest.mark.parametrize("ids", [["a", "a"], ["a\nb", "c"], ["", "a"]])
def test_ids_must_be_tellable(tmp_path, ids):
    with pytest.raises(InvalidInputError):
        write_segment(tmp_path, space="s", ids=ids, vectors=rows(2))
    assert list(tmp_path.iterdir()) == []
