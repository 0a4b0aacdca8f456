"""What chunk, shard and codec cost: the figures of docs/decisions/001-chunk-shard-codec.md.

    python benchmarks/layout_choice.py            # about five minutes on one core
    python benchmarks/layout_choice.py --quick    # a look

Everything runs in one thread, the variants of a table take turns, and each figure is the median of its turns in CPU time of the
thread, so that a busy machine blurs all of them little and alike. Ratios between variants are what to read; MB/s are of this
machine, per core. Columns about requests are arithmetic, not measurement: `LATENCY_S` to the first byte, `CONNECTION` bytes a
second in one request. Needs scikit-learn for two photographs.
"""

import argparse
import json
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import chunkstore
from chunkstore.format.codecs import ChunkCodecs, Compressor
from chunkstore.format.shard_index import decode_index, encode_index, index_nbytes
from chunkstore.kernels.codecs import decode_chunk, encode_chunk

KIB, MIB = 1 << 10, 1 << 20
BLOCK_NBYTES = 4 * MIB
CHUNK_SIZES = [64 * KIB, 128 * KIB, 256 * KIB, 512 * KIB, 1 * MIB, 2 * MIB, 4 * MIB]
LATENCY_S = 0.030
CONNECTION = (30e6, 90e6)
NUM_CONNECTIONS = 32
CORES = 16
QUICK, FULL = (4 * MIB, 3), (16 * MIB, 7)
"""Bytes of each kind of data, and turns."""

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Data:
    """Values to store, and the bytes of one of their samples."""

    values: npt.NDArray[Any]
    sample_nbytes: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less data, fewer turns")
    quick = parser.parse_args().quick
    nbytes, turns = QUICK if quick else FULL
    data = make_data(nbytes)
    print(f"{nbytes // MIB} MiB of each kind, medians of {turns} turns, one thread\n")
    print_codecs(data, turns)
    print_chunks(data, turns)
    print_shards(turns)


# The data


def make_data(nbytes: int) -> dict[str, Data]:
    rng = np.random.default_rng(0)
    text, fields = _corpus(nbytes), _smooth_fields(rng, nbytes)
    return {
        "float32 fields": Data(fields, 32**3 * 4),
        "float32 in steps": Data(np.round(fields, 3), 32**3 * 4),
        "float32 noise": Data(rng.standard_normal(nbytes // 4, np.float32), 768 * 4),
        "uint16 tokens": Data(_tokens(text, nbytes), 4 * KIB),
        "int64 labels": Data(rng.integers(0, 1000, nbytes // 8), 8),
        "uint8 pixels": Data(_pixels(nbytes), 64 * 64 * 3),
        "text": Data(np.frombuffer(text[:nbytes], np.uint8), 2 * KIB),
    }


def _smooth_fields(rng: np.random.Generator, nbytes: int) -> npt.NDArray[np.float32]:
    """Samples of (32, 32, 32): a few waves, and noise of a thousandth, as simulations have."""
    axis = np.linspace(0, 2 * np.pi, 32, dtype=np.float32)
    fields = []
    for _ in range(nbytes // (32**3 * 4)):
        a, b, c = rng.uniform(0.5, 2, 3).astype(np.float32)
        wave = np.sin(a * axis)[:, None, None] * np.cos(b * axis)[:, None] + np.sin(c * axis)
        fields.append(wave + rng.normal(0, 1e-3, wave.shape).astype(np.float32))
    return np.stack(fields).reshape(-1)


def _corpus(nbytes: int) -> bytes:
    """Python's own library, as text."""
    pieces, total = [], 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        pieces.append(path.read_bytes())
        total += len(pieces[-1])
        if total > nbytes:
            break
    joined = b"".join(pieces)
    return joined * -(-nbytes // len(joined))


def _tokens(text: bytes, nbytes: int) -> npt.NDArray[np.uint16]:
    """Words numbered by frequency, most frequent first, as tokenizers tend to: repetition is that of text."""
    words = text[: 16 * MIB].replace(b"(", b" ( ").replace(b".", b" . ").split()
    distinct, inverse, counts = np.unique(np.array(words, dtype="S24"), return_inverse=True, return_counts=True)
    rank = np.empty(len(distinct), np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(distinct))
    return np.resize(np.minimum(rank[inverse], 65535).astype(np.uint16), nbytes // 2)


def _pixels(nbytes: int) -> npt.NDArray[np.uint8]:
    """Two photographs, decoded."""
    from sklearn.datasets import load_sample_images

    return np.resize(np.concatenate([image.reshape(-1) for image in load_sample_images().images]), nbytes)


# Codecs


def codec_variants(itemsize: int) -> dict[str, ChunkCodecs]:
    def blosc(cname: Any, level: int, shuffle: Any) -> ChunkCodecs:
        return ChunkCodecs(Compressor("blosc", level, cname, shuffle, itemsize), crc32c=True)

    variants = {"none": ChunkCodecs(None, crc32c=True)}
    for shuffle in ("noshuffle", "shuffle", "bitshuffle"):
        if shuffle == "shuffle" and itemsize == 1:
            continue
        variants[f"blosc-lz4-5 {shuffle}"] = blosc("lz4", 5, shuffle)
        for level in (1, 3, 5):
            variants[f"blosc-zstd-{level} {shuffle}"] = blosc("zstd", level, shuffle)
    variants["zstd-3"] = ChunkCodecs(Compressor("zstd", 3), crc32c=True)
    return variants


def print_codecs(data: dict[str, Data], turns: int) -> None:
    print("## Codecs, chunks of 256 KiB\n")
    print(
        f"Last columns: decoded MB/s of a rank with {CORES} cores and {NUM_CONNECTIONS} requests of 4 MiB decoded in flight,"
    )
    print(
        f"{LATENCY_S * 1e3:.0f} ms to the first byte, 30 and 90 MB/s a request (the lower of network and decoding), and cores"
    )
    print("that decode at the higher of these.\n")
    for name, one in data.items():
        variants = codec_variants(one.values.itemsize)
        trials = {label: ChunkTrial(one.values, 256 * KIB, codecs) for label, codecs in variants.items()}
        take_turns([trial.turn for trial in trials.values()], turns)
        print(f"| {name} | stored/decoded | encode MB/s | decode MB/s | at 30 MB/s | at 90 MB/s | cores |")
        print("|---|--:|--:|--:|--:|--:|--:|")
        for label, trial in trials.items():
            slow, fast = (min(network_rate(trial.ratio, speed), CORES * trial.decode_rate) for speed in CONNECTION)
            print(
                f"| {label} | {trial.ratio:.3f} | {trial.encode_rate / 1e6:,.0f} | {trial.decode_rate / 1e6:,.0f} "
                f"| {slow / 1e6:,.0f} | {fast / 1e6:,.0f} | {fast / trial.decode_rate:.1f} |"
            )
        print(f"\nauto: {chosen(one)}\n")


def chosen(one: Data) -> str:
    """What "auto" takes for these values."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "chosen")
        field = chunkstore.Array(one.values.dtype.name)
        with chunkstore.create(path, {"x": field}) as writer:
            writer.write_batch({"x": one.values[: MIB // one.values.itemsize]})
        (metadata,) = path.glob("fragments/*/0/x/zarr.json")
        inner = json.loads(metadata.read_bytes())["codecs"][0]["configuration"]["codecs"]
    compressors = [codec for codec in inner if codec["name"] not in ("bytes", "crc32c")]
    return " ".join(f"{codec['name']} {codec['configuration']}" for codec in compressors) or "none"


def network_rate(ratio: float, connection: float) -> float:
    """Decoded bytes a second that `NUM_CONNECTIONS` requests of one block each bring."""
    return NUM_CONNECTIONS * BLOCK_NBYTES / (LATENCY_S + BLOCK_NBYTES * ratio / connection)


# Chunks


CHUNKED = ("float32 fields", "uint16 tokens", "int64 labels", "text")


def print_chunks(data: dict[str, Data], turns: int) -> None:
    print("## Chunk sizes, blosc-zstd-3 with shuffle\n")
    print("Relative to chunks of 4 MiB. 'One sample' is fetching and decoding its chunk at 30 ms and 30 MB/s, 'decode'")
    print(
        "the decoding alone, 'KiB' what is fetched; 'block' is decoding 4 MiB; index bytes are of a shard of 128 MiB.\n"
    )
    for name in CHUNKED:
        one = data[name]
        codecs = codec_variants(one.values.itemsize)[
            f"blosc-zstd-3 {'shuffle' if one.values.itemsize > 1 else 'noshuffle'}"
        ]
        trials = {size: ChunkTrial(one.values, size, codecs) for size in CHUNK_SIZES}
        larger = {
            size: stored_ratio(one.values, size, ChunkCodecs(Compressor("zstd", 3), crc32c=True))
            for size in CHUNK_SIZES
        }
        take_turns([trial.turn for trial in trials.values()], turns)
        best = trials[CHUNK_SIZES[-1]]
        print(
            f"| {name} | stored/decoded | size | encode | decode | one sample ms | decode ms | KiB | block ms | index B |"
        )
        print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
        for size, trial in trials.items():
            whole = max(size, one.sample_nbytes)
            fetched = whole * trial.ratio
            decode_s = whole / trial.decode_rate
            print(
                f"| {size // KIB} KiB | {trial.ratio:.3f} | {trial.ratio / best.ratio:.3f} "
                f"| {trial.encode_rate / best.encode_rate:.2f} | {trial.decode_rate / best.decode_rate:.2f} "
                f"| {(LATENCY_S + fetched / CONNECTION[0] + decode_s) * 1e3:.1f} | {decode_s * 1e3:.2f} | {fetched / KIB:.0f} "
                f"| {BLOCK_NBYTES / trial.decode_rate * 1e3:.2f} | {index_nbytes(128 * MIB // size):,} |"
            )
        told = ", ".join(f"{size // KIB} KiB {ratio:.3f}" for size, ratio in larger.items())
        print(f"\nzstd-3 without blosc: {told}\n")


def stored_ratio(values: npt.NDArray[Any], chunk_nbytes: int, codecs: ChunkCodecs) -> float:
    rows = chunk_nbytes // values.itemsize
    return sum(len(encode_chunk(codecs, values[i : i + rows])) for i in range(0, len(values), rows)) / values.nbytes


class ChunkTrial:
    """One codec and chunk size on one kind of data: ratio at once, rates by turns."""

    def __init__(self, values: npt.NDArray[Any], chunk_nbytes: int, codecs: ChunkCodecs) -> None:
        rows = chunk_nbytes // values.itemsize
        self._codecs = codecs
        self._chunks = [values[i : i + rows] for i in range(0, len(values) - rows + 1, rows)]
        self._encoded = [bytes(encode_chunk(codecs, chunk)) for chunk in self._chunks]
        self._nbytes = chunk_nbytes * len(self._chunks)
        self._out = [np.empty(chunk_nbytes, np.uint8) for _ in range(max(1, 8 * MIB // chunk_nbytes))]
        self.ratio = sum(map(len, self._encoded)) / self._nbytes
        self._encode_s: list[float] = []
        self._decode_s: list[float] = []
        for chunk, encoded in zip(self._chunks, self._encoded, strict=True):
            decode_chunk(codecs, encoded, self._out[0])
            assert (self._out[0] == chunk.view(np.uint8)).all()

    def turn(self) -> None:
        """Encode everything once, decode everything once."""
        self._encode_s.append(seconds(lambda: [encode_chunk(self._codecs, chunk) for chunk in self._chunks]))
        self._decode_s.append(seconds(self._decode))

    def _decode(self) -> None:
        for i, encoded in enumerate(self._encoded):
            decode_chunk(self._codecs, encoded, self._out[i % len(self._out)])

    @property
    def encode_rate(self) -> float:
        """Decoded bytes a second."""
        return self._nbytes / statistics.median(self._encode_s)

    @property
    def decode_rate(self) -> float:
        """Decoded bytes a second."""
        return self._nbytes / statistics.median(self._decode_s)


# Shards


def print_shards(turns: int) -> None:
    print("## Shard sizes (decoded), chunks of 256 KiB, 1 TB of one field\n")
    print(f"'First sight' is one index GET a shard, {NUM_CONNECTIONS} at a time, {LATENCY_S * 1e3:.0f} ms each;")
    print("'_objects.json' is taken at 45 bytes a line.\n")
    print(
        "| shard | objects | _objects.json | index B | read index µs | all indexes | first sight | upload at 30 MB/s |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    sizes = [32 * MIB, 64 * MIB, 128 * MIB, 256 * MIB]
    indexes = {size: encode_index(np.full(size // (256 * KIB), 200_000), size // (256 * KIB)) for size in sizes}
    times: dict[int, list[float]] = {size: [] for size in sizes}

    def read(size: int) -> Callable[[], None]:
        def turn() -> None:
            times[size].append(seconds(lambda: decode_index(indexes[size], size // (256 * KIB), 1 << 40, "")))

        return turn

    take_turns([read(size) for size in sizes], 20 * turns)
    for size in sizes:
        count = round(1e12 / size)
        print(
            f"| {size // MIB} MiB | {count:,} | {count * 45 / 1e6:.2f} MB | {len(indexes[size]):,} "
            f"| {statistics.median(times[size]) * 1e6:.0f} | {count * len(indexes[size]) / 1e6:.0f} MB "
            f"| {count * LATENCY_S / NUM_CONNECTIONS:.1f} s | {size / 30e6:.1f} s |"
        )
    print()


# Timing


def take_turns(trials: list[Callable[[], None]], turns: int) -> None:
    for turn in range(turns):
        for trial in trials if turn % 2 == 0 else trials[::-1]:
            trial()


def seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of this thread: what others do on the machine is not in it."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


if __name__ == "__main__":
    sys.exit(main())
