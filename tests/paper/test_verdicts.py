"""Verdicts on constructed tables whose right verdict is known, and the words that follow from them."""

import numpy as np
import pandas as pd
import pytest

from evomal_paper.comparison import tables, verdicts
from evomal_paper.comparison.evidence import collect
from evomal_paper.plots import verdicts as plots_verdicts
from evomal_paper.published import tables as paper
from evomal_paper.statistics import bootstrap_difference


def final(errors, method="baseline", experiment="sine", group="in-sample", split="train", profile="paper"):
    keys = {"experiment": experiment, "profile": profile, "method": method, "group": group, "split": split}
    return pd.DataFrame([{**keys, "seed": seed, "error": error} for seed, error in enumerate(errors)])


def as_published(experiment="sine", group="in-sample", table="2", scale=1.0, **changes):
    """Ten seeds of each method whose means are the published ones times a scale."""
    cells = paper.published(table).query("experiment == @experiment and (group == @group or group == '')")
    noise = np.linspace(-1, 1, 10) * 0.05
    parts = [
        final(scale * cell.mean * (1 + noise), cell.method, experiment, group, **changes)
        for cell in cells.itertuples()
    ]
    return pd.concat(parts, ignore_index=True)


def only(table, **where):
    for name, value in where.items():
        table = table[table[name] == value]
    (row,) = table.to_dict("records")
    return row


def test_what_is_as_published_is_reproduced():
    found = verdicts.compare(as_published(), "2")
    assert found["method"].tolist() == ["baseline", "random", "gp-lfl", "ml3", "evomal"]
    assert found["difference"].tolist() == pytest.approx([0] * 5, abs=1e-12)
    assert found["verdict"].tolist() == ["reproduced"] * 5
    assert (found["low"] < 0).all()
    assert (found["high"] > 0).all()


def test_the_same_order_at_another_size_is_a_direction():
    found = verdicts.compare(as_published(scale=0.2), "2")
    assert found["verdict"].tolist() == ["direction reproduced"] * 5
    baseline, evomal = only(found, method="baseline"), only(found, method="evomal")
    # 3.028 ± 1.0911 and 2.1073 ± 0.75 of 10 each: 0.92 apart, 1.96 standard errors are 0.82
    assert baseline["why"] == "measured lower; above random, gp-lfl, ml3, evomal as published"
    # random 1.41, gp-lfl 1.28 and evomal 1.27 are not told apart by the paper's own spreads
    assert evomal["why"] == "measured lower; below baseline, ml3 as published"


def test_another_order_at_another_size_is_not_reproduced():
    table = as_published(scale=0.2)
    table.loc[table["method"] == "evomal", "error"] = 9.0
    found = verdicts.compare(table, "2")
    assert only(found, method="evomal")["verdict"] == "not reproduced"
    assert only(found, method="evomal")["why"] == "measured higher; published below baseline, ml3, measured not"
    assert only(found, method="ml3")["verdict"] == "not reproduced"
    assert only(found, method="random")["verdict"] == "direction reproduced"


@pytest.mark.parametrize(
    ("errors", "verdict", "why"),
    [
        ([3.0, 3.1, 2.9], "reproduced", "the interval contains 0"),
        ([9.0, 9.1, 9.2], "not reproduced", "measured higher; no published order to go by"),
        ([3.0], "not reproduced", "one run has no interval; no published order to go by"),
        (
            [0.5, 9.0],
            "not reproduced",
            "interval too wide to agree; no published order to go by",
        ),
        (
            [3.0, 3.0, np.inf],
            "not reproduced",
            "1 of 3 runs diverged; no published order to go by",
        ),
        (
            [np.inf, np.inf],
            "not reproduced",
            "2 of 2 runs diverged; no published order to go by",
        ),
    ],
)
def test_verdicts_of_a_method_alone(errors, verdict, why):
    row = only(verdicts.compare(final(errors), "2"))
    assert (row["verdict"], row["why"]) == (verdict, why)


def test_means_within_a_twentieth_agree_whatever_the_interval_says():
    # MNIST's logistic regression: 0.0787 ± 0.0009
    near = final([0.0805, 0.0806, 0.0807], experiment="mnist-logistic", split="test")
    row = only(verdicts.compare(near, "II"))
    assert row["low"] > 0
    assert (row["verdict"], row["why"]) == ("reproduced", "means within 5%")
    far = near.assign(error=near["error"] + 0.004)
    assert only(verdicts.compare(far, "II"))["verdict"] == "not reproduced"


def test_diverged_runs_are_counted_never_averaged_and_rank_last():
    table = as_published(scale=0.2)
    table.loc[(table["method"] == "evomal") & (table["seed"] == 3), "error"] = np.inf
    row = only(verdicts.compare(table, "2"), method="evomal")
    finite = table.query("method == 'evomal' and seed != 3")["error"]
    assert (row["n"], row["diverged"], row["mean"]) == (10, 1, pytest.approx(finite.mean()))
    assert row["verdict"] == "not reproduced"
    assert row["why"] == "1 of 10 runs diverged; published below baseline, ml3, measured not"


def test_the_interval_is_that_of_the_statistics_module():
    errors = [2.0, 2.5, 3.5, 4.0]
    row = only(verdicts.compare(final(errors), "2"))
    place = ("2", "sine", "paper", "in-sample", "train", "baseline")
    sd = 1.0911 * np.sqrt(10 / 9)  # the authors' is of a population
    assert (row["low"], row["high"]) == bootstrap_difference(np.array(errors), 3.028, sd, 10, *place)


def test_published_orders_count_only_where_chance_does_not_explain_them():
    assert verdicts.decided((1.0, 0.1, 10), (1.1, 0.1, 10))  # 0.1 against 1.96 · 0.0447
    assert not verdicts.decided((1.0, 0.1, 10), (1.08, 0.1, 10))
    assert verdicts.decided((1.0, np.nan, 5), (1.01, np.nan, 5))
    assert not verdicts.decided((1.0, np.nan, 5), (1.0, np.nan, 5))


def test_what_is_not_published_has_no_verdict():
    for table in (final([1.0, 2.0], "taylorglo"), final([1.0, 2.0], experiment="mine")):
        comparison = verdicts.compare(table, "2")
        assert comparison["verdict"].tolist() == ["not published"]
        assert tables.readable(comparison)["published"].tolist() == ["–"]


def test_tables_without_groups_are_compared_with_in_sample_errors():
    comparison = verdicts.compare(final([0.4, 0.5], "evomal", "diabetes"), "III")
    assert comparison["published mean"].tolist() == [0.3573]


def test_sizes_beside_table_3():
    sizes = {"baseline": [0, 0], "ml3": [2650, 2650], "evomal": [20, 33]}
    rows = [
        {"experiment": "sine", "profile": "quick", "method": method, "seed": seed, "parameters": size}
        for method, both in sizes.items()
        for seed, size in enumerate(both)
    ]
    found = verdicts.sizes(pd.DataFrame(rows))
    assert found["method"].tolist() == ["ml3", "evomal"]
    assert found["published mean"].tolist() == [2650, 30.9]
    assert found["verdict"].tolist() == ["by construction", "reproduced"]


def values(*parts):
    return pd.concat(parts, ignore_index=True).rename(columns={"error": "value"}).assign(table="2")


def test_every_published_cell_has_a_row_and_one_that_is_counted():
    nothing = values(
        final([]).reindex(columns=["experiment", "profile", "method", "group", "split", "seed", "error"])
    )
    whole = verdicts.every_cell(nothing)
    assert len(whole) == 227 == whole["headline"].sum()
    assert set(whole["verdict"]) == {"not run"}
    assert verdicts.counts(whole).loc["all"].tolist() == [0, 0, 0, 0, 227, 227]


def test_each_profile_has_a_row_the_fairest_first_and_training_errors_before_held_out_ones():
    parts = [final([3.0, 3.1], profile=name, split=s) for name in ("quick", "paper") for s in ("test", "train")]
    whole = verdicts.every_cell(values(*parts, final([1.0, 2.0], "taylorglo")))
    assert whole["headline"].sum() == 227
    cell = whole[
        (whole["experiment"] == "sine") & (whole["group"] == "in-sample") & (whole["method"] == "baseline")
    ]
    rows = cell[["profile", "split", "headline"]].to_numpy().tolist()
    assert rows == [
        ["paper", "train", True],
        ["paper", "test", False],
        ["quick", "train", False],
        ["quick", "test", False],
    ]
    assert verdicts.counts(whole).loc["2"].tolist() == [1, 0, 0, 0, 39, 40]


@pytest.mark.parametrize(
    ("others", "counted"),
    [([3.0, 3.1], "quick"), ([3.0], "paper"), ([], "paper")],
    ids=["two seeds", "one seed too", "none"],
)
def test_a_single_run_gives_way_to_several_of_another_profile(others, counted):
    single = final([3.0], profile="paper")
    varied = final([3.0, 3.1], profile="paper@base.lr=0.01")
    whole = verdicts.every_cell(values(single, varied, *([final(others, profile="quick")] if others else [])))
    cell = whole.query("experiment == 'sine' and group == 'in-sample' and method == 'baseline'")
    assert cell["profile"].iloc[0] == counted
    assert cell["headline"].tolist() == [True] + [False] * (len(cell) - 1)
    assert cell["profile"].iloc[-1] == "paper@base.lr=0.01"


def test_one_seed_has_neither_an_order_nor_a_say_in_one():
    one = as_published(scale=0.2).query("seed == 0")
    assert set(verdicts.compare(one, "2")["verdict"]) == {"not reproduced"}
    mixed = as_published(scale=0.2).query("method != 'evomal' or seed == 0")
    found = verdicts.compare(mixed, "2")
    assert only(found, method="evomal")["why"].startswith("one run has no interval")
    assert only(found, method="evomal")["verdict"] == "not reproduced"
    assert only(found, method="baseline")["why"] == "measured lower; above random, gp-lfl, ml3 as published"


def test_a_varied_profile_is_shown_but_never_counted():
    keys = {"experiment": "diabetes", "split": "test"}
    varied = values(final([0.38, 0.39], profile="paper@meta_optimizer=adam", **keys)).assign(table="III")
    leaking = values(final([0.38, 0.39], profile="quick@split=leaking", **keys)).assign(table="III")
    for given, rows in (
        (varied, [["", "not run", True], ["paper@meta_optimizer=adam", "reproduced", False]]),
        (leaking, [["quick@split=leaking", "reproduced", True]]),
        (
            pd.concat([varied, leaking]),
            [["quick@split=leaking", "reproduced", True], ["paper@meta_optimizer=adam", "reproduced", False]],
        ),
    ):
        whole = verdicts.every_cell(given)
        cell = whole.query("table == 'III' and experiment == 'diabetes' and method == 'baseline'")
        assert cell[["profile", "verdict", "headline"]].to_numpy().tolist() == rows
        assert verdicts.counts(whole).loc["all", "cells"] == len(paper.published())


@pytest.mark.parametrize(
    ("experiment", "profile", "group", "method", "verdict"),
    [
        ("mnist", "paper", "in-sample", "baseline", "reproduced"),
        ("mnist", "calibrated", "in-sample", "baseline", "by construction"),
        ("mnist", "calibrated", "out-of-sample", "baseline", "by construction"),
        ("mnist", "calibrated", "in-sample", "evomal", "reproduced"),
        ("surname", "quick", "in-sample", "baseline", "by construction"),
        ("surname", "quick", "out-of-sample", "baseline", "reproduced"),
        ("sine", "quick", "in-sample", "baseline", "reproduced"),
        ("mnist", "paper@base.momentum=0.9", "in-sample", "baseline", "reproduced"),  # chosen by hand
    ],
)
def test_a_baseline_that_chose_its_settings_confirms_nothing(experiment, profile, group, method, verdict):
    found = verdicts.compare(as_published(experiment, group, profile=profile), "2")
    assert only(found, method=method)["verdict"] == verdict


def test_profiles_are_sorted_by_how_fair_they_are():
    known = [
        "quick",
        "paper@meta_optimizer=adam",
        "calibrated",
        "paper",
        "paper@split=leaking",
        "quick@split=leaking",
    ]
    assert sorted(known, key=verdicts.strength) == [
        "paper@split=leaking",
        "paper",
        "calibrated",
        "quick@split=leaking",
        "quick",
        "paper@meta_optimizer=adam",
    ]


def pairs(evomal, baseline):
    return verdicts.orderings(pd.concat([final(baseline), final(evomal, "evomal")]), "2")


@pytest.mark.parametrize(
    ("evomal", "verdict", "wins", "effect"),
    [
        ([1.0, 2.1, 3.2, 1.3, 2.4, 3.5], "confirmed", 6, -1),
        ([9.0, 10.1, 11.2, 9.3, 10.4, 11.5], "contradicted", 0, 1),
        ([1.0, 2.1, 3.2, 1.3, 2.4, np.inf], "undecided", 5, None),
        ([1.0, 2.1, 3.2, 1.3, 2.4], "not testable", 5, -1),
    ],
)
def test_orderings_are_judged_seed_by_seed(evomal, verdict, wins, effect):
    row = only(pairs(evomal, [5.0, 6.0, 7.0, 5.5, 6.5, 7.5][: len(evomal)]))
    assert (row["other"], row["verdict"], row["n"], row["wins"]) == ("baseline", verdict, len(evomal), wins)
    assert row["published difference"] == pytest.approx(1.267 - 3.028)
    if effect is not None:
        assert row["effect"] == effect


def test_orderings_are_corrected_for_the_comparisons_of_one_experiment():
    rng = np.random.default_rng(0)
    methods = ("baseline", "random", "gp-lfl", "ml3")
    others = [final(rng.uniform(1, 2, 10) + number, method) for number, method in enumerate(methods)]
    found = verdicts.orderings(pd.concat([*others, final(rng.uniform(0, 0.5, 10), "evomal")]), "2")
    assert found["p"].tolist() == [2 / 2**10] * 4
    assert found["corrected"].tolist() == [8 / 2**10] * 4
    assert set(found["verdict"]) == {"confirmed"}
    few = verdicts.orderings(pd.concat([*others, final(rng.uniform(0, 0.5, 10), "evomal")]).query("seed < 7"), "2")
    assert set(few["verdict"]) == {"not testable"}  # p is 0.0156, and 0.0625 after correction


def test_seeds_that_one_method_lacks_are_left_out_of_the_pairs():
    assert only(pairs([1.0, 2.0, 3.0], [5.0, 6.0]))["n"] == 2


def test_a_readable_table_has_a_verdict_for_each_part_of_the_task():
    both = pd.concat([final([1.0, np.inf, 3.0], split=split) for split in ("train", "test")])
    (row,) = tables.readable(verdicts.compare(both, "2")).to_dict("records")
    assert row["measured, held-out"] == "2.0000 ± 1.4142 (3, 1 diverged)"
    assert row["published"] == "3.0280 ± 1.0911 (10)"
    assert row["verdict, training"] == "not reproduced"


def test_errors_from_new_starts_stand_beside_and_have_no_say():
    errors = final([3.0, 3.1, 3.2])
    both = verdicts.compare(errors.assign(**{"error from new starts": [9.0, 11.0, np.inf]}), "2")
    pd.testing.assert_frame_equal(both.drop(columns=verdicts.NEW), verdicts.compare(errors, "2"))
    (row,) = tables.readable(both).to_dict("records")
    assert row["from new starts, training"] == "10.0000 ± 1.4142 (3, 1 diverged)"
    cells = verdicts.every_cell(values(errors).assign(new=[9.0, 11.0, np.inf]))
    shown = only(
        tables.cell_table(cells[cells["table"] == "2"]), experiment="sine", group="in-sample", method="Baseline"
    )
    assert shown["from new starts"].replace("\u00a0", " ") == "10 ± 1.4 (3, 1 diverged)"


def test_the_whole_comparison_is_readable_and_names_what_is_furthest_off():
    table = values(final([3.0, 3.1]), final([0.01, 0.02], "evomal"), final([np.inf, 9.0], "ml3"))
    cells = verdicts.every_cell(table)
    shown = tables.cell_table(cells[cells["table"] == "2"])
    row = only(shown, experiment="sine", group="in-sample", method="EvoMAL")
    assert row["published"].replace("\u00a0", " ") == "1.2670 ± 0.8052 (10)"
    assert row["profile"] == "paper, training"
    assert row["measured"].replace("\u00a0", " ") == "0.015 ± 0.0071 (2)"
    assert row["difference"].startswith("−1.25")
    lost = only(shown, experiment="sine", group="in-sample", method="ML³")
    assert lost["measured"].replace("\u00a0", " ") == "9 (2, 1 diverged)"


def test_nothing_run_is_said_in_words_and_drawn():
    cells = verdicts.every_cell(collect([]).values)
    assert "no published cell was run" in plots_verdicts.ratios(cells).get_suptitle()
    figure = plots_verdicts.verdict_map(cells)
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(paper.TABLES.values())
    assert not [text.get_text() for axes in figure.axes for text in axes.texts if text.get_text()]


def test_figures_show_each_verdict_and_each_ratio():
    table = values(final([3.028, 3.028]), final([0.1, 0.2], "evomal"), final([np.inf, 9.0], "ml3"))
    cells = verdicts.every_cell(table)
    letters = [t.get_text() for t in plots_verdicts.verdict_map(cells).axes[0].texts if t.get_text()]
    assert sorted(letters) == ["D", "N", "R"]
    axes = plots_verdicts.ratios(cells).axes[0]
    drawn = {round(float(x), 4) for line in axes.get_lines() for x in line.get_xdata()}
    assert {1.0, round(0.15 / 1.267, 4), round(9 / 2.1073, 4)} <= drawn
    assert [text.get_text() for text in axes.texts] == ["diverged:\nML³ 1 of 2"]


def test_a_row_of_the_map_names_the_profiles_of_all_its_cells():
    leaking = {"experiment": "diabetes", "split": "test"}
    runs = [
        final([3.0, 3.1], profile="paper"),
        final([0.1, 0.2], "evomal", profile="quick"),
        final([3.0, 3.1], "baseline", group="out-of-sample", profile="quick"),
    ]
    tabular = [
        final([0.4, 0.5], profile="paper@split=leaking", **leaking),
        final([0.4, 0.5], "evomal", profile="quick@split=leaking", **leaking),
        final([0.4, 0.5], "baseline", "boston", split="test", profile="quick"),
        final([0.4, 0.5], "evomal", "boston", split="test", profile="paper@split=leaking"),
    ]
    cells = verdicts.every_cell(pd.concat([values(*runs), values(*tabular).assign(table="III")]))
    axes = {axes.get_title(loc="left"): axes for axes in plots_verdicts.verdict_map(cells).axes}
    errors, table_iii = (
        [label.get_text() for label in axes[name].get_yticklabels()]
        for name in ("GECCO'23 Table 2", "TPAMI'23 Table III")
    )
    assert errors[:3] == ["sine, in-sample  (paper, quick)", "sine, out-of-sample  (quick)", "mnist, in-sample"]
    assert table_iii == [
        "diabetes  (paper, quick@split=leaking)",
        "boston  (paper@split=leaking, quick)",
        "california",
    ]
