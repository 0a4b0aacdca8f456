"""Reading documents: once more where the first answer was damaged, so that damage on the way is not taken for damage at rest.

Knows no format: who reads says how an intact document is told, and says what is wrong with one that stays damaged. Never asks
more than twice. Before it: `history/versions.py`, `history/pages.py`, `history/tags.py`, `reading/part.py`; after it: a store.
"""

from collections.abc import Callable

from chunkstore.store.interface import Store


def read_twice_if_damaged(store: Store, key: str, *, limit_nbytes: int, is_intact: Callable[[bytes], bool]) -> bytes:
    """A whole object, asked for once more if its bytes are not intact; what came last, intact or not.

    Raises what `Store.read` does.
    """
    data = store.read(key, limit_nbytes=limit_nbytes)
    return data if is_intact(data) else store.read(key, limit_nbytes=limit_nbytes)
