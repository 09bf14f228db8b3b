"""The published numbers hold what the papers print, and comparisons hold what textbooks say."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from evomal_core import paper
from evomal_core.search import METHODS

CELLS = {"2": 40, "3": 8, "II": 65, "III": 15, "IV": 35, "V": 64}


@pytest.mark.parametrize(("table", "cells"), CELLS.items())
def test_every_cell_of_a_table_is_there_once(table, cells):
    found = paper.published(table)
    assert len(found) == cells
    assert not found.duplicated(["experiment", "model", "group", "method"]).any()
    rows = found.groupby(["experiment", "model", "group"]).size()
    assert rows.nunique() == 1  # no row lacks a method
    assert set(found["n"]) == {10 if table in "23" else 5}


def test_the_whole_is_its_tables_and_values_are_in_range():
    whole = paper.published()
    assert len(whole) == sum(CELLS.values())
    assert set(whole["method"]) <= set(METHODS)
    assert (whole["mean"] > 0).all()
    assert not (whole["sd"] < 0).any()
    rates = whole[whole["metric"] == "error rate"]
    assert rates["mean"].between(0, 1).all()
    has_sd = whole["sd"].notna()
    assert (has_sd == (~(whole["table"] == "V") & ~((whole["table"] == "3") & (whole["method"] == "ml3")))).all()


# Sums of the printed columns (means, standard deviations), added up apart from the CSV file.
SUMS = {
    ("2", "baseline"): (7.893, 2.803),
    ("2", "random"): (6.0391, 3.3797),
    ("2", "gp-lfl"): (5.1453, 2.6626),
    ("2", "ml3"): (6.1803, 2.6551),
    ("2", "evomal"): (4.8229, 2.2084),
    ("3", "ml3"): (10600, 0),
    ("3", "evomal"): (116.8, 39.6),
    ("II", "baseline"): (1.2178, 0.0202),
    ("II", "ml3"): (1.1985, 0.0604),
    ("II", "taylorglo"): (1.22, 0.0941),
    ("II", "gp-lfl"): (1.3189, 0.2114),
    ("II", "evomal"): (1.1526, 0.0275),
    ("III", "baseline"): (0.7459, 0.0141),
    ("III", "ml3"): (0.919, 0.1795),
    ("III", "taylorglo"): (0.6763, 0.0326),
    ("III", "gp-lfl"): (0.7158, 0.1268),
    ("III", "evomal"): (0.661, 0.0377),
    ("IV", "baseline"): (2.197, 0.0252),
    ("IV", "ml3"): (2.8411, 0.0658),
    ("IV", "taylorglo"): (2.3781, 0.0322),
    ("IV", "gp-lfl"): (2.218, 0.021),
    ("IV", "evomal"): (2.1875, 0.0178),
    ("V", "ml3"): (2.74, 0),
    ("V", "taylorglo"): (143.47, 0),
    ("V", "gp-lfl"): (13.98, 0),
    ("V", "evomal"): (389.05, 0),
}


def test_columns_add_up_as_on_the_page():
    found = paper.published().groupby(["table", "method"])[["mean", "sd"]].sum()
    assert dict(zip(found.index, found.to_numpy().tolist(), strict=True)) == {
        column: pytest.approx(sums, abs=1e-6) for column, sums in SUMS.items()
    }


def _best(table):
    cells = paper.published(table)
    index = cells.groupby(["experiment", "model", "group"])["mean"].idxmin()
    return cells.loc[index].set_index(["experiment", "model"])["method"]


def test_the_best_method_is_the_one_that_the_papers_mark():
    assert (_best("2") == "evomal").all()
    third = _best("III").droplevel("model")
    assert third.to_dict() == {"diabetes": "evomal", "boston": "baseline", "california": "evomal"}
    second = _best("II")
    others = second[second != "evomal"].to_dict()
    # "... on all task + model pairs except for CIFAR-10 VGG-16", "worse performance on CIFAR-100 PyramidNet"
    assert others == {
        ("mnist-mlp", "MLP"): "taylorglo",
        ("cifar10-vgg16", "VGG-16"): "gp-lfl",
        ("cifar100-pyramidnet", "PyramidNet"): "baseline",
    }
    fifth = paper.published("V").pivot(index=["experiment", "model"], columns="method", values="mean")
    assert (fifth["ml3"] < fifth[["gp-lfl", "taylorglo"]].min(axis=1)).all()
    assert (fifth["evomal"] == fifth.max(axis=1)).all()


def test_an_unknown_table_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown table 'VII'"):
        paper.published("VII")


def _final(errors, method="baseline", experiment="sine", group="in-sample", split="test"):
    seeds = range(len(errors))
    keys = {"experiment": experiment, "profile": "quick", "method": method, "group": group, "split": split}
    return pd.DataFrame(
        [{**keys, "seed": seed, "error": error} for seed, error in zip(seeds, errors, strict=True)]
    )


def test_compare_gives_welchs_interval():
    errors = [2.0, 2.5, 3.5, 4.0, 2.8, 3.1]
    (row,) = paper.compare(_final(errors), "2").to_dict("records")
    assert (row["published mean"], row["published sd"], row["published n"]) == (3.028, 1.0911, 10)
    rng = np.random.default_rng(0)
    theirs = rng.normal(size=10)
    theirs = 3.028 + 1.0911 * (theirs - theirs.mean()) / theirs.std(ddof=1)
    interval = stats.ttest_ind(errors, theirs, equal_var=False).confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    assert row["verdict"] == "agrees"


@pytest.mark.parametrize(
    ("errors", "verdict"),
    [
        ([9.0, 9.1, 9.2], "higher"),
        ([0.1, 0.1, 0.2], "lower"),
        ([3.0], "undecided"),  # one seed agrees with nothing
        ([0.5, 9.0], "undecided"),  # and an interval as wide as this neither
        ([3.0, np.inf], "undecided"),
    ],
)
def test_verdicts(errors, verdict):
    assert paper.compare(_final(errors), "2")["verdict"].tolist() == [verdict]


def test_diverged_runs_are_counted_and_never_averaged():
    (row,) = paper.compare(_final([1.0, np.inf, 3.0]), "2").to_dict("records")
    assert (row["n"], row["diverged"], row["mean"]) == (3, 1, 2.0)
    text = paper.readable(paper.compare(_final([1.0, np.inf, 3.0]), "2")).iloc[0]
    assert text["measured, held-out"] == "2.0000 ± 1.4142 (3, 1 diverged)"
    assert text["published"] == "3.0280 ± 1.0911 (10)"


def test_a_method_or_experiment_without_published_numbers_has_none():
    for final in (_final([1.0, 2.0], "taylorglo"), _final([1.0, 2.0], experiment="mine")):
        comparison = paper.compare(final, "2")
        assert comparison["verdict"].tolist() == ["not published"]
        assert paper.readable(comparison)["published"].tolist() == ["–"]


def test_tables_without_groups_are_compared_with_in_sample_errors():
    comparison = paper.compare(_final([0.4, 0.5], "evomal", "diabetes"), "III")
    assert comparison["published mean"].tolist() == [0.3573]


@pytest.mark.parametrize(
    ("evomal", "verdict", "wins"),
    [
        ([1.0, 2.1, 3.0], "confirmed", 3),
        ([9.0, 10.1, 11.0], "contradicted", 0),
        ([4.0, 6.0, 5.0], "undecided", 1),
        ([4.0, np.inf, 5.0], "not judged", 1),
    ],
)
def test_orderings_are_judged_seed_by_seed(evomal, verdict, wins):
    baseline = [5.0, 6.0, 7.0] if verdict != "undecided" else [5.0, 5.0, 5.0]
    final = pd.concat([_final(baseline), _final(evomal, "evomal")])
    (row,) = paper.orderings(final, "2").to_dict("records")
    assert (row["other"], row["verdict"], row["n"]) == ("baseline", verdict, 3)
    assert row["wins"] == (2 if verdict == "not judged" else wins)
    if verdict != "not judged":
        interval = stats.ttest_rel(evomal, baseline).confidence_interval(0.95)
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))


def test_words_follow_from_the_tables_and_state_n_and_profile():
    final = pd.concat([_final([3.0, 3.1, 3.3]), _final([1.0, 2.1, 3.0], "evomal")])
    comparison, claims = paper.compare(final, "2"), paper.orderings(final, "2")
    text = paper.in_words(comparison, claims, "quick")
    assert "Profile `quick`, n = 3 seeds." in text
    assert "smaller than the paper's" in text
    assert "Agrees with the published mean: Baseline 3.133 (published 3.028)" in text
    assert "Published: EvoMAL below the following. **Undecided**: Baseline (lower in 3 of 3 seeds" in text
    assert "smaller than the paper's" not in paper.in_words(comparison, claims, "paper")


def test_words_of_one_method_alone_need_no_claims():
    final = _final([3.0, 3.1])
    assert "held-out error" in paper.in_words(paper.compare(final, "2"), paper.orderings(final, "2"), "quick")


def test_sizes_beside_table_3():
    runs = pd.DataFrame(
        [
            {"experiment": "sine", "method": method, "seed": seed, "parameters": size}
            for method, sizes in {"baseline": [0, 0], "ml3": [2650, 2650], "evomal": [20, 33]}.items()
            for seed, size in enumerate(sizes)
        ]
    )
    sizes = paper.sizes(runs)
    assert sizes["method"].tolist() == ["ml3", "evomal"]
    assert sizes["published mean"].tolist() == [2650, 30.9]
    assert "1.00% of the weights of ML³'s (mean of 2 seeds); published: 1.17%" in paper.sizes_in_words(sizes)
