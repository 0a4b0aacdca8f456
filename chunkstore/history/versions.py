"""Reading versions: a numbered one, the latest one, or only the document of one.

The hint names the latest version and its pages, so that a reader asks for all of them at once: two round trips, one more for
each version that the hint misses. The hint decides nothing; the documents do. Writes nothing. `commit.py` commits on what is
found here; `reading/dataset.py` and `past_versions.py` open it.

Source: docs/spec/v1.md, "The latest version", "Pages".
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from chunkstore.errors import DatasetNotFound, InvalidDataset, MissingObject, StoreError, VersionExpired
from chunkstore.format.documents import Json, is_sealed, parse_json, unseal
from chunkstore.format.fragments import UUID
from chunkstore.format.pages import MAX_PAGE_NBYTES
from chunkstore.format.versions import LATEST_KEY, Version, VersionDocument, version_key, version_number
from chunkstore.history.pages import Pages
from chunkstore.store.documents import read_twice_if_damaged
from chunkstore.store.fetch import NUM_CONNECTIONS
from chunkstore.store.interface import Store
from chunkstore.store.threads import JobThreads

MAX_DOCUMENT_NBYTES = 16 << 20
"""Of a version document, whose long lists are in pages: a schema of 4,096 ragged fields and their statistics."""
MAX_HINT_NBYTES = 1 << 16
MAX_ROOT_NBYTES = 1 << 20
MAX_EARLY_PAGES = 1000
MAX_EARLY_NBYTES = 32 << 20
"""Pages that are asked for because a hint names them, before anything is known for certain."""
MAX_STEPS = 8
"""Versions that are looked for one by one beyond a hint before the steps get longer."""


@dataclass(frozen=True, slots=True)
class Hint:
    """What the hint says of the latest version, which may be old or wrong.

    Attributes:
        number: Of the version.
        pages: Id and size of each page of fragments, as far as they may be asked for early.
    """

    number: int
    pages: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, version: Version) -> "Hint":
        """The hint at a version that was committed."""
        return cls(version.number, _early([(page.ref.id, page.ref.nbytes) for page in version.pages]))

    def to_json(self) -> dict[str, Json]:
        """The stored form."""
        hint: dict[str, Json] = {"number": self.number}
        return {**hint, "pages": [list(page) for page in self.pages]} if self.pages else hint


class Lost(NamedTuple):
    """A document of a version that must have been there.

    Attributes:
        key: Its key.
        told: How that is known, and what to do.
    """

    key: str
    told: str


def read_version(store: Store, number: int | None = None, *, pages: Pages | None = None) -> Version:
    """Version `number`, or the latest.

    The latest takes two sequential round trips when the hint is current, one more for each version it misses, and one if it
    does not know all pages.

    Args:
        store: Of the dataset.
        number: Of the version; the latest if None.
        pages: Pages that are known already; what is read is added.

    Raises:
        DatasetNotFound: there is no dataset, or no such version.
        InvalidDataset: the document or a page is damaged.
        MissingObject: the document is absent, though a later one is there; or a page.
        VersionExpired: `gc` has dropped the version.
    """
    if number is None:
        return read_latest(store, pages=pages)
    return _completed(read_document(store, number), pages or Pages(store))


def read_document(store: Store, number: int) -> VersionDocument:
    """The document of version `number`, without the pages that it refers to; raises as `read_version` does."""
    document = find_document(store, number)
    if document is None:
        latest = read_latest(store)
        if 0 < number < latest.number:
            raise MissingObject(
                f"{store.url}/{version_key(number)} is absent, though version {latest.number} is there, and gc would leave a"
                " tombstone; restore the object"
            )
        raise DatasetNotFound(f"{store.url}: version {number} does not exist; the latest is {latest.number}")
    return document


def read_latest(store: Store, *, pages: Pages | None = None, committing: bool = False) -> Version:
    """The latest version; see `read_version`, and of `committing` `find_latest`.

    Warns where the hint names a later version, whose document is absent: lost, or this copy was made while a commit ran.
    """
    version, lost = survey_latest(store, pages=pages, may_list=committing)
    if lost and committing:
        raise MissingObject(lost.told)
    if version is None:
        raise no_dataset(store, "create one with chunkstore.create(url, schema)")
    if lost:
        warnings.warn(lost.told, UserWarning, stacklevel=4)
    return version


def no_dataset(store: Store, advice: str) -> DatasetNotFound:
    """The error of a place without versions, which says what to do; of Zarr written by others that it is only read."""
    if _is_plain_zarr(store):
        return DatasetNotFound(
            f"{store.url} is Zarr written by others, no chunkstore dataset: it has no versions, and chunkstore only reads it,"
            " with chunkstore.open(url). To write, create a dataset at another URL"
        )
    return DatasetNotFound(f"no chunkstore dataset at {store.url}; {advice}")


def _is_plain_zarr(store: Store) -> bool:
    """Whether a node of Zarr that is not ours is at the root; False where that cannot be found out."""
    for key in ("zarr.json", ".zgroup", ".zarray"):
        try:
            node = parse_json(store.read(key, limit_nbytes=MAX_ROOT_NBYTES), key)
            return "zarr_format" in node and not ("attributes" in node and "chunkstore" in node.member("attributes"))
        except FileNotFoundError:
            continue
        except ValueError:  # consolidated metadata of others may be long, our root is not
            return True
        except (InvalidDataset, StoreError, OSError):
            return False
    return False


def find_latest(
    store: Store, *, pages: Pages | None = None, committing: bool = False, refused_is_absent: bool = False
) -> Version | None:
    """The latest version, None where there is none.

    Args:
        store: Of the dataset.
        pages: Pages that are known already; what is read is added.
        committing: Whether a version or a tag is to follow, or something to be deleted. A lost document must not let a number
            or sample ids be given twice, so what speaks for later versions is an error.
        refused_is_absent: Whether a refusal is taken for absence, as S3 refuses what is absent to those who may not list:
            where the store has just shown that it lets us read and write.

    Raises:
        MissingObject: `committing`, and documents of versions are absent.
    """
    version, lost = survey_latest(store, pages=pages, may_list=committing, refused_is_absent=refused_is_absent)
    if lost and committing:
        raise MissingObject(lost.told)
    return version


def survey_latest(
    store: Store, *, pages: Pages | None = None, may_list: bool = False, refused_is_absent: bool = False
) -> tuple[Version | None, Lost | None]:
    """The latest version, None where there is none; and what speaks for documents that were lost, None if nothing does.

    A hint is written after the document that it names. Without a usable one `may_list` asks the store what is there.
    """
    pages = pages or Pages(store)
    hint = _read_hint(store)
    gap = _find_gap(store) if hint is None and may_list else None
    if hint is not None and (version := find_beyond(store, hint, pages, refused_is_absent=refused_is_absent)):
        return version, None
    version = find_beyond(store, Hint(1), pages, refused_is_absent=refused_is_absent)
    reached = f"the row of versions ends at {version.number}" if version else "there is no version 1"
    if hint is not None and hint.number > (version.number if version else 0):
        key = version_key(hint.number)
        told = f"{store.url}: the hint names version {hint.number}, whose document is absent: {reached}. Restore {key}"
        return version, Lost(key, f"{told}, or, if this is a copy made while a commit ran, delete {LATEST_KEY}")
    if gap is not None:
        key = version_key(gap)
        return version, Lost(key, f"{store.url}: {key} is absent, though a later version is there; restore the object")
    return version, None


def _find_gap(store: Store) -> int | None:
    """The first version whose document is absent though that of a later one is there; None where that cannot be seen."""
    try:
        there = {version_number(listed.key) for listed in store.list("_chunkstore/versions")} - {None}
    except PermissionError:
        return None
    except StoreError:
        if store.url.startswith(("http://", "https://")):  # a web server lists nothing
            return None
        raise
    last = max((number for number in there if number is not None), default=0)
    for number in range(1, last):
        # a listing is no snapshot, but a document is put after those before it
        if number not in there and _read_next(store, number) is None:
            return number
    return None


def find_beyond(store: Store, hint: Hint, pages: Pages, *, refused_is_absent: bool = False) -> Version | None:
    """The last version, known to be that of the hint or a later one; None if there is none of its number.

    Numbers are never freed, so versions stand in an unbroken row, whose end is found by steps of one, then longer ones.
    """
    number = hint.number
    threads = JobThreads(min(2 + len(hint.pages), NUM_CONNECTIONS), "chunkstore-open")
    try:
        read_first = _read_next if refused_is_absent else _read_bytes
        here, following = threads.submit(read_first, store, number), threads.submit(_read_next, store, number + 1)
        pages.ask_early(threads, hint.pages)
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
            document = parse_document(store, number, last)
        except VersionExpired as error:
            raise InvalidDataset(
                f"{store.url}: the last version, {number}, is a tombstone, which gc leaves for older ones only; restore the"
                " objects of the versions after it"
            ) from error
        return _completed(document, pages)
    finally:
        threads.close()


def find_document(store: Store, number: int) -> VersionDocument | None:
    """The document of version `number`, None where it is absent."""
    data = _read_bytes(store, number)
    return None if data is None else parse_document(store, number, data)


def parse_document(store: Store, number: int, data: bytes) -> VersionDocument:
    """The document in the bytes that lie at the key of version `number`; raises as `VersionDocument.from_json` does."""
    where = f"{store.url}/{version_key(number)}"
    document = VersionDocument.from_json(unseal(data, where))
    if document.inline.number != number:
        raise InvalidDataset(f"{where}: holds version {document.inline.number}")
    return document


def _completed(document: VersionDocument, pages: Pages) -> Version:
    return document.complete(pages.fragments(document.pages), pages.condemned)


def _read_next(store: Store, number: int) -> bytes | None:
    """A version that may not be there yet; without permission to list, S3 answers 403 for what is absent."""
    try:
        return _read_bytes(store, number)
    except PermissionError:
        return None


def _read_bytes(store: Store, number: int) -> bytes | None:
    key = version_key(number)
    try:
        return read_twice_if_damaged(store, key, limit_nbytes=MAX_DOCUMENT_NBYTES, is_intact=is_sealed)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InvalidDataset(f"{store.url}/{key}: larger than any version document: {error}") from error


def _read_hint(store: Store) -> Hint | None:
    """The hint; None where it is absent or damaged, since it is only a hint."""
    try:
        node = unseal(store.read(LATEST_KEY, limit_nbytes=MAX_HINT_NBYTES), LATEST_KEY)
        number, pages = node.member("number").integer(1), []
        for item in node.member("pages").items() if "pages" in node else ():
            identity, nbytes = item.items(length=2)
            pages.append((identity.string(UUID), nbytes.integer(1, MAX_PAGE_NBYTES)))
    except (FileNotFoundError, PermissionError, InvalidDataset, ValueError):
        return None
    return Hint(number, _early(pages))


def _early(pages: Sequence[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    """The first pages, as many as may be asked for early."""
    taken, room = [], MAX_EARLY_NBYTES
    for page in pages[:MAX_EARLY_PAGES]:
        if (room := room - page[1]) < 0:
            break
        taken.append(page)
    return tuple(taken)
