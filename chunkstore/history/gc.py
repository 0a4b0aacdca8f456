"""Giving up what is no longer wanted: old versions, what only they hold, and what dead writers left.

First a version is committed that names what is given up, for good; whoever commits after it keeps away from that. Only then are
objects deleted, and last the documents, each replaced by a tombstone that keeps its number taken. So nothing that a version
leads to is ever deleted before a later version has said so, and who dies in between leaves work for the next run, never damage.
Must never delete what the latest or a tagged version holds. Before it: the user, and `chunkstore gc`; after it:
`gc_survey.py`, which decides, and `commit.py`.

Source: docs/spec/v1.md, "Giving up" (11.4).
"""

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from chunkstore.errors import DatasetNotFound, StoreError
from chunkstore.format.documents import seal
from chunkstore.format.versions import Version, tombstone_to_json, version_key
from chunkstore.history.commit import commit, new_id, now, read_latest
from chunkstore.history.gc_survey import Doomed, Plan, Survey, doom, plan
from chunkstore.history.tags import Url, read_tags
from chunkstore.store.interface import LeavesFiles, Store
from chunkstore.store.location import open_store

NUM_THREADS = 8
DAY_S = 86400.0

Progress = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class GcReport:
    """What `gc` removed, or would remove.

    Attributes:
        versions: Numbers of versions that were dropped.
        fragments: Ids of fragments that only those held.
        parts: Paths of parts that only those held, in fragments that live on.
        orphans: Ids of fragments and paths of parts that no version ever led to.
        objects: Number of objects deleted, pages and what probes left included; documents of versions, which tombstones
            replace, are not counted.
        nbytes: Bytes of those objects and files.
        unfinished: Number of files deleted that killed writers left on a local disk before they became objects.
        committed: Number of the version that says so; None if nothing had to be said.
        dry_run: Whether nothing was changed.
    """

    versions: tuple[int, ...]
    fragments: tuple[str, ...]
    parts: tuple[str, ...]
    orphans: tuple[str, ...]
    objects: int
    nbytes: int
    committed: int | None
    dry_run: bool = False
    unfinished: int = 0

    def __repr__(self) -> str:
        names = ("versions", "fragments", "parts", "orphans", "objects")
        counts = (len(self.versions), len(self.fragments), len(self.parts), len(self.orphans), self.objects)
        told = ", ".join(f"{name}: {count:,}" for name, count in zip(names, counts, strict=True))
        end = "dry run" if self.dry_run else f"committed version: {self.committed}"
        unfinished = f", unfinished files: {self.unfinished:,}" if self.unfinished else ""
        return f"GcReport({told}, {self.nbytes:,} bytes{unfinished}, {end})"


def gc(
    url: Url,
    *,
    keep_versions: int | None = None,
    orphan_age_s: float = DAY_S,
    dry_run: bool = False,
    progress: Progress | None = None,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: Any = None,
) -> GcReport:
    """Give up old versions, and delete what no version that is kept leads to.

    The latest version and those with a tag are always kept. What goes is named in a version that is committed first, with the
    contents of the one before it; if there is nothing to give up, none is. Other writers may go on meanwhile: what they commit
    before that version is kept, and a commit of what was given up is refused. Readers of a version that is dropped lose it.
    Interrupted at any point, another run finishes the work.

    Args:
        url: Path or URL of the dataset.
        keep_versions: How many of the last versions are kept, besides those with a tag; all if None. Versions that differ from
            the one before in neither fields nor samples, such as those that gc commits, count as one with it.
        orphan_age_s: What no version leads to is deleted when its newest object is older than this, and so is an unfinished
            file: a writer may be about to commit it. It must be longer than the longest job takes from its first object to its
            commit, `add_fields`, `compact` and fragments that wait for `commit` included: if not, that commit fails.
        dry_run: Change nothing, only say what would be removed.
        progress: Called with (objects deleted, objects in all), by one thread at a time.
        storage_options: For the store, under obstore's names or s3fs's.
        filesystem: An fsspec filesystem to work through.

    Raises:
        DatasetNotFound: there is no dataset.
        InvalidDataset: a version's or a tag's document is damaged; nothing is given up as long as it is unknown what it names.
        MissingObject: a version's document is absent.
        CommitConflict: the race for the next version was lost too often.
        ReadOnlyStore: the store cannot commit safely.
        StoreError: the store failed, or does not let its objects be listed.
        ValueError: `keep_versions` below 1, or a negative age.
    """
    if keep_versions is not None and (isinstance(keep_versions, bool) or keep_versions < 1):
        raise ValueError(f"keep_versions={keep_versions}: at least 1, the latest, is always kept; None keeps all")
    if math.isnan(orphan_age_s) or orphan_age_s < 0:
        raise ValueError(f"orphan_age_s={orphan_age_s}: seconds, 0 or more")
    store = open_store(url, storage_options=storage_options, filesystem=filesystem)
    oldest = time.time() - orphan_age_s
    try:
        return _Collection(store, keep_versions, oldest).run(progress, dry_run=dry_run)
    except PermissionError as error:
        raise StoreError(
            f"{store.url}: gc has to list objects and to delete them, and the store refuses: {error}. Run it with credentials"
            " that may (S3: s3:ListBucket, s3:GetObject, s3:PutObject, s3:DeleteObject)"
        ) from error


class _NothingToGiveUp(Exception):
    """The versions that are there by now leave nothing to commit."""

    def __init__(self, latest: Version) -> None:
        super().__init__()
        self.latest = latest


class _Collection:
    """One run."""

    def __init__(self, store: Store, keep_versions: int | None, oldest: float) -> None:
        self._store, self._keep_versions, self._oldest = store, keep_versions, oldest
        self._survey = Survey()
        self._writer, self._time = new_id(), now()
        self._plan = Plan()

    def run(self, progress: Progress | None, *, dry_run: bool) -> GcReport:
        """Survey, commit, delete."""
        latest = read_latest(self._store, committing=True)
        self._survey.list_store(self._store)
        committed, is_new = None, True
        try:
            version = self._next_version(latest)
            if not dry_run:
                version = commit(self._store, self._next_version, create=False)
                committed = version.number
        except _NothingToGiveUp as nothing:
            version, is_new = nothing.latest, False
        self._survey.add(version)
        # a tag that was acknowledged before the commit is seen now, whenever it was put
        doomed = doom(self._survey, version, self._tagged(), oldest=self._oldest, committed=is_new)
        objects, nbytes = doomed.objects, doomed.nbytes
        if not dry_run:
            objects, nbytes = _delete(self._store, doomed, progress)
        orphans = set(self._plan.orphans)
        return GcReport(
            versions=doomed.versions,
            fragments=tuple(name for name in doomed.fragments if name not in orphans),
            parts=tuple(name for name in doomed.parts if name not in orphans),
            orphans=tuple(name for name in (*doomed.fragments, *doomed.parts) if name in orphans),
            objects=objects,
            nbytes=nbytes,
            committed=committed,
            dry_run=dry_run,
            unfinished=len(doomed.unfinished),
        )

    def _next_version(self, parent: Version | None) -> Version:
        if parent is None:
            raise DatasetNotFound(f"{self._store.url}: the dataset vanished while gc looked at it")
        tagged = self._tagged()
        self._survey.read_versions(self._store, parent, tagged)
        self._plan = given_up = plan(
            self._survey, parent, tagged, keep_versions=self._keep_versions, oldest=self._oldest
        )
        if given_up.is_empty:
            raise _NothingToGiveUp(parent)
        ids = [name for name in given_up.orphans if "/" not in name]
        paths = [name for name in given_up.orphans if "/" in name]
        return replace(
            parent,
            number=parent.number + 1,
            parent=parent.number,
            writer=self._writer,
            time=self._time,
            message=_message(given_up),
            condemned_versions=(*parent.condemned_versions, *given_up.versions),
            condemned_fragments=(*parent.condemned_fragments, *given_up.fragments, *ids),
            condemned_parts=(*parent.condemned_parts, *given_up.parts, *paths),
        )

    def _tagged(self) -> set[int]:
        tags = read_tags(self._store)
        if tags is None:
            raise PermissionError(f"cannot list the tags of {self._store.url}")
        return {tag.version for tag in tags.values()}


def _delete(store: Store, doomed: Doomed, progress: Progress | None) -> tuple[int, int]:
    """Delete: objects first, then documents, last the pages that nothing leads to then; how many objects, and all bytes."""
    folders = [*(f"fragments/{fragment}" for fragment in doomed.fragments), *doomed.parts]
    total = doomed.objects + len(doomed.versions) + len(doomed.unfinished)
    objects = nbytes = steps = 0

    def tell(done: int) -> None:
        nonlocal steps
        steps += done
        if progress is not None:
            progress(steps, max(steps, total))

    def delete_folder(folder: str) -> tuple[int, int]:
        there = list(store.list(folder))
        store.delete(listed.key for listed in there)
        return len(there), sum(listed.nbytes for listed in there)

    def bury(number: int) -> None:
        store.write(version_key(number), seal(tombstone_to_json(number)))

    if isinstance(store, LeavesFiles) and doomed.unfinished:
        store.delete_unfinished(listed.key for listed in doomed.unfinished)
        nbytes += sum(listed.nbytes for listed in doomed.unfinished)
        tell(len(doomed.unfinished))
    with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="chunkstore-gc") as pool:
        for count, size in pool.map(delete_folder, folders):
            objects, nbytes = objects + count, nbytes + size
            tell(count)
        store.delete(listed.key for listed in doomed.probes)
        objects, nbytes = objects + len(doomed.probes), nbytes + sum(listed.nbytes for listed in doomed.probes)
        tell(len(doomed.probes))
        for _ in pool.map(bury, doomed.versions):
            tell(1)
    store.delete(listed.key for listed in doomed.pages)
    tell(len(doomed.pages))
    return objects + len(doomed.pages), nbytes + sum(listed.nbytes for listed in doomed.pages)


def _message(given_up: Plan) -> str:
    """What the history says of it."""
    counts = (
        (len(given_up.versions), "version"),
        (len(given_up.fragments), "fragment"),
        (len(given_up.parts), "part"),
        (len(given_up.orphans), "orphan"),
        (len(given_up.pages), "page"),
    )
    return "gc gave up " + ", ".join(f"{count:,} {noun}{'s' * (count != 1)}" for count, noun in counts if count)
