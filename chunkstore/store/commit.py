"""Versions in a store: finding, reading and committing them.

The version document, put if absent, is the commit: before it nothing is visible, after it everything is. Nothing is deleted
when an answer is unclear; the document is read back and the writer's UUID tells whose it is. `writer.py` stands before it with
objects that are durable already.

Source: docs/spec/v1.md, "Commits"; docs/explanation tells why.
"""

import contextlib
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from itertools import accumulate

from chunkstore.errors import (
    CommitConflict,
    DatasetExists,
    DatasetNotFound,
    InvalidDataset,
    MissingObject,
    SchemaError,
    StoreError,
    VersionExpired,
)
from chunkstore.format.documents import parse_json, seal, unseal
from chunkstore.format.metadata import group_to_json, zarr_json
from chunkstore.format.schema import Schema
from chunkstore.format.statistics import Statistics
from chunkstore.format.versions import FORMAT, LATEST_KEY, FieldStatistics, Fragment, Version, version_key
from chunkstore.store.interface import Store

MAX_DOCUMENT_NBYTES = 1 << 30
MAX_ATTEMPTS = 1000
MAX_STEPS = 8
"""Versions that are looked for one by one beyond a hint before the steps get longer."""


def new_id() -> str:
    """A fresh UUID, as the format writes it: 32 hexadecimal digits."""
    return uuid.uuid4().hex


def now() -> str:
    """The time, as the format writes it: UTC, ISO 8601, microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def read_version(store: Store, number: int | None = None) -> Version:
    """Version `number`, or the latest.

    The latest takes two sequential round trips when the hint is current, one more for each version it misses.

    Raises:
        DatasetNotFound: there is no dataset, or no such version.
        InvalidDataset: the document is damaged.
        MissingObject: the document is absent, though a later one is there.
        VersionExpired: `gc` has dropped the version.
    """
    if number is None:
        return read_latest(store)
    version = _read_document(store, number)
    if version is None:
        latest = read_latest(store)
        if 0 < number < latest.number:
            raise MissingObject(
                f"{store.url}/{version_key(number)} is absent, though version {latest.number} is there, and gc would leave a"
                " tombstone; restore the object"
            )
        raise DatasetNotFound(f"{store.url}: version {number} does not exist; the latest is {latest.number}")
    return version


def read_latest(store: Store) -> Version:
    """The latest version; see `read_version`."""
    version = find_latest(store)
    if version is None:
        raise DatasetNotFound(f"no chunkstore dataset at {store.url}; create one with chunkstore.create(url, schema)")
    return version


def find_latest(store: Store) -> Version | None:
    """The latest version, None where there is none."""
    hint = _read_hint(store)
    if hint is None or (version := _probe_from(store, hint)) is None:
        return _probe_from(store, 1)
    return version


def create_root(store: Store) -> str:
    """Write the groups at the root, unless they stand already; the dataset's UUID.

    A creation that died before its first version left them; it is taken up, not refused.
    """
    root = group_to_json({"chunkstore": {"format": FORMAT, "uuid": new_id()}})
    store.write_if_absent("zarr.json", zarr_json(root))
    store.write_if_absent("fragments/zarr.json", zarr_json(group_to_json({})))
    return read_uuid(store)


def read_uuid(store: Store) -> str:
    """The dataset's UUID, from the root group.

    Raises:
        DatasetNotFound: there is no group, or not one of ours.
    """
    where = f"{store.url}/zarr.json"
    try:
        node = parse_json(store.read("zarr.json", limit_nbytes=1 << 20), where)
    except FileNotFoundError:
        raise DatasetNotFound(f"no chunkstore dataset at {store.url}") from None
    if "attributes" not in node or "chunkstore" not in node.member("attributes"):
        raise InvalidDataset(f"{where}: a Zarr node that is no chunkstore dataset; choose another URL")
    return node.member("attributes").member("chunkstore").member("uuid").string("[0-9a-f]{32}")


def check_message(message: str) -> str:
    """The message, if a version can hold it.

    Raises:
        ValueError: it is no string, or one that UTF-8 cannot hold.
    """
    if not isinstance(message, str):
        raise ValueError(f"message={message!r}: a string is needed, to be kept in the version")
    try:
        message.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"message={message!r}: not text that UTF-8 can hold: {error}") from None
    return message


def commit_fragments(
    store: Store,
    dataset: str,
    schema: Schema,
    fragments: tuple[Fragment, ...],
    statistics: Mapping[str, FieldStatistics],
    *,
    message: str,
    create: bool,
) -> Version:
    """Make fragments visible, together, as the next version; their `first` is given here.

    Loses no race but to give it another try: an append rebases on whatever version won, a creation gives way.

    Raises:
        DatasetExists: `create`, and somebody else's first version is there.
        SchemaError: the schema of the dataset is another by now.
        CommitConflict: a fragment was condemned by `gc`, or the race was lost too often.
        StoreError: the store failed and did not tell, when asked again, whether it had taken the version.
    """
    writer, time = new_id(), now()

    def next_version(parent: Version | None) -> Version:
        if parent is None:
            first = _renumber(fragments, 0)
            total = sum(f.samples for f in first)
            return Version(dataset, 1, None, writer, time, message, schema, first, statistics, total)
        if parent.dataset != dataset:
            raise CommitConflict(f"{store.url}: another dataset took the place of {dataset}; append to that one anew")
        if not parent.schema.same_types(schema):
            raise SchemaError(
                f"{store.url}: version {parent.number} has another schema:\n{parent.schema!r}\nnot\n{schema!r}"
            )
        ours = {f.id for f in fragments}
        if ours & {f.id for f in parent.fragments}:
            raise CommitConflict(
                f"{store.url}: version {parent.number} holds these fragments already; nothing is left to do"
            )
        added = _renumber(fragments, parent.next_sample_id)
        return replace(
            parent,
            number=parent.number + 1,
            parent=parent.number,
            writer=writer,
            time=time,
            message=message,
            fragments=(*parent.fragments, *added),
            statistics={name: _merge(parent.statistics[name], statistics[name]) for name in parent.schema},
            next_sample_id=parent.next_sample_id + sum(f.samples for f in added),
        )

    return commit(store, next_version, create=create)


def commit(store: Store, next_version: Callable[[Version | None], Version], *, create: bool) -> Version:
    """Put the version that `next_version` makes of the latest one; again on the new latest whenever the race is lost."""
    store.check_commits()
    parent = find_latest(store)
    for _ in range(MAX_ATTEMPTS):
        if create and parent is not None:
            raise DatasetExists(
                f"{store.url}: version {parent.number} of a dataset is there; use append, or another URL"
            )
        version = next_version(parent)
        _check_alive(store, version)
        if _put(store, version):
            _write_hint(store, version.number)
            return version
        parent = _probe_from(store, version.number)
    raise CommitConflict(
        f"{store.url}: lost the race for the next version {MAX_ATTEMPTS} times; try again with fewer writers"
    )


def _check_alive(store: Store, version: Version) -> None:
    """Refuse a version that would lead to objects that `gc` has given up, and may have deleted."""
    fragments, parts = set(version.condemned_fragments), set(version.condemned_parts)
    if fragments or parts:
        for fragment in version.fragments:
            if fragment.id in fragments or any(part.path in parts for part in fragment.parts):
                raise CommitConflict(
                    f"{store.url}: fragment {fragment.id} was condemned by gc; write the samples again"
                )


def _put(store: Store, version: Version) -> bool:
    """Put a version document; whether it is there and ours, however unclear the store's answer was."""
    key, data = version_key(version.number), seal(version.to_json())
    _parse(store, version.number, data)  # what could not be read again must not become the latest version
    failure = None
    for _ in range(3):
        try:
            if store.write_if_absent(key, data):
                return True
        except StoreError as error:
            failure = error
        try:
            there = _read_document(store, version.number)
        except StoreError as error:
            failure = error
            continue
        except VersionExpired:  # whoever won has been succeeded, and dropped by gc, since
            return False
        if there is not None:
            return there.writer == version.writer
    raise StoreError(
        f"{store.url}/{key}: the commit failed, and what was sent may yet arrive: look with chunkstore.versions before you "
        "write the samples again"
    ) from failure


def _probe_from(store: Store, number: int) -> Version | None:
    """The last version, known to be `number` or later; None if there is none at `number`.

    Numbers are never freed, so versions stand in an unbroken row, whose end is found by steps of one, then longer ones.
    """
    with ThreadPoolExecutor(2, thread_name_prefix="chunkstore-open") as pool:
        here, following = pool.submit(_read_bytes, store, number), pool.submit(_read_next, store, number + 1)
        last, after = here.result(), following.result()
    if last is None:
        return None
    step = taken = 0
    while after is not None:
        number, last = number + max(1, step), after
        taken += 1
        step = 1 if taken < MAX_STEPS else step * 2
        after = _read_next(store, number + step)
    while step > 1:  # a version is at `number`, none at number + step
        step = (step + 1) // 2
        if (after := _read_next(store, number + step)) is not None:
            number, last = number + step, after
    try:
        return _parse(store, number, last)
    except VersionExpired as error:
        raise InvalidDataset(
            f"{store.url}: the last version, {number}, is a tombstone, which gc leaves for older ones only; restore the objects"
            " of the versions after it"
        ) from error


def _read_next(store: Store, number: int) -> bytes | None:
    """A version that may not be there yet; without permission to list, S3 answers 403 for what is absent."""
    try:
        return _read_bytes(store, number)
    except PermissionError:
        return None


def _read_document(store: Store, number: int) -> Version | None:
    data = _read_bytes(store, number)
    return None if data is None else _parse(store, number, data)


def _read_bytes(store: Store, number: int) -> bytes | None:
    key = version_key(number)
    try:
        return store.read(key, limit_nbytes=MAX_DOCUMENT_NBYTES)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InvalidDataset(f"{store.url}/{key}: larger than any version document: {error}") from error


def _parse(store: Store, number: int, data: bytes) -> Version:
    where = f"{store.url}/{version_key(number)}"
    version = Version.from_json(unseal(data, where))
    if version.number != number:
        raise InvalidDataset(f"{where}: holds version {version.number}")
    return version


def _read_hint(store: Store) -> int | None:
    """The number in the hint; None where it is absent or damaged, since it is only a hint."""
    try:
        return unseal(store.read(LATEST_KEY, limit_nbytes=1 << 16), LATEST_KEY).member("number").integer(1)
    except (FileNotFoundError, PermissionError, InvalidDataset, ValueError):
        return None


def _write_hint(store: Store, number: int) -> None:
    # the version is committed; readers probe forward from an older hint
    with contextlib.suppress(StoreError, PermissionError):
        store.write(LATEST_KEY, seal({"number": number}))


def _renumber(fragments: tuple[Fragment, ...], first: int) -> tuple[Fragment, ...]:
    firsts = accumulate((fragment.samples for fragment in fragments), initial=first)
    return tuple(replace(fragment, first=n) for fragment, n in zip(fragments, firsts, strict=False))


def _merge(a: FieldStatistics, b: FieldStatistics) -> FieldStatistics:
    empty = Statistics()
    return {kind: a.get(kind, empty).merge(b.get(kind, empty)) for kind in {**a, **b}}
