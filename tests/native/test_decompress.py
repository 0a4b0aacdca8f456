"""blosc and zstd frames: what numcodecs encodes comes back; what is cut, flipped, hostile or of blosc2 is a ValueError."""

import struct

import numcodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import blosc

from chunkstore import _native

CNAMES = ["lz4", "lz4hc", "zstd", "zlib", "blosclz"]


@pytest.fixture(autouse=True)
def serial_blosc(monkeypatch):
    monkeypatch.setattr(blosc, "use_threads", False)


def blosc_frame(data, cname="lz4", level=5, shuffle=1, typesize=4, block_nbytes=0):
    return blosc.compress(memoryview(data).cast("B"), cname.encode(), level, shuffle, block_nbytes, typesize)


def counting(nbytes):
    """Bytes that compress, but not to nothing."""
    numbers = np.arange(nbytes // 8 + 1, dtype=np.int64)
    return (numbers * 3 + numbers // 97).tobytes()[:nbytes]


@pytest.mark.parametrize("cname", CNAMES)
@pytest.mark.parametrize("shuffle", [0, 1, 2])
@pytest.mark.parametrize("typesize", [1, 2, 3, 4, 8, 12, 16, 17, 255])
def test_every_blosc_setting_comes_back(cname, shuffle, typesize):
    for nbytes in (1, 15, 127, 128, 1000, 65_537, 300_007):
        data = counting(nbytes)
        out = bytearray(nbytes)
        _native.blosc_decompress(blosc_frame(data, cname, 5, shuffle, typesize), out)
        assert out == data


@pytest.mark.parametrize("level", range(10))
@pytest.mark.parametrize("block_nbytes", [0, 256, 4096, 1 << 20])
def test_every_level_and_block_size_comes_back(level, block_nbytes):
    data = counting(200_000)
    out = bytearray(len(data))
    _native.blosc_decompress(blosc_frame(data, "zstd", level, 1, 8, block_nbytes), out)
    assert out == data


def test_incompressible_data_come_back():
    data = np.random.default_rng(0).bytes(100_003)
    out = bytearray(len(data))
    for cname in CNAMES:
        _native.blosc_decompress(blosc_frame(data, cname), out)
        assert out == data


@given(
    data=st.binary(max_size=3000), cname=st.sampled_from(CNAMES), shuffle=st.integers(0, 2), typesize=st.integers(1, 20)
)
def test_any_bytes_come_back_from_blosc(data, cname, shuffle, typesize):
    out = bytearray(len(data))
    _native.blosc_decompress(blosc_frame(data, cname, 5, shuffle, typesize), out)
    assert out == data


def test_frames_of_changing_block_size_and_damage_share_a_thread():
    """The scratch that a thread keeps from one frame to the next never shows."""
    out = bytearray(1 << 20)
    data = counting(1 << 20)
    for block_nbytes in (256, 1 << 20, 4096, 0):
        frame = blosc_frame(data, "zstd", 5, 1, 8, block_nbytes)
        with pytest.raises(ValueError, match="blosc"):
            _native.blosc_decompress(frame[:-1], out)
        _native.blosc_decompress(frame, out)
        assert out == data


def test_blosc_environment_variables_do_not_matter(monkeypatch):
    for name in ("BLOSC_NTHREADS", "BLOSC_BLOCKSIZE", "BLOSC_TYPESIZE", "BLOSC_CLEVEL"):
        monkeypatch.setenv(name, "7")
    data = counting(1 << 20)
    out = bytearray(1 << 20)
    _native.blosc_decompress(blosc_frame(data), out)
    assert out == data


@pytest.mark.parametrize("cname", CNAMES)
def test_an_output_of_another_length_is_refused_untouched(cname):
    frame = blosc_frame(counting(1000), cname)
    for nbytes in (0, 999, 1001, 5000):
        out = bytearray(b"\x5a" * nbytes)
        with pytest.raises(ValueError, match=f"holds 1000 bytes, the output has {nbytes}"):
            _native.blosc_decompress(frame, out)
        assert out == b"\x5a" * nbytes


@pytest.mark.parametrize("cname", CNAMES)
@pytest.mark.parametrize("level", [0, 5])
def test_a_blosc_frame_cut_anywhere_is_refused(cname, level):
    data = counting(2000)
    frame = blosc_frame(data, cname, level)
    out = bytearray(len(data))
    for stop in range(len(frame)):
        with pytest.raises(ValueError, match="blosc"):
            _native.blosc_decompress(frame[:stop], out)
        if stop >= 16:  # the same, with a header that agrees
            shortened = frame[:12] + struct.pack("<I", stop) + frame[16:stop]
            with pytest.raises(ValueError, match="blosc"):
                _native.blosc_decompress(shortened, out)


def flip(data: bytes, place: float, mask: int) -> bytes:
    damaged = bytearray(data)
    damaged[min(int(place * len(data)), len(data) - 1)] ^= mask
    return bytes(damaged)


def decode_guarded(decompress, frame, nbytes):
    """Decodes into the middle of a larger buffer, twice; says whether it was refused.

    Nothing else may be written, and what is not refused may hold nothing of what was there before.
    """
    guard = 64
    decoded = []
    for filling in (0xA5, 0x5A):
        memory = np.full(nbytes + 2 * guard, filling, np.uint8)
        try:
            decompress(frame, memory[guard : guard + nbytes])
        except ValueError:
            pass
        else:
            decoded.append(memory[guard : guard + nbytes].copy())
        assert (memory[:guard] == filling).all()
        assert (memory[guard + nbytes :] == filling).all()
    assert len(decoded) != 1
    if decoded:
        np.testing.assert_array_equal(*decoded)
    return not decoded


damages = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=5)


@settings(max_examples=400)
@given(
    damage=damages,
    cname=st.sampled_from(CNAMES),
    shuffle=st.integers(0, 2),
    typesize=st.sampled_from([1, 3, 4, 8]),
    in_header=st.booleans(),
)
def test_flipped_bytes_in_blosc_never_write_outside(damage, cname, shuffle, typesize, in_header):
    frame = blosc_frame(counting(5000), cname, 5, shuffle, typesize, 1024)
    for place, mask in damage:
        frame = flip(frame, place * 48 / len(frame) if in_header else place, mask)
    decode_guarded(_native.blosc_decompress, frame, 5000)


def header(version=2, flags=0x21, typesize=4, nbytes=1000, block_nbytes=1000, frame_nbytes=None, body=b""):
    frame_nbytes = 16 + len(body) if frame_nbytes is None else frame_nbytes
    return struct.pack("<BBBBIII", version, 1, flags, typesize, nbytes, block_nbytes, frame_nbytes) + body


ONE_BLOCK = struct.pack("<I", 20)  # where the only block starts
HOSTILE = {
    "nothing": b"",
    "half a header": header()[:10],
    "more decoded bytes than the output": header(nbytes=2**31 - 1, body=bytes(100)),
    "decoded bytes that are negative as int32": header(nbytes=2**32 - 1, body=bytes(100)),
    "blosc2's version": header(version=5, body=bytes(100)),
    "blosc2's extended header": header(flags=0x25, body=bytes(100)),
    "blosc2's delta filter": header(flags=0x28, body=bytes(100)),
    "snappy": header(flags=0x51, body=bytes(100)),
    "a plug-in codec": header(flags=0xC1, body=bytes(100)),
    "element size 0": header(typesize=0, body=bytes(100)),
    "blocks of 0 bytes": header(block_nbytes=0, body=bytes(100)),
    "blocks larger than the data": header(block_nbytes=1001, body=bytes(100)),
    "a frame longer than its bytes": header(frame_nbytes=117, body=bytes(100)),
    "a frame shorter than its bytes": header(frame_nbytes=115, body=bytes(100)),
    "more blocks than offsets": header(block_nbytes=1, body=bytes(100)),
    "a block that starts in the header": header(body=struct.pack("<I", 0) + bytes(100)),
    "a block that starts outside": header(body=struct.pack("<I", 2**31) + bytes(100)),
    "a block that starts at the end": header(body=struct.pack("<I", 119) + bytes(100)),
    "a run of zeros": header(flags=0x31, body=ONE_BLOCK + struct.pack("<i", 0) + bytes(100)),
    "a run of a byte": header(flags=0x31, body=ONE_BLOCK + struct.pack("<iB", -7, 1) + bytes(100)),
    "a stream longer than the frame": header(flags=0x31, body=ONE_BLOCK + struct.pack("<I", 500) + bytes(100)),
    "a stream longer than its block": header(flags=0x31, body=ONE_BLOCK + struct.pack("<I", 1001) + bytes(2000)),
    "blocks that are no whole elements": header(typesize=7, body=ONE_BLOCK + bytes(100)),
    "a stored frame without its bytes": header(flags=0x02, body=bytes(999)),
    "a stored frame with too many": header(flags=0x02, body=bytes(1001)),
    "zstd from before 1.0": header(flags=0x90, body=ONE_BLOCK + struct.pack("<II", 100, 0xFD2FB527) + bytes(96)),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_blosc_headers_are_refused_untouched(case):
    out = bytearray(b"\x5a" * 1000)
    with pytest.raises(ValueError, match="blosc"):
        _native.blosc_decompress(HOSTILE[case], out)
    assert out == b"\x5a" * 1000


# blosc2 4.14.1: compress2(b"chunk" * 40, typesize=4, nthreads=1).
BLOSC2_FRAME = bytes.fromhex(
    """
    05018504c8000000c80000008400000000000000000105000000000000000000240000001400000028b52ffd20325d00
    0028636b6e75680100c22c5a1400000028b52ffd20325d00002868636b6e750100c22c5a1400000028b52ffd20325d00
    00287568636b6e0100c22c5a1400000028b52ffd20325d0000286e7568636b0100c22c5a
    """
)


def test_frames_of_blosc2_are_refused():
    with pytest.raises(ValueError, match="blosc: format version 5"):
        _native.blosc_decompress(BLOSC2_FRAME, bytearray(200))
    disguised = b"\x02" + BLOSC2_FRAME[1:]
    with pytest.raises(ValueError, match="blosc: an extended header"):
        _native.blosc_decompress(disguised, bytearray(200))


@given(data=st.binary(max_size=3000), level=st.integers(-5, 19), checksum=st.booleans())
def test_any_bytes_come_back_from_zstd(data, level, checksum):
    out = bytearray(len(data))
    _native.zstd_decompress(numcodecs.Zstd(level, checksum=checksum).encode(data), out)
    assert out == data


# One raw block of "hello" in a frame whose header gives a window and no content size (RFC 8878, section 3.1.1).
UNKNOWN_SIZE = bytes.fromhex("28b52ffd0000290000") + b"hello"
SKIPPABLE = struct.pack("<II", 0x184D2A53, 3) + b"abc"


def test_frames_that_do_not_state_their_size_come_back():
    out = bytearray(5)
    _native.zstd_decompress(UNKNOWN_SIZE, out)
    assert out == b"hello"
    for nbytes in (0, 4, 6):
        with pytest.raises(ValueError, match="zstd"):
            _native.zstd_decompress(UNKNOWN_SIZE, bytearray(nbytes))


def test_several_frames_and_skippable_ones_come_back_as_one():
    data = counting(10_000)
    frames = numcodecs.Zstd(3).encode(data[:3000]) + SKIPPABLE + numcodecs.Zstd(1).encode(data[3000:]) + UNKNOWN_SIZE
    out = bytearray(10_005)
    _native.zstd_decompress(frames, out)
    assert out == data + b"hello"


def test_a_zstd_output_of_another_length_is_refused_untouched():
    frame = numcodecs.Zstd(3).encode(counting(1000))
    for nbytes in (0, 999, 1001, 5000):
        out = bytearray(b"\x5a" * nbytes)
        with pytest.raises(ValueError, match=r"zstd: data state .* decoded bytes"):
            _native.zstd_decompress(frame, out)
        assert out == b"\x5a" * nbytes


def test_a_zstd_bomb_is_refused_by_its_header():
    # Single segment, eight bytes of content size: 2^60 bytes.
    bomb = bytes.fromhex("28b52ffde0") + struct.pack("<Q", 2**60) + bytes.fromhex("010000")
    two = numcodecs.Zstd(3).encode(counting(600)) * 2
    for data in (bomb, two):
        out = bytearray(b"\x5a" * 1000)
        with pytest.raises(ValueError, match="more decoded bytes than the 1000"):
            _native.zstd_decompress(data, out)
        assert out == b"\x5a" * 1000


@pytest.mark.parametrize("magic", [0xFD2FB527, 0xFD2FB526, 0xFD2FB525, 0xFD2FB524, 0xFD2FB523, 0xFD2FB522, 0x1EB52FFD])
def test_zstd_from_before_1_is_refused(magic):
    legacy = struct.pack("<I", magic) + bytes(100)
    for data in (legacy, UNKNOWN_SIZE + legacy):
        with pytest.raises(ValueError, match="not a zstd frame"):
            _native.zstd_decompress(data, bytearray(100))


@pytest.mark.parametrize("checksum", [False, True])
def test_a_zstd_frame_cut_anywhere_is_refused(checksum):
    data = counting(2000)
    frame = numcodecs.Zstd(3, checksum=checksum).encode(data)
    for stop in range(len(frame)):
        with pytest.raises(ValueError, match="zstd"):
            _native.zstd_decompress(frame[:stop], bytearray(len(data)))


@settings(max_examples=400)
@given(damage=damages, in_header=st.booleans())
def test_flipped_bytes_in_zstd_never_write_outside(damage, in_header):
    frame = numcodecs.Zstd(3).encode(counting(5000))
    for place, mask in damage:
        frame = flip(frame, place * 20 / len(frame) if in_header else place, mask)
    decode_guarded(_native.zstd_decompress, frame, 5000)


def test_flipped_bytes_under_a_zstd_checksum_are_refused():
    data = counting(500)
    frame = numcodecs.Zstd(3, checksum=True).encode(data)
    for place in range(9, len(frame)):
        assert decode_guarded(_native.zstd_decompress, flip(frame, place / len(frame), 0x10), 500)


@pytest.mark.parametrize("decompress", [_native.blosc_decompress, _native.zstd_decompress])
def test_a_read_only_output_is_refused(decompress):
    with pytest.raises(ValueError, match="out"):
        decompress(b"", bytes(10))
