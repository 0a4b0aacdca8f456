"""Many writers: each writes a fragment of its own, and one commit makes all of them visible together.

`fragment` gives a writer that commits nothing; what it wrote is its `result`, a value that travels to whoever calls `commit`.
Neither needs to know of the others. Before it: processes or machines that write at the same time; after it: `writer.py` and
`results.py`.

Source: docs/spec/v1.md, "Writing".
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from chunkstore.errors import CommitConflict, SchemaError
from chunkstore.format.schema import Field, Schema
from chunkstore.history.commit import check_message, create_root, find_latest, read_uuid
from chunkstore.history.versions import no_dataset
from chunkstore.store.location import open_store
from chunkstore.writing.results import FragmentResult, commit_results
from chunkstore.writing.writer import NewFragment, Writer

Url = str | os.PathLike[str]


class FragmentWriter(Writer):
    """A `Writer` that commits nothing. Made by `fragment`."""

    def __init__(self, url: str, schema: Schema, destination: NewFragment) -> None:
        super().__init__(url, schema, destination)
        self._new = destination

    @property
    def result(self) -> FragmentResult:
        """What was written, once the writer is closed: for `chunkstore.commit`, here or in another process.

        Raises:
            ValueError: the writer is open, or it failed, and what it was given has to be written again.
        """
        if self._new.result is None:
            state = "failed, so nothing of it can be committed" if self._closed else "is open; close it first"
            raise ValueError(f"{self!r} has no result: it {state}")
        return self._new.result


def fragment(
    url: Url,
    schema: Mapping[str, Field] | None = None,
    *,
    num_threads: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: Any = None,
) -> FragmentWriter:
    """Begin to write samples that `commit` makes visible, together with those of other writers.

    Any number of processes may do so at the same time, also where there is no dataset yet. Samples that are never committed
    are never seen; `gc` removes them.

    Args:
        url: Path or URL of the dataset, or where it is to be.
        schema: Field types by name; the dataset's if None.
        num_threads: Threads that encode; the number of cores if None.
        storage_options: For the store, under obstore's names or s3fs's.
        filesystem: An fsspec filesystem to write through.

    Returns:
        A `Writer` whose `result`, once it is closed, is what `commit` takes.

    Raises:
        DatasetNotFound: there is no dataset, and no schema was given.
        SchemaError: the schema cannot be stored, or the dataset's is of other types.
        ReadOnlyStore: the store cannot commit safely.
    """
    given = schema if schema is None or isinstance(schema, Schema) else Schema(schema)
    store = open_store(url, storage_options=storage_options, filesystem=filesystem)
    store.check_commits()
    latest = find_latest(store, committing=True, refused_is_absent=True)
    if latest is None and given is None:
        raise no_dataset(store, "give a schema, which is taken from there otherwise")
    if latest is not None and given is not None and not latest.schema.same_types(given):
        raise SchemaError(
            f"{store.url}: version {latest.number} has another schema:\n{latest.schema!r}\nnot\n{given!r}\nGive the same types,"
            " or None to take them from there"
        )
    dataset = latest.dataset if latest is not None else create_root(store)
    checked = given if given is not None or latest is None else latest.schema
    assert checked is not None
    since = latest.number if latest is not None else 0
    destination = NewFragment(store, checked, dataset, message=None, since=since, num_threads=num_threads)
    return FragmentWriter(store.url, checked, destination)


def commit(
    url: Url,
    results: Iterable[FragmentResult],
    *,
    message: str = "",
    storage_options: Mapping[str, Any] | None = None,
    filesystem: Any = None,
) -> int:
    """Make what several writers wrote visible, together, in the order given, as the next version of a dataset or its first.

    It may be called again with the same results, by anybody, if it was interrupted: what the latest version holds, be it
    compacted since, is not added twice, and if nothing is left to be added, nothing is committed. The same holds for a
    result that is given twice. What was rolled back since is added again.

    Args:
        url: Path or URL of the dataset, or where its writers began it.
        results: What writers of `fragment` left; those without samples add nothing.
        message: Kept in the version.
        storage_options: For the store, under obstore's names or s3fs's.
        filesystem: An fsspec filesystem to write through.

    Returns:
        The number of the version that holds the samples: a new one, or the latest if there was nothing left to be added.

    Raises:
        ValueError: there is no result, something else is among them, or two of them call different things by one name.
        CommitConflict: a result is of another dataset, or a fragment was condemned by `gc`, or the race was lost too often.
        SchemaError: two results, or a result and the dataset, have schemas of different types.
        MissingObject: a fragment is not in the store.
        InvalidDataset: a fragment is damaged.
        DatasetNotFound: nothing was begun at `url`.
        ReadOnlyStore: the store cannot commit safely.
        StoreError: the store failed; the message says whether the commit may have been taken.
    """
    check_message(message)
    ordered = _without_repeats(results)
    store = open_store(url, storage_options=storage_options, filesystem=filesystem)
    uuid = read_uuid(store)
    for result in ordered:
        if result.dataset != uuid:
            raise CommitConflict(
                f"{store.url}: a result is of dataset {result.dataset}, and this is {uuid}; write its samples again with"
                " chunkstore.fragment, under this URL"
            )
    return commit_results(store, ordered, message=message, again=True).number


def _without_repeats(results: Iterable[FragmentResult]) -> list[FragmentResult]:
    """Results that agree with each other, none twice, in the order in which they first come."""
    kept: dict[str, FragmentResult] = {}
    given = list(results)
    if not given:
        raise ValueError("no results to commit; give those of the writers that chunkstore.fragment made")
    for result in given:
        if not isinstance(result, FragmentResult):
            raise ValueError(f"{result!r} is no FragmentResult; give writer.result, or FragmentResult.from_json(text)")
        if not result.schema.same_types(given[0].schema):
            raise SchemaError(
                f"results differ in schema, so they cannot be of one dataset:\n{given[0].schema!r}\nand\n{result.schema!r}"
            )
        key = result.fragment.id if result.fragment else f"empty {len(kept)}"
        if kept.setdefault(key, result) != result:
            raise ValueError(f"two results say different things of fragment {key}; give only what its writer left")
    return list(kept.values())
