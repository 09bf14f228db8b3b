"""Paired comparisons against scipy, and their words."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from evomal_paper import statistics


def test_the_interval_is_that_of_the_paired_t_test():
    first, second = [1.0, 2.0, 2.5, 4.0], [1.5, 2.25, 3.5, 4.25]
    found = statistics.paired_interval(first, second)
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
    assert found["difference"] == pytest.approx(-0.5)
    assert (found["wins"], found["n"], found["diverged"], found["verdict"]) == (4, 4, 0, "undecided")


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([1, 1.1, 0.9], [2, 2.2, 2.1], "lower"),
        ([2, 2.2, 2.1], [1, 1.1, 0.9], "higher"),
        ([1, 2, 3], [3, 2, 1], "undecided"),
        ([1], [2], "not judged"),
        ([1, np.inf], [2, 2], "not judged"),
        ([1, np.inf], [2, np.inf], "not judged"),
    ],
)
def test_each_verdict_has_its_case(first, second, verdict):
    found = statistics.paired_interval(first, second)
    assert found["verdict"] == verdict
    assert found["diverged"] == int(np.isinf([first, second]).any(axis=0).sum())
    assert np.isnan(found["low"]) == (verdict == "not judged")


@pytest.fixture
def errors():
    values = {"baseline": [2, 2.1, 2.2], "ml3": [1, np.inf, 1], "evomal": [1.1, 1.3, 1.2]}
    return pd.DataFrame(
        [
            {"place": "here", "method": method, "seed": seed, "error": value}
            for method, by_seed in values.items()
            for seed, value in enumerate(by_seed)
        ]
    )


def test_methods_are_compared_with_the_reference_seed_by_seed(errors):
    table = statistics.against(errors.sample(frac=1, random_state=0), "error", ["place"]).set_index("method")
    assert list(table.index) == ["ml3", "evomal"]
    assert table.loc["evomal", "difference"] == pytest.approx(-0.9)
    assert table.loc["evomal", "verdict"] == "lower"
    assert (table.loc["ml3", "verdict"], table.loc["ml3", "diverged"]) == ("not judged", 1)
    assert statistics.against(errors[errors["method"] != "baseline"], "error", ["place"]).empty


def test_spread_counts_what_diverged_and_averages_the_rest(errors):
    rows = statistics.spread(errors, "error", ["method"]).set_index("method")
    assert rows.loc["ml3", ["mean", "sd", "n", "diverged"]].tolist() == [1, 0, 3, 1]
    assert rows.loc["baseline", "sd"] == pytest.approx(0.1)
