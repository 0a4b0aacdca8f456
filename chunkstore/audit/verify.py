"""Verifying a version: is every object there, with the bytes that were written, and do they agree?

Reads every object of a version once, in pieces, against the sizes and checksums that the parts' object lists record, and goes
on after whatever it finds; `damage.py` then names the fields and samples that damaged objects touch. Serves no sample, repairs
nothing, writes nothing. Before it: the user, and `chunkstore verify`; after it: the store.

Source: docs/spec/v1.md, "The object list", "What a reader verifies".
"""

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from chunkstore.audit.damage import Damage, Kind, Shard, StoredField, contradictions, damage_in_shard
from chunkstore.audit.history_check import history_damage
from chunkstore.audit.object_check import group_damage, object_damage
from chunkstore.errors import InvalidDataset, MissingObject, StoreError, UnsupportedFormat, VersionExpired
from chunkstore.format.documents import unseal
from chunkstore.format.metadata import ArrayMetadata
from chunkstore.format.versions import (
    FORMAT,
    LATEST_KEY,
    OBJECTS_NAME,
    Fragment,
    Part,
    StoredObject,
    Version,
    version_key,
    version_number,
)
from chunkstore.history.pages import Pages
from chunkstore.history.versions import find_document, no_dataset, read_version, survey_latest
from chunkstore.reading.cache import ChunkCache
from chunkstore.reading.part import OpenPart, read_metadata, read_objects
from chunkstore.store.interface import Store
from chunkstore.store.location import open_store
from chunkstore.store.threads import JobThreads

NUM_REMOTE_THREADS = 8
"""Each has 16 MiB in flight."""
_NUM_OPENERS = 4
_CACHE_NBYTES = 16 << 20
_HINT_NBYTES = 1 << 16
_TOGETHER_NBYTES = 1 << 20
"""Small local objects are checked several in one job."""

Url = str | os.PathLike[str]
Progress = Callable[[int, int], object]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Report:
    """What `verify` found.

    Attributes:
        version: Number of the version; None where its document is damaged.
        damages: Everything that is wrong, in the order of fragments and objects.
        objects: Number of objects checked.
        nbytes: Bytes that they should have.
    """

    version: int | None
    damages: tuple[Damage, ...]
    objects: int
    nbytes: int

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damages


def verify(
    url: Url,
    *,
    version: int | None = None,
    deep: bool = False,
    num_threads: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: Any = None,
    progress: Progress | None = None,
) -> Report:
    """Check every object of a version, and list all damage with the fields and samples it touches.

    Of the latest version (`version=None`) the history is checked too: that the document of every version before it is there
    and sound, or a tombstone of one that was given up, that none after it was lost, and that all tags can be read. Objects and
    pages that only older versions hold are checked when those are verified.

    Each object must be there, with the size and the crc32 recorded when it was written; documents must agree with each
    other, and spans and shapes of ragged fields with their values. Memory stays bounded: 16 MiB a thread, or a chunk where
    one is larger.

    Args:
        url: Path or URL of the dataset.
        version: Number of the version; the latest if None.
        deep: Also decode every chunk and check every sample of what has the right checksum: this finds what a faulty writer
            stored, and reads shards twice.
        num_threads: Threads that read and check; the number of cores for local data and 8 for other stores if None.
        storage_options: For the store, under obstore's names or s3fs's.
        filesystem: An fsspec filesystem to read through instead; `url` is then a path in it.
        progress: Called with (bytes done, bytes in all), by one thread at a time.

    Raises:
        DatasetNotFound: there is no dataset at `url`, or no such version.
        UnsupportedFormat: a newer format.
        VersionExpired: the version was dropped by `gc`.
        StoreError: the store failed, so nothing can be said.
        ValueError: fewer threads than one.
    """
    if num_threads is not None and num_threads < 1:
        raise ValueError(f"num_threads={num_threads}: at least 1, or None for as many as suit the store")
    store = open_store(url, storage_options=storage_options, filesystem=filesystem)
    try:
        document, lost = _read(store, version)
    except (InvalidDataset, MissingObject) as error:
        key = version_key(version) if version is not None else _last_version_key(store)
        return Report(None, tuple(_page_damage(store, key)) or (_document_damage(key, error, None),), 1, 0)
    if document is None:
        return Report(None, tuple(lost), 1, 0)
    count = num_threads or ((os.cpu_count() or 1) if store.is_local else NUM_REMOTE_THREADS)
    openers = JobThreads(min(count, _NUM_OPENERS), "chunkstore-verify-open")
    checkers = JobThreads(count, "chunkstore-verify")
    meter = _Meter(sum(place.part.stored_nbytes for place in _parts(document)), progress)
    damages = [*lost, *_damage_at_root(store, document), *_page_damage(store, version_key(document.number))]
    if version is None:
        known = {damage.key for damage in damages}
        damages += [damage for damage in history_damage(store, document) if damage.key not in known]
    try:
        verifier = _Verifier(store, document, deep, meter)
        opened = _in_order(openers, verifier.open_part, _parts(document), 2 * _NUM_OPENERS)
        jobs = (job for part in opened for job in verifier.jobs(part))
        for found, unreadable in _in_order(checkers, _run, jobs, 4 * count):
            damages += found
            if unreadable is not None:
                _tell_unreadable(damages, *unreadable)
    finally:
        openers.close()
        checkers.close()
    return Report(document.number, tuple(damages), meter.objects, meter.done)


_Unreadable = tuple[StoredField, Exception]
_Found = tuple[list[Damage], _Unreadable | None]
_Job = Callable[[], _Found]


@dataclass(frozen=True, slots=True)
class _Place:
    """A part, and where its samples lie in the version."""

    fragment: Fragment
    part: Part
    position: int

    @property
    def samples(self) -> tuple[int, int]:
        return self.position, self.position + self.fragment.samples


@dataclass(frozen=True, slots=True)
class _OpenedPart:
    """What a part says of itself.

    Attributes:
        place: The part.
        objects: Every object it should have.
        shards: Those that are shards of readable fields, by key relative to the part.
        fields: Fields whose metadata is in order.
        damages: What is wrong with its documents.
    """

    place: _Place
    objects: Mapping[str, StoredObject]
    shards: Mapping[str, Shard]
    fields: tuple[StoredField, ...]
    damages: list[Damage]


@dataclass(slots=True)
class _Meter:
    """Counts what is done, and tells."""

    total: int
    progress: Progress | None
    objects: int = 0
    done: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, nbytes: int, *, objects: int = 0) -> None:
        with self._lock:
            self.done += nbytes
            self.objects += objects
            if self.progress is not None:
                self.progress(self.done, max(self.done, self.total))


class _Verifier:
    """Checks the parts of one version."""

    def __init__(self, store: Store, document: Version, deep: bool, meter: _Meter) -> None:
        self._store, self._document, self._deep, self._meter = store, document, deep, meter
        self._cache = ChunkCache(_CACHE_NBYTES)
        self._large = threading.Lock()

    def open_part(self, place: _Place) -> _OpenedPart:
        """Read the part's documents; damage of one makes nothing else unknown that another tells."""
        part = place.part
        damages: list[Damage] = []
        if part is place.fragment.parts[0]:
            damages += group_damage(self._store, f"fragments/{place.fragment.id}/zarr.json", {})
        try:
            objects = read_objects(self._store, part)
        except (MissingObject, InvalidDataset, PermissionError) as error:
            damages.append(_document_damage(f"{part.path}/{OBJECTS_NAME}", error, place.samples))
            self._meter.add(part.stored_nbytes, objects=1)
            return _OpenedPart(place, {}, {}, (), damages)
        self._meter.add(part.objects_nbytes, objects=1)
        listed = sum(stored.nbytes for stored in objects.values()) + part.objects_nbytes
        self._compare(f"stored bytes of {part.path}", part.stored_nbytes, listed, damages)
        try:
            metadata = read_metadata(self._store, part, objects)
        except (MissingObject, InvalidDataset, UnsupportedFormat, PermissionError) as error:
            damages.append(_document_damage(f"{part.path}/zarr.json", error, place.samples))
            return _OpenedPart(place, objects, {}, (), damages)
        decoded = sum(
            math.prod(array.shape) * array.numpy_dtype.itemsize
            for path, array in metadata.items()
            if path.partition("/")[0] in part.fields and not path.endswith("/crc")
        )
        self._compare(f"decoded bytes of {part.path}", part.nbytes, decoded, damages)
        fields = tuple(self._open_fields(place, objects, metadata, damages))
        shards = {key: shard for stored in fields for key, shard in _shards_of(stored, objects)}
        return _OpenedPart(place, objects, shards, fields, damages)

    def _compare(self, what: str, said: int, found: int, damages: list[Damage]) -> None:
        if said != found:
            told = f"{what}: {said} by the version document, {found} by the part's own"
            damages.append(Damage(version_key(self._document.number), "metadata", told))

    def jobs(self, opened: _OpenedPart) -> Iterator[_Job]:
        """What is left to check of a part: each object, then each field."""
        yield lambda: (opened.damages, None)
        small: list[str] = []
        nbytes = 0
        for key, stored in opened.objects.items():
            if key == "zarr.json":  # was read and compared when the part was opened
                self._meter.add(stored.nbytes, objects=1)
                continue
            small.append(key)
            nbytes += stored.nbytes
            if nbytes >= _TOGETHER_NBYTES or not self._store.is_local:
                yield self._objects_job(opened, small)
                small, nbytes = [], 0
        if small:
            yield self._objects_job(opened, small)
        for stored_field in opened.fields:
            yield self._field_job(stored_field)

    def _objects_job(self, opened: _OpenedPart, keys: list[str]) -> _Job:
        return lambda: ([damage for key in keys for damage in self._check_object(opened, key)], None)

    def _field_job(self, stored: StoredField) -> _Job:
        def check() -> _Found:
            found, unreadable = contradictions(stored)
            return found, None if unreadable is None else (stored, unreadable)

        return check

    def _open_fields(
        self,
        place: _Place,
        objects: dict[str, StoredObject],
        metadata: dict[str, ArrayMetadata],
        damages: list[Damage],
    ) -> Iterator[StoredField]:
        part, schema = place.part, self._document.schema
        for name in part.fields:
            if name not in schema:
                continue
            alone = replace(part, fields=(name,))
            try:
                opened = OpenPart(
                    self._store,
                    place.fragment,
                    alone,
                    schema,
                    place.position,
                    self._cache,
                    documents=(objects, metadata),
                )
            except InvalidDataset as error:
                damages.append(Damage(f"{part.path}/zarr.json", "metadata", str(error), name, place.samples))
                continue
            stored = StoredField(
                self._store, part.path, name, schema[name], opened, place.position, place.fragment.samples
            )
            if unlisted := _unlisted_shard(stored, objects):
                told = f"{unlisted} is needed, and not listed"
                damages.append(Damage(f"{part.path}/{OBJECTS_NAME}", "metadata", told, name, place.samples))
                continue
            yield stored

    def _check_object(self, opened: _OpenedPart, key: str) -> list[Damage]:
        stored, place = opened.objects[key], opened.place
        name = key.partition("/")[0]
        field_name = name if name in place.part.fields else None
        whole = f"{place.part.path}/{key}"
        found = object_damage(self._store, whole, stored, self._meter.add)
        self._meter.add(0, objects=1)
        shard = opened.shards.get(key)
        if shard is not None:
            return self._shard_damage(shard, found)
        if found is None:
            return []
        is_data = not key.endswith("/zarr.json")  # readers use the part's own, which has it all
        return [Damage(whole, *found, field_name, place.samples if is_data and field_name else None)]

    def _shard_damage(self, shard: Shard, found: tuple[Kind, str] | None) -> list[Damage]:
        inside: list[Damage] = []
        if found[0] == "checksum" if found else self._deep:
            inside = damage_in_shard(shard, self._large)
        if inside or found is None:
            return inside
        if found[0] == "checksum" and shard.array.metadata.is_plain:
            return [Damage(shard.key, *found, shard.field.name)]  # every sample has passed its own check
        return [shard.damage(*found, *shard.rows)]


def _run(job: _Job) -> _Found:
    return job()


def _in_order(
    threads: JobThreads, work: Callable[[_Item], _Result], items: Iterable[_Item], ahead: int
) -> Iterator[_Result]:
    """The results of `work` in the order of items, of which so many are begun ahead."""
    waiting: deque[Future[_Result]] = deque()
    for item in items:
        waiting.append(threads.submit(work, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _parts(document: Version) -> Iterator[_Place]:
    position = 0
    for fragment in document.fragments:
        for part in fragment.parts:
            yield _Place(fragment, part, position)
        position += fragment.samples


def _shards_of(stored: StoredField, objects: Mapping[str, StoredObject]) -> Iterator[tuple[str, Shard]]:
    for path, array in stored.opened.arrays.items():
        for number in range(_num_shards(array.metadata)):
            key = f"{path}/{array.metadata.shard_key(number)}"
            yield key, Shard(stored, path, number, objects[key])


def _unlisted_shard(stored: StoredField, objects: Mapping[str, StoredObject]) -> str | None:
    """A shard that the part's object list should name; there are as many as needed, so there is another instead."""
    for path, array in stored.opened.arrays.items():
        for number in range(_num_shards(array.metadata)):
            if (key := f"{path}/{array.metadata.shard_key(number)}") not in objects:
                return key
    return None


def _num_shards(metadata: ArrayMetadata) -> int:
    return metadata.shard_grid[0] if all(metadata.shape) else 0


def _damage_at_root(store: Store, document: Version) -> list[Damage]:
    """Groups at the root and the hint, which have no checksum elsewhere."""
    damages: list[Damage] = []
    damages += group_damage(store, "zarr.json", {"format": FORMAT, "uuid": document.dataset})
    damages += group_damage(store, "fragments/zarr.json", {})
    try:
        unseal(store.read(LATEST_KEY, limit_nbytes=_HINT_NBYTES), LATEST_KEY).member("number").integer(1)
    except (FileNotFoundError, PermissionError):
        pass  # readers do without
    except (InvalidDataset, ValueError) as error:
        told = f"{error}; readers find the latest version without it, and the next commit writes it anew"
        damages.append(Damage(LATEST_KEY, "metadata", told))
    return damages


def _read(store: Store, number: int | None) -> tuple[Version | None, list[Damage]]:
    """The version to verify, None where it is lost; of the latest also what speaks for later ones that are lost."""
    if number is not None:
        return read_version(store, number), []
    version, lost = survey_latest(store, may_list=True)
    if version is None and lost is None:
        raise no_dataset(store, "nothing can be verified")
    return version, [] if lost is None else [Damage(lost.key, "missing", lost.told)]


def _last_version_key(store: Store) -> str:
    """Key of the last version document, for when it cannot be read."""
    try:
        return version_key(max(version_number(listed.key) or 1 for listed in store.list("_chunkstore/versions")))
    except (StoreError, PermissionError, ValueError):  # it cannot be listed, or nothing can be seen there
        return "_chunkstore/versions"


def _page_damage(store: Store, key: str) -> list[Damage]:
    """The pages for which a version cannot be read, or its condemnations; none if it is for its document."""
    try:
        document = find_document(store, version_number(key) or 1)
    except (InvalidDataset, VersionExpired):
        return []
    if document is None:
        return []
    wrong = Pages(store).damage(document.pages, document.condemned_pages)
    return [_document_damage(page, error, None) for page, error in wrong.items()]


def _document_damage(key: str, error: Exception, samples: tuple[int, int] | None) -> Damage:
    missing = isinstance(error, MissingObject | PermissionError)
    return Damage(key, "missing" if missing else "metadata", str(error), None, samples)


def _tell_unreadable(damages: list[Damage], stored: StoredField, error: Exception) -> None:
    """Spans that cannot be read are told once: where no object that holds them is told as damaged already."""
    prefixes = tuple(f"{stored.part}/{stored.name}/{member}/" for member in ("spans", "shape"))
    if any(damage.key.startswith(prefixes) for damage in damages):
        return
    if isinstance(error, StoreError):
        raise error
    samples = stored.samples(0, stored.num_samples)
    damages.append(Damage(f"{stored.part}/{stored.name}/spans", "chunk", str(error), stored.name, samples))
