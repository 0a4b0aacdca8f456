"""The history of a dataset: listing its versions, comparing two, and going back to one.

Reads documents alone, never samples. Going back is a commit like any other: the latest version then has the contents of an
older one, and nothing that was committed is lost. Before it: the user or the command line; after it: `commit.py`, `tags.py`.

Source: docs/spec/v1.md, "Version documents", "A rollback".
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from chunkstore.errors import CommitConflict, DatasetNotFound, VersionExpired
from chunkstore.format.diff import VersionDiff, diff_versions
from chunkstore.format.versions import Version
from chunkstore.history.commit import check_message, commit, new_id, now
from chunkstore.history.tags import NUM_THREADS, Url, read_tags
from chunkstore.history.versions import read_document, read_latest, read_version
from chunkstore.store.interface import Store
from chunkstore.store.location import open_store


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """A line of a dataset's history.

    Attributes:
        number: 1, 2, 3…
        time: When it was committed, UTC, ISO 8601.
        message: What its writer said.
        samples: How many it has.
        parent: Number of the version it was made from; None for the first.
        tags: Names it was given, sorted; None where the store does not let its objects be listed.
    """

    number: int
    time: str
    message: str
    samples: int
    parent: int | None
    tags: tuple[str, ...] | None


def versions(
    url: Url, *, storage_options: Mapping[str, Any] | None = None, filesystem: Any = None
) -> list[VersionInfo]:
    """List the versions of a dataset, the newest last.

    Those that `gc` has given up are left out, unless a tag that came in the same moment spared them.

    Args:
        url: Path or URL of the dataset.
        storage_options: For the store, under obstore's names or s3fs's.
        filesystem: An fsspec filesystem to read through.

    Raises:
        DatasetNotFound: there is no dataset.
        InvalidDataset: a version's or a tag's document is damaged.
        MissingObject: a version's document is absent.
    """
    store = open_store(url, storage_options=storage_options, filesystem=filesystem)
    latest = read_latest(store)
    tags = read_tags(store)
    spared = {tag.version for tag in (tags or {}).values()}
    numbers = sorted(set(range(1, latest.number)) - (set(latest.condemned_versions) - spared))

    def told(version: Version, num_samples: int) -> VersionInfo:
        names = None
        if tags is not None:
            names = tuple(name for name, tag in tags.items() if tag.version == version.number)
        return VersionInfo(version.number, version.time, version.message, num_samples, version.parent, names)

    def told_unless_dropped(number: int) -> VersionInfo | None:
        try:
            document = read_document(store, number)  # without its pages, which nothing here needs
        except VersionExpired:
            return None
        return told(document.inline, document.num_samples)

    with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="chunkstore-versions") as pool:
        # only the lines are kept: documents may be large, and versions many
        lines = [line for line in pool.map(told_unless_dropped, numbers) if line is not None]
    return [*lines, told(latest, latest.num_samples)]


def diff(
    url: Url,
    old: int,
    new: int | None = None,
    *,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: Any = None,
) -> VersionDiff:
    """Compare two versions of a dataset.

    Args:
        url: Path or URL of the dataset.
        old: Number of the version to compare with.
        new: Number of the version to compare; the latest if None.
        storage_options: For the store, under obstore's names or s3fs's.
        filesystem: An fsspec filesystem to read through.

    Raises:
        DatasetNotFound: there is no dataset, or no such version.
        InvalidDataset: a version's document is damaged.
        VersionExpired: a version was dropped by `gc`.
    """
    store = open_store(url, storage_options=storage_options, filesystem=filesystem)
    with ThreadPoolExecutor(2, thread_name_prefix="chunkstore-diff") as pool:
        before, after = pool.map(lambda number: read_version(store, number), (old, new))
    return diff_versions(before, after)


def rollback(
    url: Url,
    number: int,
    *,
    message: str = "",
    storage_options: Mapping[str, Any] | None = None,
    filesystem: Any = None,
) -> int:
    """Commit a version whose samples, fields and statistics are those of an older one.

    The versions in between stay, and so does what they hold: a rollback can be rolled back. A version that another writer
    commits first is gone back from, too. Sample ids go on from where they were, so none is used twice.

    Args:
        url: Path or URL of the dataset.
        number: Of the version to go back to.
        message: Kept in the version; if empty, that it was rolled back, and to which.
        storage_options: For the store, under obstore's names or s3fs's.
        filesystem: An fsspec filesystem to write through.

    Returns:
        The number of the new version.

    Raises:
        DatasetNotFound: there is no dataset, or no such version.
        VersionExpired: `gc` has given up the version, or samples of it.
        ReadOnlyStore: the store cannot commit safely.
        StoreError: the store failed; the message says whether the commit may have been taken.
        ValueError: the message is no text.
    """
    check_message(message)
    store = open_store(url, storage_options=storage_options, filesystem=filesystem)
    return roll_back(store, read_version(store, number), message or f"rolled back to version {number}").number


def roll_back(store: Store, old: Version, message: str) -> Version:
    """Commit a version with the contents of `old`; see `rollback`."""
    writer, time = new_id(), now()

    def next_version(parent: Version | None) -> Version:
        if parent is None:
            raise DatasetNotFound(f"{store.url}: the dataset vanished while it was rolled back")
        if parent.dataset != old.dataset:
            raise CommitConflict(
                f"{store.url}: another dataset took the place of {old.dataset}; open that one and look at its versions"
            )
        fragments, parts = set(parent.condemned_fragments), set(parent.condemned_parts)
        lost = [f.id for f in old.fragments if f.id in fragments or any(part.path in parts for part in f.parts)]
        if lost or old.number in parent.condemned_versions:
            raise VersionExpired(
                f"{store.url}: version {old.number} was given up by gc, with {len(lost)} of its {len(old.fragments)} fragments;"
                " go back to another that chunkstore.versions lists. If a tag spared it, chunkstore.open(url, tag=name) opens"
                " it"
            )
        return replace(
            parent,
            number=parent.number + 1,
            parent=parent.number,
            writer=writer,
            time=time,
            message=message,
            schema=old.schema,
            fragments=old.fragments,
            pages=old.pages,
            statistics=old.statistics,
            next_sample_id=max(parent.next_sample_id, old.next_sample_id),
        )

    return commit(store, next_version, create=False)
