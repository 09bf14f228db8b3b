"""The interval over trainings and test rows covers the truth as often as it says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

pytest.importorskip("tests.speed", reason="the benchmarks lie beside the package in a checkout")

from tests.speed.never_below import crossed_interval


def simulated_differences(rng, trainings, rows, of_training, of_row, of_both):
    return (
        of_training * rng.normal(size=(trainings, 1))
        + of_row * rng.normal(size=(1, rows))
        + of_both * rng.normal(size=(trainings, rows))
    )


@pytest.mark.parametrize("spreads", [(1, 0, 1), (0, 1, 1), (0.3, 1, 2), (0.3, 1, 0)])
def test_a_crossed_interval_covers_the_truth_as_often_as_it_says(spreads):
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        _, low, high = crossed_interval(simulated_differences(rng, 5, 40, *spreads))
        covered += low <= 0 <= high
    assert 0.925 < covered / 1000 <= 0.99


def test_a_crossed_interval_of_rows_that_are_all_alike_is_students_over_trainings():
    by_training = np.random.default_rng(1).normal(size=6)
    low, high = stats.ttest_1samp(by_training, 0).confidence_interval(0.9)
    found = crossed_interval(np.repeat(by_training[:, None], 30, axis=1), 0.9)
    assert found == pytest.approx((by_training.mean(), low, high))
    assert crossed_interval(np.zeros((3, 4))) == (0, 0, 0)
