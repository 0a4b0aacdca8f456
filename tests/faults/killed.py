"""What a process does until it is killed: one operation after another on a dataset, each told in a log before and after."""

import itertools
import os
import random
from typing import Any

import numpy as np
from faults.scenarios import SCHEMA, columns

import chunkstore as cs
from chunkstore.errors import DatasetNotFound

OPERATIONS = ("append", "append", "append", "append", "tag", "rollback", "compact", "gc", "commit", "add_fields")
MAX_ADDED = 4
"""Fields beside those of the schema: every later append writes them too."""
VALUES_OF_A_PROCESS = 1_000_000


def work(url: str, log: str, process: int) -> None:
    """Run until killed; what is told as done is done.

    Each line is "begin" or "done", the operation, and the values, half-open; for tags the name, and the version; for fields the
    name.
    """
    chance = random.Random(process)
    told = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def tell(*words: Any) -> None:
        os.write(told, (" ".join(map(str, words)) + "\n").encode())

    first_value = process * VALUES_OF_A_PROCESS
    for step in itertools.count():
        operation = chance.choice(OPERATIONS) if _is_there(url) else "create"
        if operation in {"create", "append", "commit"}:
            values = range(first_value, first_value + chance.randint(1, 40))
            first_value = values.stop
            tell("begin", operation, values.start, values.stop)
            _write(url, operation, values)
            tell("done", operation, values.start, values.stop)
        elif operation == "tag":
            name = f"t{process}-{step}"
            tell("begin", operation, name)
            tell("done", operation, name, cs.tag(url, name))
        elif operation == "add_fields":
            ds = cs.open(url)
            if len(ds.schema) < len(SCHEMA) + MAX_ADDED:
                name = f"added_{process}_{step}"
                tell("begin", operation, name)
                with cs.add_fields(url, {name: cs.Array("int64")}, num_threads=1) as writer:
                    writer.write_batch({name: -ds["x"][:]})
                tell("done", operation, name)
        elif operation == "compact":
            tell("begin", operation)
            tell("done", operation, cs.compact(url, num_threads=1))
        elif operation == "gc":
            tell("begin", operation)
            # nobody else is at work, so what is not held was left by the dead
            tell("done", operation, cs.gc(url, keep_versions=3, orphan_age_s=0).committed)
        else:
            tell("begin", operation)
            # to the version that is the latest: another commit, and not a sample less
            cs.rollback(url, cs.open(url).version)
            tell("done", operation)


def _write(url: str, operation: str, values: range) -> None:
    """Write samples, those of a commit in two fragments, whose results travel as text."""
    if operation == "create":
        with cs.create(url, SCHEMA) as writer:
            writer.write_batch(columns(values))
        return
    added = [name for name in cs.open(url).schema if name not in SCHEMA]
    middle = values.start if operation == "append" else (values.start + values.stop) // 2
    results = []
    for some in (range(values.start, middle), range(middle, values.stop)):
        if some:
            batch = {**columns(some), **{name: -np.asarray(some) for name in added}}
            with cs.append(url, num_threads=1) if operation == "append" else cs.fragment(url, num_threads=1) as writer:
                writer.write_batch(batch)
            if operation == "commit":
                results.append(writer.result.to_json())
    if results:
        cs.commit(url, [cs.FragmentResult.from_json(text) for text in results])


def _is_there(url: str) -> bool:
    try:
        cs.open(url)
    except DatasetNotFound:
        return False
    return True
