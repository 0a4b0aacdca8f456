"""Tags in a store: naming a version, and finding the version of a name.

A tag is put if absent and never moves. As with a commit, an unclear answer is resolved by reading the document back, and
nothing is ever deleted or overwritten. `dataset.py` opens by what is read here, `history.py` lists it.

Source: docs/spec/v1.md, "Tags".
"""

import operator
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from chunkstore.errors import CommitConflict, DatasetNotFound, InvalidDataset, StoreError, VersionExpired
from chunkstore.format.documents import is_sealed, seal, unseal
from chunkstore.format.tags import TAGS_PREFIX, Tag, tag_key, tag_name
from chunkstore.format.versions import Version
from chunkstore.history.commit import new_id, now, read_latest, read_version
from chunkstore.store.documents import read_twice_if_damaged
from chunkstore.store.interface import NotDurable, Store
from chunkstore.store.location import open_store

MAX_TAG_NBYTES = 1 << 16
NUM_THREADS = 16
"""Documents that are read at the same time."""

_REMOVE = "Restore each of these objects, or remove it, and tag the version that it named again"

Url = str | os.PathLike[str]


def tag(
    url: Url,
    name: str,
    version: int | None = None,
    *,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: Any = None,
) -> int:
    """Name a version for good; `chunkstore.open(url, tag=name)` opens it.

    Naming the same version once more is no error, so a call whose fate is unknown can be repeated.

    The version stays for as long as the dataset does: `gc` keeps what has a tag. Should `gc` give the version up in the same
    moment, one of the two gives way. After the tag is there, the latest version is read once more. If that one has not given up
    the tagged version, any `gc` that will do so commits later than the tag was put; as it lists the tags again between its
    commit and its first deletion, it sees this one, and spares what it names. If it has, `VersionExpired` says so: nothing was
    promised, though the name is taken from then on. So a version is never lost after this function has returned.

    Args:
        url: Path or URL of the dataset.
        name: Letters, digits, "_", ".", "-", the first a letter or digit, at most 128.
        version: Number of the version; the latest if None.
        storage_options: For the store, under obstore's names or s3fs's.
        filesystem: An fsspec filesystem to write through.

    Returns:
        The number of the version.

    Raises:
        CommitConflict: the name is taken by another version.
        DatasetNotFound: there is no dataset, or no such version.
        VersionExpired: the version was given up by `gc`, before the call or during it.
        ReadOnlyStore: the store cannot commit safely.
        MissingObject: documents of versions were lost.
        StoreError: the store failed, and did not tell whether it had taken the tag.
        ValueError: the name cannot be a tag's, or `version` is no number.
    """
    tag_key(name)
    version = None if version is None else _checked_number(version)
    store = open_store(url, storage_options=storage_options, filesystem=filesystem)
    latest = read_latest(store, committing=True)
    number = latest.number if version is None else version
    if number in latest.condemned_versions:
        raise VersionExpired(
            f"{store.url}: version {number} was given up by gc and cannot be tagged. If a tag spared it, chunkstore.versions"
            " lists it with its tags, and chunkstore.open(url, tag=name) opens it"
        )
    named = latest if number == latest.number else read_version(store, number)
    store.check_commits()
    put_tag(store, name, Tag(named.dataset, number, now(), new_id()))
    if number in read_latest(store).condemned_versions:
        raise VersionExpired(
            f"{store.url}: gc gave up version {number} while it was tagged {name!r}; choose one that chunkstore.versions lists,"
            " and another name"
        )
    return number


def _checked_number(version: int) -> int:
    """The number, whatever type of integer it came as; a tag is for good, so nothing else may become one."""
    try:
        if isinstance(version, bool):
            raise TypeError
        return operator.index(version)
    except TypeError:
        raise ValueError(f"version={version!r}: the number of a version is needed, or None for the latest") from None


def put_tag(store: Store, name: str, tag: Tag) -> None:
    """Put a tag's document, unless the name already says the same.

    Raises:
        CommitConflict: it says something else.
        StoreError: the store failed and did not tell, when asked again, whether it had taken the tag.
    """
    key, data = tag_key(name), seal(tag.to_json())
    if Tag.from_json(unseal(data, key)) != tag:  # what could not be read again would take the name for good
        raise ValueError(f"{tag!r} is not what is read back of it")
    failure: Exception | None = None
    for _ in range(3):
        try:
            if store.write_if_absent(key, data):
                return
        except NotDurable:  # the tag is there, which would be taken for success
            raise
        except StoreError as error:
            failure = error
        try:
            there = _find(store, name)
        except (StoreError, PermissionError) as error:  # S3 refuses what is absent to those who may not list
            failure = error
            continue
        if there is None:
            continue
        if (there.dataset, there.version) != (tag.dataset, tag.version):
            raise CommitConflict(
                f"{store.url}: tag {name!r} has named version {there.version} since {there.time}, and tags never move;"
                f" choose another name for version {tag.version}"
            )
        return
    raise StoreError(
        f"{store.url}/{key}: tagging failed, and the tag may or may not have been taken; tag version {tag.version} again, which"
        " is no error if it was"
    ) from failure


def read_tag(store: Store, name: str) -> Tag:
    """The tag of a name.

    Raises:
        DatasetNotFound: there is no dataset, or no such tag; the message lists those there are.
        InvalidDataset: the tag's document is damaged.
    """
    try:
        found = _find(store, name)
    except PermissionError:  # without permission to list, S3 answers so for what is absent
        found = None
    if found is not None:
        return found
    read_latest(store)
    names = list_tags(store)
    told = (
        "its tags cannot be listed here"
        if names is None
        else f"its tags are {', '.join(names)}"
        if names
        else "it has none"
    )
    raise DatasetNotFound(f"{store.url}: no tag {name!r}; {told}")


def read_tagged(store: Store, name: str) -> Version:
    """The version that a tag names.

    Raises:
        DatasetNotFound: there is no dataset, or no such tag.
        InvalidDataset: the tag or the version is damaged, or the tag is of another dataset.
        VersionExpired: the version was dropped by `gc`.
    """
    tag = read_tag(store, name)
    version = read_version(store, tag.version)
    if version.dataset != tag.dataset:
        raise InvalidDataset(
            f"{store.url}/{tag_key(name)}: a tag of dataset {tag.dataset}, but {version.dataset} is here; remove the tag"
        )
    return version


def list_tags(store: Store) -> list[str] | None:
    """The names of all tags, sorted; None where the store does not let its objects be listed."""
    try:
        return sorted(name for listed in store.list(TAGS_PREFIX) if (name := tag_name(listed.key)) is not None)
    except PermissionError:
        return None
    except StoreError:
        if _is_web_server(store):
            return None
        raise


def read_tags(store: Store) -> dict[str, Tag] | None:
    """All tags by name, read side by side; None where the store does not let its objects be listed.

    Raises:
        InvalidDataset: documents of tags are damaged; the message names them all.
    """
    names = list_tags(store)
    if not names:
        return None if names is None else {}
    with ThreadPoolExecutor(min(NUM_THREADS, len(names)), thread_name_prefix="chunkstore-tags") as pool:
        found = list(pool.map(lambda name: _find_or_error(store, name), names))
    damaged = [error for error in found if isinstance(error, InvalidDataset)]
    if len(damaged) == 1:
        raise InvalidDataset(f"{damaged[0]}. {_REMOVE}") from damaged[0]
    if damaged:
        told = "; ".join(str(error) for error in damaged)
        raise InvalidDataset(f"{len(damaged)} tags are damaged: {told}. {_REMOVE}") from damaged[0]
    return {name: tag for name, tag in zip(names, found, strict=True) if isinstance(tag, Tag)}


def _find_or_error(store: Store, name: str) -> Tag | InvalidDataset | None:
    try:
        return _find(store, name)
    except InvalidDataset as error:
        return error


def _find(store: Store, name: str) -> Tag | None:
    key = tag_key(name)
    where = f"{store.url}/{key}"
    try:
        data = read_twice_if_damaged(store, key, limit_nbytes=MAX_TAG_NBYTES, is_intact=is_sealed)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InvalidDataset(f"{where}: larger than any tag: {error}") from error
    return Tag.from_json(unseal(data, where))


def _is_web_server(store: Store) -> bool:
    return store.url.startswith(("http://", "https://"))
