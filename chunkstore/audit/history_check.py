"""What is wrong with a dataset's history: documents of versions that are lost or damaged, and tags that lead nowhere.

Reads documents alone, all of them, side by side; pages and samples of older versions are for a `verify` of those. Repairs
nothing, writes nothing. Before it: `verify.py`; after it: `history/versions.py` and `history/tags.py`.

Source: docs/spec/v1.md, "The latest version", "Tags".
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from chunkstore.audit.damage import Damage
from chunkstore.errors import DatasetNotFound, InvalidDataset, UnsupportedFormat, VersionExpired
from chunkstore.format.tags import tag_key
from chunkstore.format.versions import Version, version_key
from chunkstore.history.tags import list_tags, read_tag
from chunkstore.history.versions import find_document
from chunkstore.store.interface import Store

_NUM_THREADS = 16


def history_damage(store: Store, latest: Version) -> list[Damage]:
    """Damage of the documents before the latest, and of all tags, where they can be listed."""
    try:
        condemned = set(latest.condemned_versions)
    except (
        InvalidDataset
    ):  # a page of what is condemned is damaged, which is listed as such: any tombstone may be right
        condemned = set(range(1, latest.number))

    def check_number(number: int) -> Damage | None:
        return _document_damage(store, number, is_condemned=number in condemned)

    with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="chunkstore-verify-history") as pool:
        found: list[Damage | None] = [*pool.map(check_number, range(1, latest.number))]
        found += pool.map(lambda name: _tag_damage(store, name, latest), list_tags(store) or ())
    return list(_present(found))


def _present(found: list[Damage | None]) -> Iterator[Damage]:
    return (damage for damage in found if damage is not None)


def _document_damage(store: Store, number: int, *, is_condemned: bool) -> Damage | None:
    key = version_key(number)
    try:
        if find_document(store, number) is not None:
            return None
    except VersionExpired:
        told = "a tombstone, though no version gave this one up; restore the object"
        return None if is_condemned else Damage(key, "metadata", told)
    except (InvalidDataset, UnsupportedFormat) as error:
        return Damage(key, "metadata", str(error))
    except PermissionError as error:  # S3 refuses what is absent to those who may not list
        return Damage(key, "missing", str(error))
    return Damage(
        key, "missing", "absent, though a later version is there, and gc leaves tombstones; restore the object"
    )


def _tag_damage(store: Store, name: str, latest: Version) -> Damage | None:
    key = tag_key(name)
    try:
        tag = read_tag(store, name)
    except InvalidDataset as error:
        return Damage(key, "metadata", f"{error}; restore the object, or remove it and tag the version again")
    except DatasetNotFound:  # listed, and refused or gone when it was read
        return Damage(key, "missing", "listed, but cannot be read")
    if tag.dataset != latest.dataset:
        return Damage(key, "metadata", f"a tag of dataset {tag.dataset}, but {latest.dataset} is here; remove it")
    if tag.version > latest.number:
        return Damage(key, "metadata", f"names version {tag.version}, which is absent; the latest is {latest.number}")
    return None
