"""What a process does until it is killed: one operation after another on a dataset, each told in a log before and after."""

import itertools
import os
import random
from typing import Any

from faults.scenarios import SCHEMA, columns

import chunkstore as cs
from chunkstore.errors import DatasetNotFound

OPERATIONS = ("append", "append", "append", "append", "tag", "rollback", "compact", "gc")
VALUES_OF_A_PROCESS = 1_000_000


def work(url: str, log: str, process: int) -> None:
    """Run until killed; what is told as done is done.

    Each line is "begin" or "done", the operation, and the values, half-open; for tags the name, and the version.
    """
    chance = random.Random(process)
    told = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def tell(*words: Any) -> None:
        os.write(told, (" ".join(map(str, words)) + "\n").encode())

    first_value = process * VALUES_OF_A_PROCESS
    for step in itertools.count():
        operation = chance.choice(OPERATIONS) if _is_there(url) else "create"
        if operation in {"create", "append"}:
            values = range(first_value, first_value + chance.randint(1, 40))
            first_value = values.stop
            tell("begin", operation, values.start, values.stop)
            with cs.append(url, num_threads=1) if operation == "append" else cs.create(url, SCHEMA) as writer:
                writer.write_batch(columns(values))
            tell("done", operation, values.start, values.stop)
        elif operation == "tag":
            name = f"t{process}-{step}"
            tell("begin", operation, name)
            tell("done", operation, name, cs.tag(url, name))
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


def _is_there(url: str) -> bool:
    try:
        cs.open(url)
    except DatasetNotFound:
        return False
    return True
