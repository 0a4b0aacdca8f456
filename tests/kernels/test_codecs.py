"""Every codec chain round trips, agrees with numcodecs, and turns damage into ValueError, never into wrong lengths."""

import gzip
import struct
import subprocess
import sys
import threading
import time
import zlib

import google_crc32c
import numcodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkstore.format.codecs import ChunkCodecs, Compressor
from chunkstore.kernels.codecs import decode_chunk, encode_chunk

CNAMES = ["lz4", "lz4hc", "blosclz", "zstd", "zlib"]
SHUFFLES = ["noshuffle", "shuffle", "bitshuffle"]

compressors = st.one_of(
    st.none(),
    st.builds(Compressor, st.just("zstd"), st.integers(-5, 19)),
    st.builds(Compressor, st.just("gzip"), st.integers(0, 9)),
    st.builds(
        Compressor,
        st.just("blosc"),
        st.integers(0, 9),
        st.sampled_from(CNAMES),
        st.sampled_from(SHUFFLES),
        st.integers(1, 16),
    ),
)
chains = st.builds(ChunkCodecs, compressors, st.booleans())

PLAIN = ChunkCodecs(None, crc32c=False)
SUMMED = ChunkCodecs(None, crc32c=True)
EXAMPLES = [
    PLAIN,
    SUMMED,
    ChunkCodecs(Compressor("blosc", 5, "lz4", "shuffle", 4), crc32c=False),
    ChunkCodecs(Compressor("blosc", 5, "zstd", "bitshuffle", 4), crc32c=True),
    ChunkCodecs(Compressor("zstd", 3), crc32c=False),
    ChunkCodecs(Compressor("zstd", 3), crc32c=True),
    ChunkCodecs(Compressor("gzip", 6), crc32c=False),
    ChunkCodecs(Compressor("gzip", 6), crc32c=True),
]
SAMPLES = (np.arange(900, dtype="<i4") * 3) // 2


def decoded(codecs, data, nbytes, **options):
    out = np.full(nbytes, 0xA5, np.uint8)
    decode_chunk(codecs, data, out, **options)
    return out.tobytes()


@given(codecs=chains, data=st.binary(min_size=0, max_size=2000))
def test_any_bytes_come_back_through_any_chain(codecs, data):
    encoded = encode_chunk(codecs, np.frombuffer(data, np.uint8))
    assert decoded(codecs, encoded, len(data)) == data
    assert decoded(codecs, encoded, len(data), verify=False) == data


@pytest.mark.parametrize("codecs", EXAMPLES)
@pytest.mark.parametrize("dtype", ["?", "i1", "<u2", "<f2", "<f4", "<i8", "<f8"])
def test_arrays_of_any_dtype_and_shape_come_back(codecs, dtype):
    array = (np.arange(2 * 3 * 50) % 11).astype(dtype).reshape(2, 3, 50)
    assert decoded(codecs, encode_chunk(codecs, array), array.nbytes) == array.tobytes()


@pytest.mark.parametrize("codecs", EXAMPLES)
@pytest.mark.parametrize("shape", [(0,), (3, 0), ()])
def test_arrays_without_elements_and_scalars_come_back(codecs, shape):
    array = np.ones(shape, "<f4")
    assert decoded(codecs, encode_chunk(codecs, array), array.nbytes) == array.tobytes()


@pytest.mark.parametrize("cname", CNAMES)
@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("typesize", [1, 2, 4, 8])
def test_blosc_frames_say_what_the_compressor_says_and_numcodecs_reads_them(cname, shuffle, typesize):
    codecs = ChunkCodecs(Compressor("blosc", 5, cname, shuffle, typesize), crc32c=False)
    array = np.arange(20_000, dtype="<u8")
    frame = encode_chunk(codecs, array)
    assert frame[3] == typesize
    assert frame[2] & 0b101 == {"noshuffle": 0, "shuffle": 1, "bitshuffle": 4}[shuffle]
    assert frame[2] >> 5 == {"blosclz": 0, "lz4": 1, "lz4hc": 1, "zlib": 3, "zstd": 4}[cname]
    assert len(frame) < array.nbytes
    assert bytes(numcodecs.Blosc().decode(frame)) == array.tobytes()


def test_numcodecs_reads_zstd_and_gzip_and_they_are_read_from_it():
    for name, theirs in (("zstd", numcodecs.Zstd(3)), ("gzip", numcodecs.GZip(3))):
        codecs = ChunkCodecs(Compressor(name, 3), crc32c=False)
        assert bytes(theirs.decode(encode_chunk(codecs, SAMPLES))) == SAMPLES.tobytes()
        assert decoded(codecs, theirs.encode(SAMPLES), SAMPLES.nbytes) == SAMPLES.tobytes()


@pytest.mark.parametrize("codecs", [codecs for codecs in EXAMPLES if codecs.crc32c])
def test_the_checksum_is_little_endian_and_of_the_stored_bytes(codecs):
    encoded = bytes(encode_chunk(codecs, SAMPLES))
    assert encoded[-4:] == struct.pack("<I", google_crc32c.value(encoded[:-4]))


@pytest.mark.parametrize("codecs", EXAMPLES)
def test_the_same_chunk_is_the_same_bytes_on_any_thread_at_any_time(codecs, monkeypatch):
    array = np.tile(SAMPLES, 2000)  # many blosc blocks
    first = bytes(encode_chunk(codecs, array))
    monkeypatch.setattr(time, "time", lambda: 1e9)
    others = []
    thread = threading.Thread(target=lambda: others.append(bytes(encode_chunk(codecs, array))))
    thread.start()
    thread.join()
    assert others == [first]


def test_plain_bytes_are_a_view_and_not_a_copy():
    assert np.shares_memory(np.frombuffer(encode_chunk(PLAIN, SAMPLES), np.uint8), SAMPLES)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda b: np.frombuffer(b, np.uint8)])
@pytest.mark.parametrize("codecs", EXAMPLES)
def test_stored_bytes_may_be_any_buffer(kind, codecs):
    assert decoded(codecs, kind(bytes(encode_chunk(codecs, SAMPLES))), SAMPLES.nbytes) == SAMPLES.tobytes()


@pytest.mark.parametrize("codecs", EXAMPLES)
def test_stored_bytes_cut_anywhere_are_refused(codecs):
    encoded = bytes(encode_chunk(codecs, SAMPLES))
    for stop in range(len(encoded)):
        for verify in (True, False):
            with pytest.raises(ValueError, match=r"blosc|zstd|gzip|crc32c|bytes"):
                decoded(codecs, encoded[:stop], SAMPLES.nbytes, verify=verify)


@pytest.mark.parametrize("codecs", EXAMPLES)
@pytest.mark.parametrize("nbytes", [0, SAMPLES.nbytes - 1, SAMPLES.nbytes + 1, 3 * SAMPLES.nbytes])
def test_an_output_of_another_length_is_refused(codecs, nbytes):
    encoded = encode_chunk(codecs, SAMPLES)
    with pytest.raises(ValueError, match=rf"\b{nbytes}\b|3600"):
        decoded(codecs, encoded, nbytes)


@pytest.mark.parametrize("codecs", [codecs for codecs in EXAMPLES if codecs.crc32c])
def test_every_flipped_byte_fails_the_checksum(codecs):
    encoded = bytearray(encode_chunk(codecs, SAMPLES))
    for place in range(len(encoded)):
        encoded[place] ^= 0x20
        with pytest.raises(ValueError, match=r"crc32c mismatch: stored [0-9a-f]{8}, computed [0-9a-f]{8}"):
            decoded(codecs, encoded, SAMPLES.nbytes)
        encoded[place] ^= 0x20


@settings(max_examples=300)
@given(
    codecs=st.sampled_from(EXAMPLES),
    damage=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=5),
)
def test_unverified_damage_is_refused_or_has_the_right_length(codecs, damage):
    encoded = bytearray(encode_chunk(codecs, SAMPLES))
    for place, mask in damage:
        encoded[min(int(place * len(encoded)), len(encoded) - 1)] ^= mask
    try:
        plain = decoded(codecs, encoded, SAMPLES.nbytes, verify=False)
    except ValueError:
        return
    assert len(plain) == SAMPLES.nbytes


def test_without_verifying_a_wrong_checksum_passes_and_is_stripped():
    encoded = bytearray(encode_chunk(SUMMED, SAMPLES))
    encoded[-1] ^= 1
    assert decoded(SUMMED, encoded, SAMPLES.nbytes, verify=False) == SAMPLES.tobytes()


GZIP = ChunkCodecs(Compressor("gzip", 6), crc32c=False)


def test_gzip_members_are_joined():
    data = SAMPLES.tobytes()
    encoded = gzip.compress(data[:100]) + gzip.compress(b"") + gzip.compress(data[100:])
    assert decoded(GZIP, encoded, len(data)) == data


def test_a_gzip_bomb_is_not_decoded_further_than_the_output():
    bomb = gzip.compress(bytes(200 << 20), 1)
    before = time.process_time()
    with pytest.raises(ValueError, match="more than the 10 bytes"):
        decoded(GZIP, bomb, 10)
    # Decoding all of it takes some 0.3 s.
    assert time.process_time() - before < 0.1


def test_a_flood_of_empty_gzip_members_is_refused():
    with pytest.raises(ValueError, match="members"):
        decoded(GZIP, gzip.compress(b"") * 10_000, 0)


@pytest.mark.parametrize("damage", [b"", b"\x1f\x8b", zlib.compress(b"abc"), gzip.compress(b"abc") + b"junk"])
def test_what_is_no_gzip_is_refused(damage):
    with pytest.raises(ValueError, match="gzip"):
        decoded(GZIP, damage, 3)


def test_arrays_that_are_not_contiguous_little_endian_numbers_are_refused():
    with pytest.raises(ValueError, match="not C-contiguous"):
        encode_chunk(PLAIN, SAMPLES[::2])
    with pytest.raises(ValueError, match="little-endian"):
        encode_chunk(PLAIN, SAMPLES.astype(">i4"))
    with pytest.raises(ValueError, match="little-endian"):
        encode_chunk(PLAIN, np.array([object()]))


def test_a_blosc_level_out_of_range_is_refused():
    with pytest.raises(ValueError, match="level 10"):
        encode_chunk(ChunkCodecs(Compressor("blosc", 10), crc32c=False), SAMPLES)


def test_importing_and_decoding_do_not_load_numcodecs():
    code = """
import sys
import numpy as np
from chunkstore.format.codecs import ChunkCodecs, Compressor
from chunkstore.kernels.codecs import decode_chunk
decode_chunk(ChunkCodecs(None, crc32c=False), b"abcd", np.empty(4, np.uint8))
assert not {"numcodecs", "zarr"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
