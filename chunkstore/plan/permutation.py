"""Keyed permutations of [0, n) by index, and the keys that feed them: the only randomness of the order.

Formulas: docs/spec/order.md, sections 1 and 2, which are normative; golden vectors pin them, so nothing here may change within
order version 1. Pure and without state: no array of n entries is ever built unless the caller asks for a range of it, and
nothing depends on rank, thread or time. Before it stands the seed of the user, after it `order`, which permutes extents,
lanes, blocks and samples by what is here. Cached kernels call only functions of this file, because Numba's cache does
not see edits to callees elsewhere.
"""

import operator
from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

MAX_SIZE: Final = 1 << 62
"""Largest domain that `permute` takes."""

MIN_BITS: Final = 6
FEW_BITS: Final = 12
"""Below this many bits the halves of the network are so short that it takes `MANY_ROUNDS` to leave no trace."""

NUM_ROUNDS: Final = 6
MANY_ROUNDS: Final = 10

_WORD: Final = (1 << 64) - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MUL_1 = np.uint64(0xBF58476D1CE4E5B9)
_MUL_2 = np.uint64(0x94D049BB133111EB)
_S27 = np.uint64(27)
_S30 = np.uint64(30)
_S31 = np.uint64(31)
_ONE = np.uint64(1)


@njit(cache=True, nogil=True, inline="always")
def _mix(x):  # type: ignore[no-untyped-def]
    """Bijective mixer of 64 bits: the finaliser of splitmix64 (Steele, Lea, Flood 2014; variant 13 of Stafford)."""
    x = (x ^ (x >> _S30)) * _MUL_1
    x = (x ^ (x >> _S27)) * _MUL_2
    return x ^ (x >> _S31)


@njit(cache=True, nogil=True, inline="always")
def _fold(key, word):  # type: ignore[no-untyped-def]
    return _mix((key ^ word) + _GOLDEN)


@njit(cache=True, nogil=True)
def _num_bits(n):  # type: ignore[no-untyped-def]
    bits = np.uint64(MIN_BITS)
    while bits < np.uint64(62) and (_ONE << bits) < np.uint64(n):
        bits += _ONE
    return bits


@njit(cache=True, nogil=True)
def _walk(index, n, bits, key):  # type: ignore[no-untyped-def]
    """Alternating Feistel network over `bits` bits, applied until the value is below n (cycle walking)."""
    low_bits = bits >> _ONE
    low_mask = (_ONE << low_bits) - _ONE
    high_mask = (_ONE << (bits - low_bits)) - _ONE
    x = np.uint64(index)
    if n == _ONE:
        return np.int64(0)
    pairs = MANY_ROUNDS // 2 if bits < np.uint64(FEW_BITS) else NUM_ROUNDS // 2
    while True:
        high = x >> low_bits
        low = x & low_mask
        k = key
        for _ in range(pairs):
            k += _GOLDEN
            high ^= _mix(k ^ low) & high_mask
            k += _GOLDEN
            low ^= _mix(k ^ high) & low_mask
        x = (high << low_bits) | low
        if x < n:
            return np.int64(x)


@njit(cache=True, nogil=True)
def _permute_range(start, n, key, out):  # type: ignore[no-untyped-def]
    bits = _num_bits(n)
    for i in range(out.size):
        out[i] = _walk(start + i, np.uint64(n), bits, key)


@njit(cache=True, nogil=True)
def _permute_indices(indices, n, key, out):  # type: ignore[no-untyped-def]
    bits = _num_bits(n)
    for i in range(indices.size):
        if indices[i] < 0 or indices[i] >= n:
            return False
        out[i] = _walk(indices[i], np.uint64(n), bits, key)
    return True


@njit(cache=True, nogil=True)
def _permute_each(table):  # type: ignore[no-untyped-def]
    last_n = np.int64(-1)
    bits = _ONE
    for i in range(table.shape[1]):
        n = table[1, i]
        if n != last_n:
            bits = _num_bits(n)
            last_n = n
        key = _fold(np.uint64(table[2, i]), np.uint64(table[3, i]))
        table[0, i] = _walk(table[0, i], np.uint64(n), bits, key)


def derive_key(purpose: int, seed: int, *words: int) -> int:
    """Key of one stream of randomness: 64 bits folded from `purpose`, `seed` and `words` in that order.

    Keys that differ in a single word never collide; other pairs collide as random 64-bit numbers do. Source:
    docs/spec/order.md, section 1. Words are taken modulo 2^64.
    """
    key = 0
    for word in (purpose, seed, *words):
        key = _mix_int((key ^ (word & _WORD)) + int(_GOLDEN))
    return key


def _mix_int(x: int) -> int:
    x &= _WORD
    x = ((x ^ (x >> 30)) * int(_MUL_1)) & _WORD
    x = ((x ^ (x >> 27)) * int(_MUL_2)) & _WORD
    return x ^ (x >> 31)


def permute(index: int, n: int, key: int) -> int:
    """Image of `index` under the permutation of [0, n) that `key` selects. Source: docs/spec/order.md, section 2.

    Raises:
        ValueError: n is outside [1, 2^62], or index outside [0, n).
    """
    return int(permute_range(index, index + 1, n, key)[0])


def permute_range(start: int, stop: int, n: int, key: int) -> npt.NDArray[np.int64]:
    """Images of start, start + 1, …, stop - 1 under the permutation of [0, n) that `key` selects.

    Returns:
        int64[stop - start].

    Raises:
        ValueError: n is outside [1, 2^62], or the range outside [0, n].
    """
    start, stop, n = _checked_size(start), _checked_size(stop), _checked_size(n)
    if not 0 <= start <= stop <= n:
        raise ValueError(f"cannot permute [{start}, {stop}) in a domain of {n}: take 0 <= start <= stop <= n")
    out = np.empty(stop - start, np.int64)
    if out.size:
        _permute_range(start, n, np.uint64(key & _WORD), out)
    return out


def permute_indices(indices: npt.NDArray[np.int64], n: int, key: int) -> npt.NDArray[np.int64]:
    """Images of int64 `indices` under the permutation of [0, n) that `key` selects; same shape (1-D), a new array.

    Raises:
        ValueError: n is outside [0, 2^62], or an index outside [0, n).
    """
    n = _checked_size(n)
    out = np.empty(indices.size, np.int64)
    if not _permute_indices(indices, n, np.uint64(key & _WORD), out):
        raise ValueError(f"cannot permute: an index lies outside [0, {n})")
    return out


def permute_each(table: npt.NDArray[np.int64]) -> None:
    """Permutes row 0 of `table` in place, each entry in its own domain under its own key; trusts its caller.

    Args:
        table: C-contiguous int64[>= 4, m]; row 0 indices, row 1 sizes of their domains (index < size), row 2 keys as
            bit patterns, row 3 a word that is folded into the key as `derive_key` folds its last one.
    """
    _permute_each(table)


def _checked_size(n: int) -> int:
    n = operator.index(n)
    if not 0 <= n <= MAX_SIZE:
        raise ValueError(f"a domain of {n} cannot be permuted: sizes go from 0 to 2^62")
    return n
