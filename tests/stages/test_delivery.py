"""The demo's central check can fail, in each of the ways that a delivery can be wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkstore.stages.demo.delivery import check_delivery


@given(st.permutations(range(20)))
def test_every_order_of_the_epoch_is_exact(delivered):
    delivery = check_delivery(delivered, range(20))
    assert delivery.is_exact
    assert str(delivery) == "20 of 20 samples, none twice, none missing"


def test_a_repeated_sample_is_named():
    delivery = check_delivery([0, 1, 2, 1], range(3))
    assert not delivery.is_exact
    assert delivery.repeated == (1,)


def test_a_missing_sample_is_named():
    delivery = check_delivery([0, 2], range(3))
    assert not delivery.is_exact
    assert delivery.missing == (1,)


def test_a_sample_of_another_epoch_is_named():
    delivery = check_delivery([0, 1, 2, 7], range(3))
    assert not delivery.is_exact
    assert delivery.unknown == (7,)


def test_one_repeated_for_one_missing_is_seen_although_the_count_is_right():
    delivery = check_delivery([0, 1, 1], range(3))
    assert not delivery.is_exact
    assert delivery.num_delivered == delivery.num_expected
    assert "1 more than once, 1 missing" in str(delivery)


@given(st.lists(st.integers(0, 9), max_size=15))
def test_exact_means_sorted_equality(delivered):
    assert check_delivery(delivered, range(10)).is_exact == (sorted(delivered) == list(range(10)))


def test_expected_samples_must_differ():
    with pytest.raises(ValueError, match="not told apart"):
        check_delivery([1], [1, 1])
