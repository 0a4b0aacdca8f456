"""What "auto" takes: blocks of zstd where short rows are read singly, plain zstd where blocks would cost too much."""

import numpy as np
import numpy.typing as npt
import pytest

import chunkstore as cs
from chunkstore.format.codecs import ChunkCodecs
from chunkstore.writing import codec_choice
from chunkstore.writing.codec_choice import choose_codecs

PLAIN = ChunkCodecs(None, crc32c=True)
CHUNK = 256 << 10


def words(num_rows: int, length: int) -> npt.NDArray[np.uint16]:
    """Words of Zipf's frequencies, half of them in phrases that come again, as text has them: zstd leaves some 0.6."""
    rng = np.random.default_rng(7)
    pieces, book = (
        np.exp(rng.random((n, 9)) * np.log(50_000)).astype(np.uint16) for n in (num_rows * length // 9 + 1, 8192)
    )
    known = np.flatnonzero(rng.random(len(pieces)) < 0.5)
    pieces[known] = book[(8192 ** rng.random(len(known))).astype(np.int64)]
    return np.resize(pieces, (num_rows, length))


def test_short_rows_that_zstd_pays_for_are_in_blocks() -> None:
    rows = words(512, 2049)
    codecs = choose_codecs(cs.Array("uint16", (2049,)), plain=PLAIN)(rows, CHUNK)
    assert codecs.compressor is not None
    assert (codecs.compressor.name, codecs.compressor.cname, codecs.compressor.block_nbytes) == (
        "blosc",
        "zstd",
        32 << 10,
    )


def test_values_of_ragged_samples_stay_in_plain_zstd() -> None:
    codecs = choose_codecs(cs.Ragged("uint16"), plain=PLAIN)(words(512, 2049).reshape(-1), CHUNK)
    assert codecs.compressor is not None
    assert codecs.compressor.name == "zstd"


def test_where_blocks_cost_too_much_zstd_stays_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec_choice, "BLOCKS_COST", 1.01)
    codecs = choose_codecs(cs.Array("uint16", (2049,)), plain=PLAIN)(words(512, 2049), CHUNK)
    assert codecs.compressor is not None
    assert codecs.compressor.name == "zstd"
