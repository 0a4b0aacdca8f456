"""Writing and random reading beside NumPy, zarr-python and TensorStore.

    python benchmarks/read_write.py                          # ten minutes or more, 5 GB of disk and of memory
    python benchmarks/read_write.py --only read --json       # one JSON line a figure
    python benchmarks/read_write.py --folder /dev/shm        # where durability costs nothing
    python benchmarks/read_write.py --quick                  # a few seconds, to see that it runs

Data: `fields` are float32[32,32,32], a few waves and noise of a thousandth; `tokens` are uint16[2049], words and
phrases as frequent as in text. They are drawn from `--seed`, which is new for each run. Both are written with the
codec that "auto" takes, and with none.

Writing: chunkstore by `create` and `write_batch` of 512 samples, until it is committed, statistics and checksums of
objects included; TensorStore the same array, by the very `zarr.json` that chunkstore wrote (shards, chunks, codecs),
one write of a whole shard for each shard, all in flight together; `np.save` where nothing is compressed. Arms are
compared with those that promise the same: *durable* is chunkstore as it is, TensorStore as it is (`file_io_sync`),
and `np.save` with fsync of file and folder; *not durable* is chunkstore with `os.fsync` replaced by nothing,
TensorStore with `file_io_sync` off, and `np.save`.

Reading: `ds[256 random indices]` of the dataset that chunkstore wrote, the same shards by TensorStore and by zarr-
python's `oindex`, other indices in each repetition. *Warm*: opened and read from before, so that metadata and what
else a library keeps is there (TensorStore has a cache of as many bytes as chunkstore's, or none: the better of the
two counts). *Fresh*: opening is timed too, and chunkstore compares every checksum again. All of it comes from the
page cache.

Arms take turns within a repetition, in an order that turns with it; what another arm wrote is deleted, and as much
memory used and freed, before the clock starts. Each figure is the median of its repetitions with the least and the
most; a ratio is the median of the ratios of its repetitions. CPU is that of all threads of the process. Limits are
measured in the same repetitions: memcpy of the same bytes, reading the same stored bytes from the page cache, the
codec alone in as many threads as cores, crc32c alone. What was written is read back once, and what is read is
compared once with what was given. Needs rich, tensorstore and zarr.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import tensorstore
import zarr
from rich.console import Console
from rich.progress import Progress
from turns import Arm, Number, Results, figure, make_progress, print_tables, ratio, take_turns

import chunkstore
from chunkstore import _native
from chunkstore.format.codecs import ChunkCodecs
from chunkstore.format.documents import parse_json
from chunkstore.format.metadata import ArrayMetadata
from chunkstore.format.shard_index import decode_index, index_nbytes
from chunkstore.kernels.codecs import decode_chunk, encode_chunk
from chunkstore.reading import verified
from chunkstore.reading.parts import CACHE_NBYTES

BATCH = 512
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
VOCABULARY = 50_257
PHRASES, PHRASE = 8192, 9

Array = npt.NDArray[Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fields", type=int, default=8192, help="samples of float32[32,32,32]")
    parser.add_argument("--tokens", type=int, default=131_072, help="samples of uint16[2049]")
    parser.add_argument("--indices", type=int, default=256, help="samples of a random read")
    parser.add_argument("--repetitions", type=int, default=5, help="of writing")
    parser.add_argument("--reads", type=int, default=15, help="repetitions of reading")
    parser.add_argument("--only", choices=["write", "read"], help="one half of it")
    parser.add_argument("--folder", help="where to write; the system's folder of temporary files if not given")
    parser.add_argument("--seed", type=int, default=None, help="of the data; new for each run if not given")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    parser.add_argument("--quick", action="store_true", help="hardly any data, two repetitions")
    options = parser.parse_args()
    if options.quick:
        options.fields, options.tokens, options.indices, options.repetitions, options.reads = 32, 512, 16, 2, 2
    seed = options.seed if options.seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
    results = Results(options.json)
    with (
        tempfile.TemporaryDirectory(dir=options.folder, prefix="read-write-") as name,
        make_progress(Console(stderr=True)) as progress,
    ):
        folder = Path(name)
        kinds = {"fields": (make_fields, options.fields), "tokens": (make_tokens, options.tokens)}
        for number, (kind, (make, samples)) in enumerate(kinds.items()):
            rng = np.random.default_rng((seed, number))
            data = make(rng, samples)
            for codec in ("auto", None):
                trial = Trial(f"{kind}, {codec or 'no codec'}", data, folder, options, results, rng, progress)
                trial.write_dataset(codec)
                trial.add_sizes()
                if options.only != "read":
                    trial.measure_writing()
                if options.only != "write":
                    trial.measure_reading()
                shutil.rmtree(trial.dataset)
        header = (
            f"seed {seed}, {CORES} cores, {_filesystem(folder)} in {folder.parent}, chunkstore {chunkstore.__version__}"
        )
    if not options.json:
        print_tables(results, header)


# The data


def make_fields(rng: np.random.Generator, samples: int) -> Array:
    """A few waves, and noise of a thousandth, as simulations have: float32 (samples, 32, 32, 32)."""
    axis = np.linspace(0, 2 * np.pi, 32, dtype=np.float32)
    out = np.empty((samples, 32, 32, 32), np.float32)
    for start in range(0, samples, BATCH):
        block = out[start : start + BATCH]
        a, b, c = rng.uniform(0.5, 2, (3, len(block), 1)).astype(np.float32)
        block[:] = np.sin(a * axis)[:, :, None, None] * np.cos(b * axis)[:, None, :, None]
        block += np.sin(c * axis)[:, None, None, :]
        block += rng.standard_normal(block.shape, np.float32) * np.float32(1e-3)
    return out


def make_tokens(rng: np.random.Generator, samples: int) -> Array:
    """Words of Zipf's frequencies, half of them in phrases that come again: uint16 (samples, 2049)."""

    def words(*shape: int) -> Array:
        uniform = rng.random(shape, np.float32)
        return np.asarray(np.exp(uniform * np.float32(math.log(VOCABULARY))), np.uint16)

    book = words(PHRASES, PHRASE)
    out = np.empty((samples, 2049), np.uint16)
    for start in range(0, samples, BATCH):
        pieces = words(min(BATCH, samples - start) * 2049 // PHRASE + 1, PHRASE)
        known = np.flatnonzero(rng.random(len(pieces)) < 0.5)
        pieces[known] = book[(PHRASES ** rng.random(len(known))).astype(np.int64)]
        block = out[start : start + BATCH]
        block[:] = pieces.reshape(-1)[: block.size].reshape(block.shape)
    return out


# Trials


class Trial:
    """One kind of data with one codec."""

    def __init__(
        self,
        name: str,
        data: Array,
        folder: Path,
        options: argparse.Namespace,
        results: Results,
        rng: np.random.Generator,
        progress: Progress,
    ) -> None:
        self.name, self.data, self.folder, self.options = name, data, folder, options
        self.results, self.rng, self.progress = results, rng, progress
        self.dataset = folder / "dataset"

    def write_dataset(self, codec: str | None) -> None:
        """The dataset that is read, whose metadata other writers are given."""
        self.codec = codec
        write_chunkstore(self.dataset, self.data, codec)
        (self.array,) = self.dataset.glob("fragments/*/0/x")
        self.document = json.loads((self.array / "zarr.json").read_text())
        self.metadata = ArrayMetadata.from_json(parse_json((self.array / "zarr.json").read_bytes(), str(self.array)))
        if not np.array_equal(chunkstore.open(self.dataset, verify="always")["x"][:], self.data):
            raise SystemExit(f"{self.name}: what chunkstore reads is not what it was given")

    def add_sizes(self) -> None:
        """Objects and bytes."""
        objects = [path for path in self.dataset.rglob("*") if path.is_file()]
        shards = [path for path in objects if path.is_relative_to(self.array / "c")]
        stored = sum(path.stat().st_size for path in objects)
        for name, value, unit in (
            ("codec: " + _codec_name(self.metadata.codecs), 0, ""),
            ("shards per million samples", len(shards) * 1e6 / len(self.data), "objects"),
            ("all objects per million samples", len(objects) * 1e6 / len(self.data), "objects"),
            ("bytes stored / bytes given", stored / self.data.nbytes, ""),
        ):
            self.results.add(Number(f"sizes: {self.name}", name, value, unit))

    # Writing

    def measure_writing(self) -> None:
        """All writers, durable and not, and their limits."""
        durable, loose = self._writers(durable=True), self._writers(durable=False)
        into = np.empty_like(self.data)
        into[:] = 0
        limits = [
            Arm("limit: memcpy", lambda: np.copyto(into, self.data)),
            Arm("limit: codec and crc32c alone", self._encode_all),
            Arm("limit: crc32c alone, one thread", self._checksum_all),
        ]
        table = f"write: {self.name}"
        arms = [*durable, *loose, *limits]
        times = take_turns(arms, self.options.repetitions, self.progress, table)
        shutil.rmtree(self.folder / "written", ignore_errors=True)
        for arm in arms:
            self.results.add(figure(table, arm.name, times[arm.name], self.data.nbytes))
        for promise in ("durable", "not durable"):
            ours = f"chunkstore, {promise}"
            self.results.add(ratio(table, ours, f"TensorStore, {promise}", times, 1.0))
            if self.codec is None:
                self.results.add(ratio(table, ours, f"np.save, {promise}", times, 0.8))
        share = statistics.median(times["limit: crc32c alone, one thread"].cpu) / statistics.median(
            times["chunkstore, durable"].cpu
        )
        self.results.add(Number(f"sizes: {self.name}", "crc32c's share of the CPU time of writing", share, ""))

    def _writers(self, *, durable: bool) -> list[Arm]:
        promise = "durable" if durable else "not durable"
        place = self.folder / "written"

        def ours() -> None:
            with nullcontext() if durable else mock.patch("os.fsync", lambda _: None):
                write_chunkstore(place, self.data, self.codec)

        def theirs() -> None:
            write_tensorstore(place, self.data, self.document, sync=durable)

        def numpy() -> None:
            place.mkdir()
            write_numpy(place / "x.npy", self.data, sync=durable)

        def clear() -> None:  # what was not synced is dropped with the files
            shutil.rmtree(place, ignore_errors=True)
            _warm_memory(self.folder / "warm", self.data)

        clear()
        theirs()
        if not np.array_equal(open_tensorstore(place, cache_nbytes=0).read().result(), self.data):
            raise SystemExit(f"{self.name}: what TensorStore reads is not what it was given")
        clear()
        arms = [Arm(f"chunkstore, {promise}", ours, clear), Arm(f"TensorStore, {promise}", theirs, clear)]
        return [*arms, Arm(f"np.save, {promise}", numpy, clear)] if self.codec is None else arms

    def _encode_all(self) -> None:
        """Each chunk encoded, in as many threads as cores; chunks are rows, as they are in these data."""
        rows, codecs = self.metadata.chunk_shape[0], self.metadata.codecs
        starts = range(0, len(self.data), rows)

        def encode(part: range) -> None:
            for start in part:
                encode_chunk(codecs, self.data[start : start + rows])

        with ThreadPoolExecutor(CORES) as threads:
            list(threads.map(encode, [starts[i::CORES] for i in range(CORES)]))

    def _checksum_all(self) -> None:
        """As many bytes as are stored."""
        plain, chunk = self.data.reshape(-1).view(np.uint8), 256 << 10
        for start in range(
            0, sum(path.stat().st_size for path in (self.array / "c").rglob("*") if path.is_file()), chunk
        ):
            _native.crc32c(plain[start : start + chunk])

    # Reading

    def measure_reading(self) -> None:
        """All readers, warm and fresh, and their limits."""
        if not self.options.quick:
            _settle(self.array)
        for fresh in (False, True):
            table = f"read {self.options.indices} random samples, {'fresh' if fresh else 'warm'}: {self.name}"
            indices = self.rng.integers(0, len(self.data), self.options.indices)
            chosen = [indices]
            arms = self._readers(chosen, fresh=fresh)
            self._check_readers(arms, indices)
            stored = StoredChunks(self.array, self.metadata)
            limits = [] if fresh else self._read_limits(stored, chosen)

            def draw(chosen: list[Array] = chosen) -> None:
                chosen[0] = self.rng.integers(0, len(self.data), self.options.indices)

            times = take_turns([*arms, *limits], self.options.reads, self.progress, table, draw)
            stored.close()
            nbytes = self.options.indices * self.data[:1].nbytes
            for arm in (*arms, *limits):
                self.results.add(figure(table, arm.name, times[arm.name], nbytes))
            self.results.add(ratio(table, "chunkstore", "zarr-python", times, 20.0))
            both = ("TensorStore", "TensorStore, cache")
            faster = min(both, key=lambda arm: statistics.median(times[arm].wall))
            self.results.add(ratio(table, "chunkstore", faster, times, 2.0))
            if not fresh:
                share = statistics.median(times["limit: crc32c alone"].cpu) / statistics.median(times["chunkstore"].cpu)
                name = "crc32c of the chunks read / CPU time of a warm read that remembers having compared them"
                self.results.add(Number(f"sizes: {self.name}", name, share, ""))

    def _readers(self, chosen: list[Array], *, fresh: bool) -> list[Arm]:
        if fresh:
            return [
                Arm("chunkstore", lambda: chunkstore.open(self.dataset)[chosen[0]]["x"], verified.forget),
                Arm("TensorStore", lambda: open_tensorstore(self.array, cache_nbytes=0)[chosen[0]].read().result()),
                Arm(
                    "TensorStore, cache",
                    lambda: open_tensorstore(self.array, cache_nbytes=CACHE_NBYTES)[chosen[0]].read().result(),
                ),
                Arm("zarr-python", lambda: zarr.open_array(self.array, mode="r").oindex[chosen[0]]),
            ]
        ours, theirs = chunkstore.open(self.dataset), zarr.open_array(self.array, mode="r")
        plain = open_tensorstore(self.array, cache_nbytes=0)
        cached = open_tensorstore(self.array, cache_nbytes=CACHE_NBYTES)
        ours["x"][:]  # every chunk has been compared once, as in any epoch but the first
        return [
            Arm("chunkstore", lambda: ours[chosen[0]]["x"]),
            Arm("TensorStore", lambda: plain[chosen[0]].read().result()),
            Arm("TensorStore, cache", lambda: cached[chosen[0]].read().result()),
            Arm("zarr-python", lambda: theirs.oindex[chosen[0]]),
        ]

    def _check_readers(self, arms: list[Arm], indices: Array) -> None:
        for arm in arms:
            if not np.array_equal(np.asarray(arm.run()), self.data[indices]):
                raise SystemExit(f"{self.name}: {arm.name} reads other values than were written")

    def _read_limits(self, stored: "StoredChunks", chosen: list[Array]) -> list[Arm]:
        return [
            Arm("limit: memcpy of the samples", lambda: self.data[chosen[0]]),
            Arm("limit: page cache, the chunks", lambda: stored.read(chosen[0])),
            Arm("limit: decoding the chunks", stored.decode, lambda: stored.read(chosen[0])),
            Arm("limit: crc32c alone", stored.checksum, lambda: stored.read(chosen[0])),
        ]


# Arms


def write_chunkstore(place: Path, data: Array, codec: str | None) -> None:
    schema = {"x": chunkstore.Array(data.dtype.name, data.shape[1:], codec=codec)}
    with chunkstore.create(place, schema) as writer:
        for start in range(0, len(data), BATCH):
            writer.write_batch({"x": data[start : start + BATCH]})


def write_tensorstore(place: Path, data: Array, document: dict[str, Any], *, sync: bool) -> None:
    context = tensorstore.Context({"file_io_sync": sync, "data_copy_concurrency": {"limit": CORES}})
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(place)}, "metadata": document}
    array = tensorstore.open(spec, create=True, context=context).result()
    rows = document["chunk_grid"]["configuration"]["chunk_shape"][0]
    for written in [
        array[i : i + len(data[i : i + rows])].write(data[i : i + rows]) for i in range(0, len(data), rows)
    ]:
        written.result()


def write_numpy(path: Path, data: Array, *, sync: bool) -> None:
    with path.open("wb") as file:
        np.save(file, data)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    if sync:
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def open_tensorstore(place: Path, *, cache_nbytes: int) -> tensorstore.TensorStore:
    context = {"cache_pool": {"total_bytes_limit": cache_nbytes}, "data_copy_concurrency": {"limit": CORES}}
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(place)},
        "recheck_cached_metadata": "open",
        "recheck_cached_data": "open",
    }
    opened: tensorstore.TensorStore = tensorstore.open(spec, read=True, context=tensorstore.Context(context)).result()
    return opened


class StoredChunks:
    """The chunks in which samples lie, read and decoded with nothing around it, in one thread: limits of reading."""

    def __init__(self, array: Path, metadata: ArrayMetadata) -> None:
        self._metadata = metadata
        num_chunks = math.prod(metadata.chunks_per_shard)
        self._files, self._indexes = [], []
        for shard in range(math.prod(metadata.shard_grid)):
            data = (array / metadata.shard_key(shard)).read_bytes()
            index = decode_index(data[-index_nbytes(num_chunks) :], num_chunks, len(data), str(array))
            self._files.append(os.open(array / metadata.shard_key(shard), os.O_RDONLY))
            self._indexes.append(index)
        self._memory = bytearray(metadata.chunk_nbytes * 2)
        self._decoded = np.empty(metadata.chunk_nbytes, np.uint8)
        self._bodies: list[bytes] = []

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            os.close(file)

    def read(self, indices: Array) -> None:
        """Each chunk once."""
        self._bodies = []
        per_shard = self._metadata.chunks_per_shard[0]
        for chunk in np.unique(indices // self._metadata.chunk_shape[0]).tolist():
            start, stop = self._indexes[chunk // per_shard][chunk % per_shard].tolist()
            self._bodies.append(os.pread(self._files[chunk // per_shard], stop - start, start))

    def decode(self) -> None:
        """Those read last, whole, checksums apart."""
        for body in self._bodies:
            decode_chunk(self._metadata.codecs, body, self._decoded, verify=False)

    def checksum(self) -> None:
        """Of those read last."""
        for body in self._bodies:
            _native.crc32c(body)


def _codec_name(codecs: ChunkCodecs) -> str:
    compressor = codecs.compressor
    if compressor is None:
        return "none"
    if compressor.name != "blosc":
        return f"{compressor.name}-{compressor.level}"
    return (
        f"blosc {compressor.cname}-{compressor.level} {compressor.shuffle}, blocks of {compressor.block_nbytes} bytes"
    )


def _warm_memory(path: Path, data: Array) -> None:
    """Write as many bytes and delete them: a virtual machine's free memory is slow to use unless it was used just before."""
    np.save(path, data)
    path.with_suffix(".npy").unlink()


def _settle(array: Path) -> None:
    """Wait until the files are old enough for what was compared of them to be remembered."""
    changed = max(path.stat().st_ctime for path in array.rglob("*"))
    time.sleep(max(0.0, changed + verified.SETTLED_S + 0.1 - time.time()))


def _filesystem(folder: Path) -> str:
    """Of a folder, as the kernel's table of mounts says."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    return max((m for m in mounts if folder.is_relative_to(m[0])), key=lambda m: len(m[0]))[1]


if __name__ == "__main__":
    main()
