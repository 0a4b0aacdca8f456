"""Uploads that share memory: every byte arrives where it belongs, and what is held together stays bounded."""

import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkstore.errors import StoreError
from chunkstore.store import upload_memory
from chunkstore.store.upload_memory import Part, UploadMemory


@pytest.mark.parametrize("limit_nbytes", [0, 3000, 1 << 20])
def test_parts_give_back_what_they_were_given_wherever_it_was_kept(
    monkeypatch: pytest.MonkeyPatch, limit_nbytes: int
) -> None:
    monkeypatch.setattr(upload_memory, "GATHERED_NBYTES", limit_nbytes)
    memory, rng = UploadMemory(), np.random.default_rng(0)
    parts, given = [Part(memory) for _ in range(20)], [b""] * 20
    for _ in range(2000):
        i = int(rng.integers(20))
        if rng.random() < 0.1 and given[i]:
            assert (parts[i].take(), parts[i].nbytes) == (given[i], 0)
            given[i] = b""
        else:
            data = rng.bytes(int(rng.integers(1, 400)))
            parts[i].add(memoryview(data))
            given[i] += data
    assert (memory._file is not None) == (limit_nbytes < 1 << 20)
    for part in parts[:10]:
        part.drop()
    del part, parts
    gc.collect()
    assert (memory._held_nbytes, memory._file, memory._num_slots) == (0, None, 0)


def test_only_so_many_parts_are_on_their_way() -> None:
    memory = UploadMemory()
    part = Part(memory)

    def send() -> Any:
        part.add(memoryview(b"data"))
        return part.take()

    sending = [send() for _ in range(upload_memory.NUM_PARTS_SENDING)]
    last: list[Any] = []
    thread = threading.Thread(target=lambda: last.append(send()))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    sending.pop()
    thread.join(20)
    assert last == [b"data"]


def test_no_room_for_the_file_is_an_error_that_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(upload_memory, "GATHERED_NBYTES", 0)
    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(StoreError, match=f"in {tempfile.gettempdir()}: No space left on device; .*TMPDIR"):
        Part(UploadMemory()).add(memoryview(b"data"))


def test_uploads_that_take_turns_are_stored_whole(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_memory, "GATHERED_NBYTES", 12 << 20)
    store, rng = s3.open(), np.random.default_rng(0)
    pieces = [[rng.bytes(3 << 20) for _ in range(6)] for _ in range(4)]
    uploads = [store.open_upload(f"object{i}") for i in range(4)]
    for turn in range(6):
        for i, upload in enumerate(uploads):
            upload.write(pieces[i][turn])
    for upload in uploads[1:]:
        upload.finish()
    uploads[0].abort()
    for i in range(1, 4):
        assert store.read(f"object{i}") == b"".join(pieces[i])
    assert sorted(key for key, *_ in store.list()) == ["object1", "object2", "object3"]
    assert (store._upload_memory._held_nbytes, store._upload_memory._num_slots) == (0, 0)


HUNDRED_FIELDS = """
import json, sys
import numpy as np
import chunkstore as cs

def peak_mib():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) >> 10

url, options = json.loads(sys.argv[1])
schema = {f"f{i}": cs.Array("float32", (1024,), codec=None) for i in range(100)}
rows = np.random.default_rng(0).random((128, 1024), "f4")
with cs.create(url, schema, storage_options=options) as writer:
    before = peak_mib()
    for _ in range(40):
        writer.write_batch(dict.fromkeys(schema, rows))
print(peak_mib() - before)
ds = cs.open(url, storage_options=options)
assert len(ds) == 40 * 128
for name in ("f0", "f57", "f99"):
    for start in (0, 20 * 128, 39 * 128):
        assert np.array_equal(ds[name][start : start + 128], rows)
"""


def test_writing_2_gb_of_100_fields_to_s3_takes_less_than_512_mb(s3: Any, tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", HUNDRED_FIELDS, json.dumps([s3.url, s3.storage_options])],
        stdout=subprocess.PIPE,
        check=True,
        timeout=240,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert 32 < int(answer.stdout) < 512 * 1000**2 / 2**20
    assert list(tmp_path.iterdir()) == []
