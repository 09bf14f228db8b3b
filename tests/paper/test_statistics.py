"""Intervals, tests and effect sizes against scipy, textbooks and enumeration."""

import itertools

import numpy as np
import pytest
from scipy import stats

from evomal_paper import statistics


@pytest.mark.parametrize("n", [1, 2, 5, 8, 10])
def test_wilcoxon_is_scipys_exact_test_where_there_are_no_ties(n):
    rng = np.random.default_rng(n)
    for _ in range(20):
        differences = rng.normal(0.5, 1, n)
        expected = stats.wilcoxon(differences, method="exact").pvalue
        assert statistics.wilcoxon_p(differences) == pytest.approx(expected)


def by_enumeration(differences):
    """The share of all assignments of signs whose rank sum is as far from its mean as the observed one."""
    values = np.array([value for value in differences if value != 0])
    ranks = stats.rankdata(np.abs(values))
    sums = [
        sum(r for r, sign in zip(ranks, signs, strict=True) if sign)
        for signs in itertools.product([0, 1], repeat=len(ranks))
    ]
    observed = ranks[values > 0].sum()
    one_sided = min(np.mean([s <= observed for s in sums]), np.mean([s >= observed for s in sums]))
    return min(1.0, 2 * one_sided)


@pytest.mark.parametrize(
    "differences",
    [
        [1, 1, -1, 2, 2],
        [0, 0, 3, -1, -1, -1, 5],
        [np.inf, -1, 2, np.inf, -3],
        [-2, -2, -2, -2, -2, -2],
        [1.5, -1.5],
    ],
)
def test_wilcoxon_with_ties_zeros_and_diverged_runs_is_that_of_all_sign_assignments(differences):
    assert statistics.wilcoxon_p(differences) == pytest.approx(by_enumeration(differences))


def test_five_seeds_can_never_be_significant():
    assert statistics.smallest_p(5) == 0.0625 == statistics.wilcoxon_p([1, 2, 3, 4, 5])
    assert statistics.smallest_p(6) == statistics.wilcoxon_p([-1, -2, -3, -4, -5, -6]) == 0.03125
    assert statistics.smallest_p(1) == statistics.smallest_p(0) == statistics.wilcoxon_p([]) == 1
    assert statistics.wilcoxon_p([0.0, 0.0]) == 1


def test_effect_is_the_share_of_rank_sums():
    assert statistics.rank_biserial([-1, -2, -3]) == -1
    assert statistics.rank_biserial([1, np.inf]) == 1
    assert statistics.rank_biserial([1, -2, 3]) == pytest.approx((1 + 3 - 2) / 6)
    assert statistics.rank_biserial([0, 0]) == 0


def test_two_diverged_runs_are_a_tie_and_one_ranks_last():
    found = statistics.paired_differences([1.0, np.inf, np.inf, 2.0], [3.0, np.inf, 1.0, np.inf])
    assert found.tolist() == [-2, 0, np.inf, -np.inf]
    with pytest.raises(ValueError, match="no NaN"):
        statistics.wilcoxon_p([np.nan, 1])


def test_holm_steps_down():
    # Holm 1979: sorted p times m, m − 1, …, made monotone
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert statistics.holm([0.02, np.nan, 0.04]).tolist() == pytest.approx([0.04, np.nan, 0.04], nan_ok=True)
    assert statistics.holm([]).tolist() == []


def test_the_bootstrap_interval_is_near_the_normal_one_for_many_values():
    rng = np.random.default_rng(1)
    values = rng.normal(5, 2, 200)
    low, high = statistics.bootstrap_difference(values, 4.0, 3.0, 300, "test")
    error = np.sqrt(values.var(ddof=1) / 200 + 9 / 300)
    middle = values.mean() - 4.0
    assert (low, high) == pytest.approx((middle - 1.96 * error, middle + 1.96 * error), abs=0.03)


def test_an_interval_covers_the_true_difference_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = 0
    for trial in range(300):
        published = rng.normal(1.0, 0.5, 10)
        low, high = statistics.bootstrap_difference(
            rng.normal(1.3, 0.4, 10), published.mean(), published.std(ddof=1), 10, "cover", trial
        )
        covered += low <= 0.3 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_an_interval_is_the_same_each_time_and_needs_two_values():
    values = [1.0, 2.0, 4.0]
    first = statistics.bootstrap_difference(values, 2.0, 1.0, 10, "a", "cell")
    assert first == statistics.bootstrap_difference(values, 2.0, 1.0, 10, "a", "cell")
    assert first != statistics.bootstrap_difference(values, 2.0, 1.0, 10, "another")
    assert np.isnan(statistics.bootstrap_difference([1.0], 2.0, 1.0, 10)).all()


def test_a_published_number_without_sd_counts_as_exact():
    low, high = statistics.bootstrap_difference([3.0, 3.0, 3.0], 2.0, np.nan, 5)
    assert (low, high) == pytest.approx((1.0, 1.0))
