"""Units of coded pictures that hold closed captions go; all others stay to the byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sources.closed_captions import has_captions, without_captions

CAPTIONS = b"\x04\x0e\xb5\x00\x31GA94\x03\xc1\xff\xfcHi\xff\x80"
UNITS = {
    "h264": ([b"\x09\xf0", b"\x06\x05\x01x\x80", b"\x65slice GA94"], b"\x06" + CAPTIONS),
    "hevc": ([b"\x46\x01\x50", b"\x4e\x01\x05\x01x\x80", b"\x26\x01slice GA94"], b"\x4e\x01" + CAPTIONS),
    "mpeg2video": ([b"\x00picture", b"\xb5extension", b"\x01slice"], b"\xb2GA94\x03\xc1"),
}
LENGTHS = {"h264": b"\1\x64\0\x0a\xff", "hevc": b"\1" + bytes(20) + b"\xff"}


@pytest.mark.parametrize("codec", UNITS)
@pytest.mark.parametrize("long", [False, True])
def test_units_behind_marks(codec: str, long: bool) -> None:
    kept, captions = UNITS[codec]
    mark = b"\0\0\0\1" if long else b"\0\0\1"
    for at in range(len(kept) + 1):
        data = b"".join(mark + unit for unit in (*kept[:at], captions, *kept[at:]))
        assert has_captions(codec, data)
        made = without_captions(codec, b"", data)
        assert captions not in made
        assert made.replace(b"\0\0\0\1", b"\0\0\1").rstrip(b"\0") == b"".join(
            b"\0\0\1" + unit for unit in kept
        )


@pytest.mark.parametrize("codec", LENGTHS)
@pytest.mark.parametrize("size", [2, 4])
def test_units_behind_their_lengths(codec: str, size: int) -> None:
    kept, captions = UNITS[codec]
    header = LENGTHS[codec][:-1] + bytes((0xFC | (size - 1),))

    def lay(units: list[bytes]) -> bytes:
        return b"".join(len(unit).to_bytes(size, "big") + unit for unit in units)

    for at in range(len(kept) + 1):
        data = lay([*kept[:at], captions, *kept[at:]])
        assert without_captions(codec, header, data) == lay(kept)


def test_other_packets_are_left_alone() -> None:
    assert not has_captions("h264", b"\0\0\1\x65slice")
    assert not has_captions("vp9", b"GA94")
    assert not has_captions("mpeg2video", b"\0\0\1\x01GA94")


@given(st.sampled_from(sorted(UNITS)), st.binary(max_size=30), st.binary(max_size=80))
def test_whatever_the_bytes_are_there_is_an_answer(codec: str, header: bytes, data: bytes) -> None:
    made = without_captions(codec, header, data)
    assert len(made) <= len(data)
    assert without_captions(codec, header, made) == made
