import itertools

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from occloom.ops.assignment import assign


def check(cost):
    """Ours costs what SciPy's costs, and pairs each row and each column once."""
    rows, columns = assign(cost)
    assert len(rows) == len(columns) == min(cost.shape)
    assert (np.diff(rows) > 0).all()
    assert len(set(columns.tolist())) == len(columns)
    expected = cost[linear_sum_assignment(cost)].sum()
    np.testing.assert_allclose(cost[rows, columns].sum(), expected, rtol=1e-12, atol=1e-9)
    return columns


@pytest.mark.parametrize("shape", [(1, 1), (7, 7), (3, 20), (20, 3), (1, 9), (9, 1), (0, 4), (4, 0), (18, 100)])
def test_equals_scipy_on_random_costs(shape):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        check(rng.normal(size=shape))
        check(rng.normal(size=shape).astype(np.float32) * 1e4)


def test_equals_scipy_where_many_pairings_cost_the_same():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        check(rng.integers(0, 3, rng.integers(1, 12, 2)).astype(np.float64))
    check(np.zeros((5, 8)))
    check(np.full((8, 5), -2.5))
    check(np.tile(np.arange(6.0), (4, 1)))
    check(np.outer(np.arange(9.0), np.arange(9.0)))


def test_equals_scipy_where_costs_differ_by_orders_of_magnitude():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        check(10.0 ** rng.integers(-6, 7, (12, 15)) * rng.choice([-1, 1], (12, 15)))


def test_the_pairing_is_scipys_where_only_one_is_cheapest():
    cost = np.random.default_rng(0).normal(size=(10, 30))
    assert np.array_equal(check(cost), linear_sum_assignment(cost)[1])


def test_equals_trying_all_pairings():
    for seed in range(10):
        cost = np.random.default_rng(seed).normal(size=(4, 5))
        rows, columns = assign(cost)
        tried = [sum(cost[i, c] for i, c in enumerate(order)) for order in itertools.permutations(range(5), 4)]
        np.testing.assert_allclose(cost[rows, columns].sum(), min(tried))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_no_finite_number_is_refused(wrong):
    cost = np.zeros((2, 3))
    cost[1, 2] = wrong
    with pytest.raises(ValueError, match="finite"):
        assign(cost)
