"""Keyed permutations: bijections of any size that look random, small ones too."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkstore.plan.permutation import MAX_SIZE, derive_key, permute, permute_each, permute_indices, permute_range

words = st.integers(0, 2**64 - 1)


def permutations(n, num_keys):
    """int64[num_keys, n]: one permutation of [0, n) a row, each under its own key."""
    table = np.empty((4, num_keys * n), np.int64)
    table[0] = np.tile(np.arange(n), num_keys)
    table[1] = n
    table[2] = 7
    table[3] = np.repeat(np.arange(num_keys), n)
    permute_each(table)
    return table[0].reshape(num_keys, n)


def excess(counts):
    """How many standard deviations the chi-square of `counts` against equal counts lies above its mean."""
    freedom = counts.size - 1
    chi_square = ((counts - counts.mean()) ** 2).sum() / counts.mean()
    return (chi_square - freedom) / math.sqrt(2 * freedom)


def test_every_small_domain_is_permuted():
    for n, key in product(range(1, 300), (0, 1, 2**64 - 1)):
        assert sorted(permute_range(0, n, n, key).tolist()) == list(range(n))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(300, 1 << 17), key=words)
def test_large_domains_are_permuted(n, key):
    assert np.array_equal(np.sort(permute_range(0, n, n, key)), np.arange(n))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1 << 40, MAX_SIZE), key=words, data=st.data())
def test_huge_domains_stay_inside_and_never_collide(n, key, data):
    start = data.draw(st.integers(0, n - 5000))
    images = permute_range(start, start + 5000, n, key)
    assert images.min() >= 0
    assert images.max() < n
    assert np.unique(images).size == images.size


@settings(max_examples=200, deadline=None)
@given(n=st.one_of(st.integers(1, 600), st.integers(1, MAX_SIZE)), key=words, data=st.data())
def test_the_kernel_computes_the_spec(oracle, n, key, data):
    index = data.draw(st.integers(0, n - 1))
    assert permute(index, n, key) == oracle.permute(index, n, key)


def test_the_largest_domain_works_at_its_edges(oracle):
    for n, index in product((MAX_SIZE, MAX_SIZE - 1, 2**61 + 1), (0, 2**61)):
        assert permute(index, n, 5) == oracle.permute(index, n, 5)


@given(purpose=words, seed=words, rest=st.lists(words, max_size=3))
def test_keys_follow_the_spec(oracle, purpose, seed, rest):
    assert derive_key(purpose, seed, *rest) == oracle.key(purpose, seed, *rest)


def test_uses_of_a_seed_have_streams_of_their_own():
    keys = {derive_key(*key) for key in product(range(1, 6), range(20), range(20), range(20))}
    assert len(keys) == 5 * 20**3
    assert derive_key(1, 2, 3) != derive_key(1, 3, 2)
    assert derive_key(1, 2) != derive_key(1, 2, 0)


def test_each_entry_has_its_own_domain_and_key():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 500, 1000)
    indices = rng.integers(0, sizes)
    table = np.stack([indices, sizes, rng.integers(-(2**63), 2**63 - 1, 1000), rng.integers(0, 50, 1000)])
    expected = table.copy()
    permute_each(table)
    # `derive_key` folds its last word as `permute_each` folds row 3, so a key of two words shows the agreement.
    first, second = derive_key(3, 9), derive_key(3, 9, 4)
    own = np.array([[5], [77], [np.uint64(first).view(np.int64)], [4]])
    permute_each(own)
    assert own[0, 0] == permute(5, 77, second)
    assert np.array_equal(table[1:], expected[1:])
    assert (table[0] < sizes).all()


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_all_permutations_of_few_are_equally_frequent(n):
    images = permutations(n, 200_000)
    _, counts = np.unique(images @ (n ** np.arange(n)), return_counts=True)
    assert counts.size == math.factorial(n)
    assert excess(counts) < 5


@pytest.mark.parametrize("n", [7, 64, 100])
def test_every_index_goes_everywhere_equally_often(n):
    images = permutations(n, 20_000)
    for index in (0, 1, n // 2, n - 1):
        assert excess(np.bincount(images[:, index], minlength=n)) < 5


@pytest.mark.parametrize("n", [64, 128, 1000, 4096, 8192])
def test_distances_are_spread_evenly(n):
    """With four rounds the larger ones fail here by hundreds of standard deviations, with six the smaller ones."""
    images = permutations(n, 8_000_000 // n)
    steps = np.bincount(((images[:, 1:] - images[:, :-1]) % n).ravel(), minlength=n)
    assert excess(steps[1:]) < 6
    if n & (n - 1) == 0:
        differences = np.bincount((images[:, : n // 2] ^ images[:, n // 2 :]).ravel(), minlength=n)
        assert excess(differences[1:]) < 6


def test_neighbours_stay_neighbours_as_rarely_as_chance_has_it():
    images = permutations(1000, 1000)
    kept = int((np.diff(images, axis=1) == 1).sum())
    assert abs(kept - 999) < 5 * math.sqrt(999)


def test_keys_matter():
    assert not np.array_equal(permute_range(0, 100, 100, 1), permute_range(0, 100, 100, 2))


@pytest.mark.parametrize("n", [-1, MAX_SIZE + 1])
def test_impossible_domains_are_refused(n):
    with pytest.raises(ValueError, match="sizes go from 0"):
        permute_range(0, 0, n, 1)


def test_indices_outside_the_domain_are_refused():
    with pytest.raises(ValueError, match="0 <= start"):
        permute(10, 10, 1)
    for index in (-1, 10):
        with pytest.raises(ValueError, match="outside"):
            permute_indices(np.array([0, index]), 10, 1)
