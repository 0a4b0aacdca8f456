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

AT_ONCE: Final = 256
"""Values that go through the network side by side; of no consequence for the result."""

_WORD: Final = (1 << 64) - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MUL_1 = np.uint64(0xBF58476D1CE4E5B9)
_MUL_2 = np.uint64(0x94D049BB133111EB)
_S27 = np.uint64(27)
_S30 = np.uint64(30)
_S31 = np.uint64(31)
_ONE = np.uint64(1)


@njit(cache=True, nogil=True, inline="always")
def _mix(x):
    """Bijective mixer of 64 bits: the finaliser of splitmix64 (Steele, Lea, Flood 2014; variant 13 of Stafford)."""
    x = (x ^ (x >> _S30)) * _MUL_1
    x = (x ^ (x >> _S27)) * _MUL_2
    return x ^ (x >> _S31)


@njit(cache=True, nogil=True, inline="always")
def _fold(key, word):
    return _mix((key ^ word) + _GOLDEN)


@njit(cache=True, nogil=True)
def _num_bits(n):
    bits = np.uint64(MIN_BITS)
    while bits < np.uint64(62) and (_ONE << bits) < np.uint64(n):
        bits += _ONE
    return bits


@njit(cache=True, nogil=True)
def _permute_all(x, n, key, out):
    """Images of all x, each in its own domain [0, n) under its own key: a Feistel network, applied until the value is below n.

    Values go through the rounds side by side, so that the latency of one hides behind the others; those that are still outside
    their domain move to the front and go again (cycle walking). Overwrites x, n and key.
    """
    count = x.size
    entry = np.arange(count)
    low_bits = np.empty(count, np.uint64)
    low_mask = np.empty(count, np.uint64)
    high_mask = np.empty(count, np.uint64)
    short = np.empty(count, np.bool_)
    low = np.empty(count, np.uint64)
    high = np.empty(count, np.uint64)
    last_n = np.uint64(0)
    bits = _ONE
    for i in range(count):
        if n[i] != last_n:
            last_n = n[i]
            bits = _num_bits(last_n)
        # With n = 1 all masks stay zero: the only value comes out at once.
        width = bits if last_n > _ONE else np.uint64(0)
        low_bits[i] = width >> _ONE
        low_mask[i] = (_ONE << (width >> _ONE)) - _ONE
        high_mask[i] = (_ONE << (width - (width >> _ONE))) - _ONE
        short[i] = bits < np.uint64(FEW_BITS)
    while count:
        any_short = False
        for i in range(count):
            high[i] = x[i] >> low_bits[i]
            low[i] = x[i] & low_mask[i]
            any_short |= short[i]
        for pair in range(NUM_ROUNDS // 2):
            step = np.uint64(2 * pair + 1) * _GOLDEN
            for i in range(count):
                high[i] ^= _mix((key[i] + step) ^ low[i]) & high_mask[i]
                low[i] ^= _mix((key[i] + step + _GOLDEN) ^ high[i]) & low_mask[i]
        if any_short:
            for pair in range(NUM_ROUNDS // 2, MANY_ROUNDS // 2):
                step = np.uint64(2 * pair + 1) * _GOLDEN
                for i in range(count):
                    new_high = high[i] ^ (_mix((key[i] + step) ^ low[i]) & high_mask[i])
                    new_low = low[i] ^ (_mix((key[i] + step + _GOLDEN) ^ new_high) & low_mask[i])
                    high[i] = new_high if short[i] else high[i]
                    low[i] = new_low if short[i] else low[i]
        left = 0
        for i in range(count):
            value = (high[i] << low_bits[i]) | low[i]
            out[entry[i]] = np.int64(value)
            # Always written, kept only if outside: no branch to mispredict. What is kept never overtakes what is read.
            x[left], n[left], key[left], entry[left] = value, n[i], key[i], entry[i]
            low_bits[left], low_mask[left], high_mask[left], short[left] = (
                low_bits[i],
                low_mask[i],
                high_mask[i],
                short[i],
            )
            left += value >= n[i]
        count = left


@njit(cache=True, nogil=True)
def _permute_range(start, n, key, out):
    for at in range(0, out.size, AT_ONCE):
        part = out[at : at + AT_ONCE]
        x = np.arange(start + at, start + at + part.size).astype(np.uint64)
        _permute_all(x, np.full(part.size, n, np.uint64), np.full(part.size, key), part)


@njit(cache=True, nogil=True)
def _permute_indices(indices, n, key, out):
    for at in range(0, out.size, AT_ONCE):
        part = out[at : at + AT_ONCE]
        x = np.empty(part.size, np.uint64)
        for i in range(part.size):
            if indices[at + i] < 0 or indices[at + i] >= n:
                return False
            x[i] = indices[at + i]
        _permute_all(x, np.full(part.size, n, np.uint64), np.full(part.size, key), part)
    return True


@njit(cache=True, nogil=True)
def _permute_each(table):
    for at in range(0, table.shape[1], AT_ONCE):
        part = table[0, at : at + AT_ONCE]
        x = part.astype(np.uint64)
        n = table[1, at : at + AT_ONCE].astype(np.uint64)
        key = np.empty(part.size, np.uint64)
        for i in range(part.size):
            key[i] = _fold(np.uint64(table[2, at + i]), np.uint64(table[3, at + i]))
        _permute_all(x, n, key, part)


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
