"""Committing versions.

The version document, put if absent, is the commit: before it nothing is visible, after it everything is. Nothing is deleted
when an answer is unclear; the document is read back and the writer's UUID tells whose it is. `writer.py` stands before it with
objects that are durable already.

Source: docs/spec/v1.md, "A commit"; docs/explanation tells why.
"""

import contextlib
import random
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from chunkstore.errors import (
    CommitConflict,
    DatasetExists,
    DatasetNotFound,
    InvalidDataset,
    StoreError,
    VersionExpired,
)
from chunkstore.format.documents import parse_json, seal
from chunkstore.format.metadata import group_to_json, zarr_json
from chunkstore.format.pages import FragmentPage, condemned_from_page, fragments_from_page, page_key
from chunkstore.format.paging import PagedVersion, to_pages
from chunkstore.format.versions import FORMAT, LATEST_KEY, Version, version_key
from chunkstore.history.pages import Pages
from chunkstore.history.versions import (
    MAX_STEPS,
    Hint,
    find_beyond,
    find_document,
    find_latest,
    parse_document,
    read_latest,
    read_version,
)
from chunkstore.store.interface import NotDurable, Store

__all__ = [
    "MAX_STEPS",
    "check_message",
    "commit",
    "create_root",
    "find_latest",
    "new_id",
    "now",
    "read_latest",
    "read_uuid",
    "read_version",
]

MAX_ATTEMPTS = 1000
MAX_MESSAGE = 1 << 16
MIN_WAIT_S = 0.002
MAX_WAIT_S = 5.0
MAX_DOUBLINGS = 4
"""After so many lost races the waits grow no longer."""


def new_id() -> str:
    """A fresh UUID, as the format writes it: 32 hexadecimal digits."""
    return uuid.uuid4().hex


def now() -> str:
    """The time, as the format writes it: UTC, ISO 8601, microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def create_root(store: Store) -> str:
    """Write the groups at the root, unless they stand already; the dataset's UUID.

    A creation that died before its first version left them; it is taken up, not refused.
    """
    root = group_to_json({"chunkstore": {"format": FORMAT, "uuid": new_id()}})
    store.write_if_absent("zarr.json", zarr_json(root))
    dataset = read_uuid(store)  # before anything is written into what may be somebody else's Zarr
    store.write_if_absent("fragments/zarr.json", zarr_json(group_to_json({})))
    return dataset


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
    except ValueError as error:
        raise InvalidDataset(f"{where}: larger than any root group: {error}") from error
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
    if len(message) > MAX_MESSAGE:
        raise ValueError(f"a message of {len(message)} characters; at most {MAX_MESSAGE} are kept in a version")
    try:
        message.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"message={message!r}: not text that UTF-8 can hold: {error}") from None
    return message


def commit(store: Store, next_version: Callable[[Version | None], Version], *, create: bool) -> Version:
    """Put the version that `next_version` makes of the latest one; again on the new latest whenever the race is lost."""
    store.check_commits()
    pages = Pages(store)
    parent = find_latest(store, pages=pages, committing=True, refused_is_absent=True)
    for num_lost in range(1, MAX_ATTEMPTS + 1):
        if create and parent is not None:
            raise DatasetExists(
                f"{store.url}: version {parent.number} of a dataset is there; use append, or another URL"
            )
        begin_s = time.monotonic()
        version = next_version(parent)
        _check_alive(store, version)
        if (committed := _put(store, version, pages)) is not None:
            _write_hint(store, committed)
            return committed
        _wait_for_turn(version, num_lost, time.monotonic() - begin_s)
        parent = find_beyond(store, Hint(version.number), pages)
    raise CommitConflict(
        f"{store.url}: lost the race for the next version {MAX_ATTEMPTS} times; try again with fewer writers"
    )


def _check_alive(store: Store, version: Version) -> None:
    """Refuse a version that would lead to objects that `gc` has given up, and may have deleted."""
    fragments, parts = set(version.condemned_fragments), set(version.condemned_parts)
    if fragments or parts:
        for fragment in version.fragments:
            if fragment.id in fragments:
                raise CommitConflict(
                    f"{store.url}: fragment {fragment.id} was condemned by gc; write the samples again, and give gc an"
                    " orphan_age_s longer than that takes"
                )
            if lost := [part for part in fragment.parts if part.path in parts]:
                raise CommitConflict(
                    f"{store.url}: part {lost[0].path}, with the fields {', '.join(lost[0].fields)}, was condemned by gc; add"
                    " the fields again, and give gc an orphan_age_s longer than that takes"
                )


def _put(store: Store, version: Version, known: Pages) -> Version | None:
    """Put a version: its new pages, then its document. As it was committed; None if another has its number.

    The pages have names that no attempt before it used, and none after it will: see the specification for why `gc` may then
    delete any page that it saw before its own commit and that no version refers to.
    """
    paged = to_pages(version, new_id)
    _check_readable(store, paged, known)
    for page, data in paged.new_pages:
        store.write(page, data)
    key = version_key(version.number)
    failure: Exception | None = None
    for _ in range(3):
        try:
            if store.write_if_absent(key, paged.document):
                return paged.version
        except NotDurable:  # the document is there, which would be taken for success
            raise
        except StoreError as error:
            failure = error
        try:
            there = find_document(store, version.number)
        except (StoreError, PermissionError) as error:  # S3 refuses what is absent to those who may not list
            failure = error
            continue
        except VersionExpired:  # whoever won has been succeeded, and dropped by gc, since
            return None
        if there is not None:
            return paged.version if there.inline.writer == version.writer else None
    raise StoreError(
        f"{store.url}/{key}: the commit failed, and what was sent may yet arrive: look with chunkstore.versions before you "
        "write the samples again"
    ) from failure


def _check_readable(store: Store, paged: PagedVersion, known: Pages) -> None:
    """Read a version back from its bytes: what could not be read again must not become the latest version."""
    new = dict(paged.new_pages)
    for page in paged.version.pages:
        data = new.get(key := page_key(page.ref.id))
        known.keep([page if data is None else FragmentPage(page.ref, fragments_from_page(data, page.ref, key))])
    for condemned in paged.version.condemned_pages.refs:
        if (key := page_key(condemned.id)) in new:
            condemned_from_page(new[key], condemned, key)
    document = parse_document(store, paged.version.number, paged.document)
    document.complete(known.fragments(document.pages))


def _wait_for_turn(version: Version, num_lost: int, attempt_s: float) -> None:
    """Let others go first, for a time that grows with the races lost and with how long this store takes over one.

    Full jitter: anything from nothing to the bound, by the commit's own key, so that those who met do not meet again.
    """
    bound_s = min(MAX_WAIT_S, max(MIN_WAIT_S, attempt_s) * 2 ** min(num_lost, MAX_DOUBLINGS))
    time.sleep(random.Random(f"{version.writer}-{num_lost}").uniform(0, bound_s))


def _write_hint(store: Store, version: Version) -> None:
    # the version is committed; readers probe forward from an older hint
    with contextlib.suppress(StoreError, PermissionError):
        store.write(LATEST_KEY, seal(Hint.of(version).to_json()))
