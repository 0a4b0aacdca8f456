"""Reading pages: side by side, each once, and never more of it than the version's document says.

Pages that a hint names may be asked for before the document that decides is there; what comes is then compared with the
document like any other page, and asked for again if it differs. Decides nothing about what is in a page (`format/pages.py`);
`versions.py` stands before it.

Source: docs/spec/v1.md, "Pages", "The latest version".
"""

import contextlib
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from zlib import crc32

from chunkstore.errors import InvalidDataset, MissingObject, StoreError
from chunkstore.format.pages import (
    Condemned,
    CondemnedRef,
    FragmentPage,
    PageRef,
    condemned_from_page,
    fragments_from_page,
    page_key,
)
from chunkstore.store.documents import read_twice_if_damaged
from chunkstore.store.fetch import NUM_CONNECTIONS
from chunkstore.store.interface import Store
from chunkstore.store.threads import JobThreads


class Pages:
    """Pages of a store as they are needed; those of fragments are kept, since versions share them.

    Not safe for threads.

    Args:
        store: Where they are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._early: dict[str, Future[bytes]] = {}
        self._kept: dict[PageRef, FragmentPage] = {}

    def ask_early(self, threads: JobThreads, pages: Sequence[tuple[str, int]]) -> None:
        """Begin to read pages by id and size, before it is known whether they are needed."""
        known = {ref.id for ref in self._kept} | self._early.keys()
        for identity, nbytes in pages:
            if identity not in known:
                self._early[identity] = threads.submit(self._store.read, page_key(identity), limit_nbytes=nbytes)

    def keep(self, pages: Sequence[FragmentPage]) -> None:
        """Know pages without reading them."""
        self._kept.update((page.ref, page) for page in pages)

    def fragments(self, refs: Sequence[PageRef]) -> list[FragmentPage]:
        """The pages of fragments that a document refers to, in its order.

        Raises:
            InvalidDataset: a page is damaged, or not the one that the document refers to.
            MissingObject: a page is absent.
        """
        new = [ref for ref in refs if ref not in self._kept]
        for ref, data in zip(new, self._read(new), strict=True):
            self._kept[ref] = FragmentPage(ref, fragments_from_page(data, ref, self._where(ref)))
        return [self._kept[ref] for ref in refs]

    def condemned(self, refs: Sequence[CondemnedRef]) -> list[Condemned]:
        """What pages name as condemned; raises as `fragments` does."""
        pages = zip(refs, self._read(refs), strict=True)
        return [condemned_from_page(data, ref, self._where(ref)) for ref, data in pages]

    def damage(self, fragments: Sequence[PageRef], condemned: Sequence[CondemnedRef]) -> dict[str, Exception]:
        """What is wrong with each of these pages, by key; nothing is kept."""
        found: dict[str, Exception] = {}
        refs: list[PageRef | CondemnedRef] = [*fragments, *condemned]
        for ref in refs:
            pages = Pages(self._store)
            try:
                _ = pages.fragments([ref]) if isinstance(ref, PageRef) else pages.condemned([ref])
            except (InvalidDataset, MissingObject) as error:
                found[page_key(ref.id)] = error
        return found

    def _read(self, refs: Sequence[PageRef | CondemnedRef]) -> list[bytes]:
        read = {ref.id: data for ref in refs if (data := self._read_early(ref)) is not None}
        rest = [ref for ref in refs if ref.id not in read]
        if self._store.is_local or len(rest) < 2:
            read.update((ref.id, self._read_one(ref)) for ref in rest)
        else:
            threads = JobThreads(min(len(rest), NUM_CONNECTIONS), "chunkstore-pages")
            try:
                futures = [threads.submit(self._read_one, ref) for ref in rest]
                read.update((ref.id, future.result()) for ref, future in zip(rest, futures, strict=True))
            finally:
                threads.close()
        return [read[ref.id] for ref in refs]

    def _read_early(self, ref: PageRef | CondemnedRef) -> bytes | None:
        """What was asked for early, if it is what the document means."""
        if (future := self._early.pop(ref.id, None)) is not None:
            # a hint is only a hint: whatever went wrong is told when the page is read because the document says so
            with contextlib.suppress(OSError, ValueError, StoreError, CancelledError):
                data = future.result()
                if _is_intact(ref, data):
                    return data
        return None

    def _read_one(self, ref: PageRef | CondemnedRef) -> bytes:
        try:
            return read_twice_if_damaged(
                self._store, page_key(ref.id), limit_nbytes=ref.nbytes, is_intact=partial(_is_intact, ref)
            )
        except FileNotFoundError:
            raise MissingObject(
                f"{self._where(ref)} is named by a version but absent from the store; restore the object"
            ) from None
        except ValueError as error:
            raise InvalidDataset(
                f"{self._where(ref)}: larger than the {ref.nbytes} bytes that the version says: {error}; restore the object"
            ) from error

    def _where(self, ref: PageRef | CondemnedRef) -> str:
        return f"{self._store.url}/{page_key(ref.id)}"


def _is_intact(ref: PageRef | CondemnedRef, data: bytes) -> bool:
    return len(data) == ref.nbytes and crc32(data) == ref.crc32
