"""Claims on constructed evidence whose right verdict is known."""

import numpy as np
import pandas as pd
import pytest
from made_runs import made

from evomal_paper.comparison import measures
from evomal_paper.comparison.claims import CLAIMS, judge_claims
from evomal_paper.comparison.evidence import COLUMNS, Evidence, gather, varied_rate
from evomal_paper.comparison.verdicts import VERDICTS
from evomal_paper.published.tables import published
from evomal_paper.runs.run import Run


def evidence(**tables):
    """Evidence with some tables, the others empty."""
    return Evidence(**{name: tables.get(name, pd.DataFrame(columns=columns)) for name, columns in COLUMNS.items()})


def final(errors, method, experiment="sine", group="in-sample", split="train", table="2", profile="paper"):
    keys = {"table": table, "experiment": experiment, "profile": profile, "method": method}
    return pd.DataFrame(
        [
            {**keys, "seed": seed, "group": group, "split": split, "value": error}
            for seed, error in enumerate(errors)
        ]
    )


def verdict(name, given):
    """By a claim's rule alone, for what was run."""
    (claim,) = [claim for claim in CLAIMS if claim.name == name]
    finding = claim.judge(given.at("paper").of_paper(claim.paper))
    return finding.verdict, finding.text


def counted(name, given):
    """What is counted of a claim: its rule, and whether all was run that it is about."""
    table = judge_claims(given)
    (row,) = table[(table["claim"] == name) & table["headline"]].to_dict("records")
    return row["verdict"], row["covered"], row["finding"]


def sine(evomal, others=("baseline", "random", "gp-lfl", "ml3"), n=10):
    """EvoMAL's errors in both groups, beside others that are always between 2 and 3."""
    parts = []
    for group in ("in-sample", "out-of-sample"):
        parts += [final(np.linspace(2, 3, n), method, group=group) for method in others]
        parts.append(final(evomal[:n], "evomal", group=group))
    return pd.concat(parts, ignore_index=True)


LOWER = np.linspace(0.1, 1.4, 10)


def test_every_claim_is_stated_once_with_its_place_and_rule():
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        assert claim.paper in ("gecco23", "tpami23")
        assert claim.rule.startswith("reproduced: ")
        assert "direction: " in claim.rule
        assert len(claim.quote) < 250
        assert claim.section


def test_without_runs_every_claim_is_not_run():
    table = judge_claims(evidence())
    assert table["claim"].tolist() == [claim.name for claim in CLAIMS]
    assert set(table["verdict"]) == {"not run"}
    assert table["headline"].all()


@pytest.mark.parametrize(
    ("n", "expected", "said"),
    [
        (10, "reproduced", "in 8 of 8 comparisons with Baseline, Random, GP-LFL, ML³; significantly in 8"),
        (5, "direction reproduced", "significantly in 0 (not testable at 5 %: corrected p ≥ 0.5 with 5 seeds)"),
    ],
)
def test_better_everywhere_is_reproduced_only_if_it_is_significant(n, expected, said):
    found, text = verdict("better-than-all", evidence(values=sine(LOWER, n=n)))
    assert found == expected
    assert said in text
    assert f"(n = {n} seeds)" in text


DATA_SETS = ("sine", "mnist", "cifar10", "surname")


def test_a_claim_on_all_data_sets_is_reproduced_only_on_all_and_against_all():
    some = [sine(LOWER).assign(experiment=name) for name in DATA_SETS]
    whole = pd.concat(some)
    assert counted("better-than-parents", evidence(values=whole))[:2] == ("reproduced", 1.0)
    found, covered, text = counted("better-than-parents", evidence(values=pd.concat(some[:3])))
    assert (found, covered) == ("direction reproduced", 0.75)
    assert "Complete on 3 of the 4 experiments" in text
    for absent in (
        (whole["experiment"] == "sine") & (whole["method"] == "ml3"),
        (whole["experiment"] == "sine") & (whole["group"] == "out-of-sample"),
    ):
        found, covered, _ = counted("better-than-parents", evidence(values=whole[~absent]))
        assert (found, covered) == ("direction reproduced", 0.75)
    worse = whole.assign(value=whole["value"].mask(whole["method"] == "evomal", 9.0))
    assert counted("better-than-parents", evidence(values=worse))[:2] == ("not reproduced", 1.0)


def test_one_seed_decides_no_claim():
    assert verdict("better-than-all", evidence(values=sine(LOWER, n=2)))[0] == "direction reproduced"
    assert verdict("better-than-all", evidence(values=sine(LOWER, n=1)))[0] == "not reproduced"
    one = pd.concat(
        [final([size], m, table="3", split="", group="") for m, size in (("evomal", 20), ("ml3", 2650))]
    )
    assert verdict("few-weights", evidence(values=one))[0] == "not reproduced"


def test_a_verdict_for_want_of_seeds_says_so():
    text = verdict("better-than-all", evidence(values=sine(LOWER, n=1)))[1]
    assert "in 8 of 8 comparisons" in text
    assert "(n = 1 seed, which decides nothing)" in text
    other = [final([1.0] * 3, m, "mnist") for m in ("baseline", "evomal")]
    some = pd.concat([sine(LOWER, n=1), *other])
    assert (
        "(n = 1 to 3 seeds; a single one decides nothing)"
        in (verdict("better-than-all", evidence(values=some))[1])
    )
    assert (
        "(n = 2 to 3 seeds)"
        in verdict("better-than-all", evidence(values=pd.concat([sine(LOWER, n=2), *other])))[1]
    )


def test_ten_seeds_of_all_data_sets_can_be_significant_and_four_cannot():
    # Each data set has 2 groups × 4 rivals; no p of n pairs is below 2^(1 − n).
    for n, expected, said in (
        (10, "reproduced", "significantly in 32 (n = 10 seeds)"),
        (8, "direction reproduced", "significantly in 0 (not testable at 5 %: corrected p ≥ 0.062 with 8 seeds)"),
    ):
        whole = pd.concat([sine(LOWER, n=n).assign(experiment=name) for name in DATA_SETS])
        found, _, text = counted("better-than-all", evidence(values=whole))
        assert found == expected
        assert said in text
        assert (8 * 2.0 ** (1 - n) < 0.05) == (expected == "reproduced")


def test_where_some_experiments_have_too_few_seeds_these_are_named():
    some = [sine(LOWER, n=3 if name == "mnist" else 10).assign(experiment=name) for name in DATA_SETS]
    found, _, text = counted("better-than-parents", evidence(values=pd.concat(some)))
    assert found == "direction reproduced"
    # 2 groups × 2 rivals, and no p of three pairs is below 1/4
    assert "significantly in 12 (not testable at 5 % on mnist: corrected p ≥ 1 with 3 seeds)" in text
    parts = [history("gp-lfl", [9, 5, 2], s, name) for name, n in (("sine", 7), ("mnist", 3)) for s in range(n)]
    parts += [part.assign(method="evomal", best_fitness=[7, 2, 1]) for part in parts]
    text = verdict("fewer-generations", evidence(values=sine(LOWER), histories=pd.concat(parts)))[1]
    assert "EvoMAL reaches after 2 (medians), p = 0.016; mnist" in text  # 2 / 2⁷, whatever mnist has
    assert "(not testable at 5 % on mnist: corrected p ≥ 0.25 with 3 seeds) (n = 3 to 7 seeds)" in text


def test_what_is_not_compared_has_no_say_for_want_of_seeds():
    sizes = [final([20.0] * 3, "evomal", table="3", split="", group="")]
    sizes += [final([2650.0] * 3, "ml3", table="3", split="", group="")]
    sizes += [final([20.0], "evomal", "mnist", table="3", split="", group="")]  # no ML³ to compare with
    assert verdict("few-weights", evidence(values=pd.concat(sizes)))[0] == "reproduced"
    spent = hours(ml3=0.1, taylorglo=1.0, gp_lfl=0.5, evomal=2.2)
    alone = spent.query("method == 'evomal' and seed == 0").assign(experiment="boston")
    assert verdict("run-time", evidence(values=pd.concat([spent, alone])))[0] == "reproduced"
    single = spent[
        (spent["method"] != "taylorglo") | (spent["seed"] == 0)
    ]  # two seeds of EvoMAL, one of its rival
    assert verdict("run-time", evidence(values=single))[0] == "not reproduced"
    moved = transferred(baseline=0.3, evomal=0.2, ml3=0.4)
    given = {"values": final([0.1], "evomal", "diabetes", table="III")}
    alone = moved.query("method == 'evomal' and seed == 0").assign(source="cifar10-vgg16")
    assert verdict("transfer", evidence(**given, transfers=pd.concat([moved, alone])))[0] == "reproduced"
    other = transferred(baseline=0.3, evomal=0.5, ml3=0.4).assign(source="mnist-mlp")  # not the paper's
    both = evidence(transfers=pd.concat([moved, other, other.assign(experiment="sine")]))
    assert counted("transfer", both)[0] == "direction reproduced"
    assert "of 1 comparisons (cifar10-allcnnc → cifar100-allcnnc): EvoMAL 1, ML³ 0" in counted("transfer", both)[2]
    assert counted("transfer", evidence(transfers=other))[0] == "not run"
    single = moved[(moved["method"] != "ml3") | (moved["seed"] == 0)]
    assert verdict("transfer", evidence(**given, transfers=single))[0] == "not reproduced"


def test_a_varied_profile_is_not_what_is_counted():
    varied = sine(LOWER).assign(profile="paper@meta_optimizer=adam")
    table = judge_claims(evidence(values=varied)).query("claim == 'better-than-all'")
    assert table[["profile", "verdict", "headline"]].to_numpy().tolist() == [
        ["", "not run", True],
        ["paper@meta_optimizer=adam", "direction reproduced", False],
    ]


def test_one_rival_that_is_better_breaks_the_claim_and_is_named():
    values = pd.concat([sine(LOWER, ("baseline", "ml3")), final([0.01] * 10, "gp-lfl")])
    found, text = verdict("better-than-parents", evidence(values=values))
    assert found == "not reproduced"
    assert "not below GP-LFL on sine in-sample" in text


def test_a_diverged_run_is_no_better_mean():
    errors = LOWER.copy()
    errors[3] = np.inf
    assert verdict("better-than-all", evidence(values=sine(errors)))[0] == "not reproduced"


def test_held_out_errors_and_experiments_without_published_cells_do_not_count():
    values = pd.concat([sine(LOWER), final([9.0], "evomal", split="test"), final([1.0], "baseline", split="test")])
    assert verdict("better-than-all", evidence(values=values))[0] == "reproduced"
    # a stand-in, and a target of Table IV that was trained itself: neither is a row of Table II
    for name in ("digits-mlp", "cifar100-alexnet"):
        runs = [final([v] * 3, m, name, split="test", table="II") for m, v in (("evomal", 1), ("baseline", 2))]
        assert verdict("better-than-handcrafted", evidence(values=pd.concat(runs)))[0] == "not run"


def test_what_the_paper_excepts_is_left_out():
    parts = [final([0.5] * 5, "baseline", name, split="test", table="III") for name in ("diabetes", "boston")]
    parts += [final([0.4] * 5, "evomal", "diabetes", split="test", table="III")]
    parts += [final([0.9] * 5, "evomal", "boston", split="test", table="III")]
    found, text = verdict("better-than-handcrafted", evidence(values=pd.concat(parts)))
    assert found == "direction reproduced"
    assert "in 1 of 1 comparisons" in text


def test_each_profile_has_its_own_row_and_the_fairest_is_counted():
    quick = sine(LOWER + 5).assign(profile="quick")
    table = judge_claims(evidence(values=pd.concat([quick, sine(LOWER)])))
    rows = table[table["claim"] == "better-than-all"][["profile", "verdict", "headline"]].to_numpy().tolist()
    assert rows == [["paper", "direction reproduced", True], ["quick", "not reproduced", False]]


def headline(values, name="better-than-parents"):
    rows = judge_claims(evidence(values=pd.concat(values))).query("claim == @name")
    assert rows["headline"].tolist() == [True] + [False] * (len(rows) - 1)
    return rows.iloc[0][["profile", "verdict", "covered"]].tolist(), rows["profile"].tolist()


def test_a_claim_rests_on_each_experiment_under_its_own_fairest_profile():
    """An experiment that was run at `quick` only can't be passed over for one that was run at `paper`."""
    paper = sine(LOWER)
    quick = [paper.assign(experiment=name, profile="quick") for name in DATA_SETS]
    worse = quick[1].assign(value=quick[1]["value"].mask(quick[1]["method"] == "evomal", 9.0))
    mixed = "paper (sine), quick (mnist, cifar10, surname)"
    assert headline([paper, *quick]) == ([mixed, "reproduced", 1.0], [mixed, "paper", "quick"])
    assert headline([paper, quick[0], worse, *quick[2:]])[0] == [mixed, "not reproduced", 1.0]
    assert headline([paper, quick[0], worse])[0] == ["paper (sine), quick (mnist)", "not reproduced", 0.5]
    assert headline(quick) == (["quick", "reproduced", 1.0], ["quick"])


def test_a_whole_experiment_at_a_smaller_profile_is_fairer_than_half_of_it():
    paper, quick = sine(LOWER), sine(LOWER).assign(profile="quick")
    half = paper[paper["method"] != "ml3"]
    assert headline([half, quick]) == (["quick", "direction reproduced", 0.25], ["quick", "paper"])
    assert headline([half])[0] == ["paper", "direction reproduced", 0.0]


def test_single_runs_are_left_out_where_others_can_decide():
    single = sine(LOWER, n=1).assign(experiment="mnist")
    (profile, verdict, covered), others = headline([sine(LOWER), single])
    assert (profile, verdict, covered) == ("paper (sine)", "direction reproduced", 0.25)
    assert others == ["paper (sine)", "paper"]
    text = counted("better-than-parents", evidence(values=pd.concat([sine(LOWER), single])))[2]
    assert text.endswith(" Left out, for a comparison of a single seed: mnist.")
    several = sine(LOWER, n=5).assign(experiment="mnist", profile="quick")
    assert headline([sine(LOWER), single, several])[0][0] == "paper (sine), quick (mnist)"
    assert headline([single])[0] == ["paper", "not reproduced", 0.25]
    elsewhere = evidence(values=pd.concat([sine(LOWER), single.assign(profile="quick")]))
    assert counted("better-than-parents", elsewhere)[2].endswith(
        "Left out, for a comparison of a single seed: mnist."
    )


@pytest.mark.parametrize("draw", range(3))
def test_whatever_was_run_each_claim_has_one_counted_row_and_that_of_no_varied_profile(draw):
    rng = np.random.default_rng(draw)
    places = {"II": ["mnist-mlp", "cifar10-vgg16", "digits-mlp"], "III": ["diabetes", "boston"], "2": DATA_SETS}
    profiles = ["paper", "quick", "paper@softplus=true", "narrow@split=leaking", "narrow@split=leaking,draw=1"]
    runs = [
        final(
            rng.choice([1.0, 2.0, np.inf], n),
            method,
            name,
            group,
            "train" if table == "2" else "test",
            table,
            profile,
        )
        for table, names in places.items()
        for name in names
        for profile in profiles
        for method in ("baseline", "ml3", "gp-lfl", "evomal")
        for group in (("in-sample", "out-of-sample") if table == "2" else ("in-sample",))
        if (n := rng.choice([0, 1, 5]))
    ]
    table = judge_claims(evidence(values=pd.concat(runs)))
    assert not table.duplicated(["claim", "profile"]).any()
    counts = table[table["headline"]]
    assert counts["claim"].tolist() == [claim.name for claim in CLAIMS]
    assert not counts["profile"].str.contains("softplus|draw").any()
    assert counts["profile"].str.contains("(", regex=False).any()
    for names in counts["profile"].str.findall(r"[(,] ?([a-z0-9-]+)(?=[,)])"):
        assert len(set(names)) == len(names)


def history(method, best, seed=0, experiment="sine", **counts):
    keys = {"experiment": experiment, "profile": "paper", "method": method, "seed": seed}
    blank = dict.fromkeys(("cached", "optimised", "rejected", "equivalent", "evaluated"), np.nan)
    return pd.DataFrame(
        [
            {**keys, **blank, "generation": g, "best_fitness": fitness, **{k: v[g] for k, v in counts.items()}}
            for g, fitness in enumerate(best)
        ]
    )


def test_generations_to_reach_what_a_rival_ends_with():
    histories = pd.concat(
        [
            history("gp-lfl", [9, 5, 5, 2]),
            history("evomal", [7, 2, 1, 1]),
            history("gp-lfl", [9, 4, 4, 4], seed=1),
            history("evomal", [7, 5, 5, 5], seed=1),
            history("gp-lfl", [np.inf] * 4, seed=2),
            history("evomal", [1] * 4, seed=2),
        ]
    )
    found = measures.generations_to_match(histories, ("gp-lfl",))
    assert found[["seed", "target", "ours", "theirs"]].to_numpy().tolist() == [[0, 2, 2, 4], [1, 4, np.inf, 2]]


@pytest.mark.parametrize(
    ("evomal", "expected"),
    [([7, 2, 1], "reproduced"), ([9, 9, 9], "not reproduced")],
)
def test_fewer_generations(evomal, expected):
    seeds = range(7)
    parts = [history("gp-lfl", [9, 5, 2], seed) for seed in seeds] + [history("evomal", evomal, s) for s in seeds]
    histories = pd.concat(parts)
    found, text = verdict("fewer-generations", evidence(values=sine(LOWER), histories=histories))
    assert found == expected
    assert "what GP-LFL reaches after 3 generations" in text
    assert ("does not reach" in text) == (expected == "not reproduced")


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([26.5] * 3, "reproduced"), ([100.0] * 3, "direction reproduced"), ([3000.0] * 3, "not reproduced")],
)
def test_the_share_of_weights(sizes, expected):
    parts = [
        final(sizes, "evomal", table="3", split="", group=""),
        final([2650.0] * 3, "ml3", table="3", split="", group=""),
    ]
    found, text = verdict("few-weights", evidence(values=pd.concat(parts)))
    assert found == expected
    assert f"sine {sizes[0] / 2650:.2%} (published 1.17%) (n = 3 seeds)" in text


def curve(method, errors, seed=0, group="in-sample"):
    keys = {"experiment": "sine", "profile": "paper", "method": method, "seed": seed, "group": group, "task": 0}
    return pd.DataFrame([{**keys, "step": 10 * i, "split": "train", "error": e} for i, e in enumerate(errors)])


def test_steps_to_the_baselines_final_error_by_hand():
    curves = pd.concat(
        [
            curve("baseline", [9, 7, 6, 5, 4]),
            curve("evomal", [9, 4, 3, 2, 1]),
            curve("baseline", [9, 7, 6, 5, 4], 1),
            curve("evomal", [9, 9, 9, 9, 9], 1),
            curve("baseline", [9, 7, 6, 5, np.inf], 2),
            curve("evomal", [1, 1, 1, 1, 1], 2),
            curve("baseline", [9, 7, 6, 5, 4], 3),
            curve("evomal", [9, 1, 1, 1, 4], 3),  # only as good in the end
            curve("baseline", [9, 7, 6, 5, 4], 4),
            curve("evomal", [9, 1, 1, np.inf, np.inf], 4),  # diverges after all
        ]
    )
    found = measures.steps_to_baseline(curves)
    # at seed 0 a tie at the first step does not surpass
    assert found[["seed", "share"]].to_numpy().tolist() == [[0, 0.5], [1, np.inf], [3, np.inf], [4, np.inf]]
    one = pd.concat([curves[curves["seed"] == 0], curves[curves["seed"] == 0].assign(seed=7)])
    assert verdict("faster-convergence", evidence(values=sine(LOWER), curves=one))[0] == "reproduced"
    alone = curves[curves["seed"] == 0]
    assert verdict("faster-convergence", evidence(values=sine(LOWER), curves=alone))[0] == "not reproduced"
    other = curves[curves["seed"] == 1]
    assert verdict("faster-convergence", evidence(values=sine(LOWER), curves=other))[0] == "not reproduced"


def test_what_generally_holds_may_fail_in_one_place_of_five():
    both = pd.concat([curve(m, e, s) for m, e in (("baseline", [9, 5, 4]), ("evomal", [9, 3, 2])) for s in (0, 1)])
    never = both.assign(error=both["error"].mask(both["method"] == "evomal", 9.0))
    places = [(name, group) for name in DATA_SETS for group in ("in-sample", "out-of-sample")]
    for failing, expected in (
        (0, "reproduced"),
        (1, "reproduced"),
        (2, "direction reproduced"),
        (4, "not reproduced"),
    ):
        curves = [
            (never if number < failing else both).assign(experiment=name, group=group)
            for number, (name, group) in enumerate(places)
        ]
        given = evidence(values=sine(LOWER), curves=pd.concat(curves))
        assert verdict("faster-convergence", given)[0] == expected


def filtered(cached, rejected, equivalent):
    """Ten generations of 20 candidates, the same at two seeds."""
    counts = {
        "cached": cached,
        "optimised": [20 - c for c in cached],
        "rejected": rejected,
        "equivalent": equivalent,
        "skipped": [0] * 10,
        "rejected early": [0] * 10,
        "evaluated": [20 - a - b - c for a, b, c in zip(cached, rejected, equivalent, strict=True)],
        "trained": [20 - a - b - c for a, b, c in zip(cached, rejected, equivalent, strict=True)],
    }
    return pd.concat([history("evomal", [1.0] * 10, seed, "diabetes", **counts) for seed in (0, 1)])


def test_filters_by_hand():
    histories = filtered([2] * 10, [15] * 2 + [10] * 6 + [7] * 2, [0] * 2 + [3] * 6 + [7] * 2)
    rows = measures.filter_shares(histories).set_index("when")
    assert rows["cached"].tolist() == pytest.approx([0.1] * 3)
    assert rows["n"].tolist() == [2] * 3
    assert rows.loc[["early", "late"], "rejected"].tolist() == pytest.approx([15 / 20, 7 / 20])
    assert rows.loc["all", "trained"] == pytest.approx((2 * 3 + 6 * 5 + 2 * 4) / 200)
    given = evidence(values=final([0.1], "evomal", "diabetes", table="V"), histories=histories)
    assert verdict("filters", given)[0] == "reproduced"
    found, text = verdict("filters-over-time", given)
    assert found == "reproduced"
    assert f"rejected from {15 / 18:.0%} to {7 / 18:.0%}" in text
    assert counted("filters", given)[:2] == ("direction reproduced", 1 / 16)
    many = given.histories.assign(cached=18, optimised=2, evaluated=2, trained=2, rejected=0, equivalent=0)
    assert verdict("filters", evidence(values=given.values, histories=many))[0] == "not reproduced"
    assert verdict("filters-over-time", evidence(values=given.values, histories=many))[0] == "not reproduced"


def hours(**by_method):
    parts = [final([h, h], m.replace("_", "-"), "diabetes", "", "", "V") for m, h in by_method.items()]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(
    ("by_method", "expected"),
    [
        ({"ml3": 0.1, "taylorglo": 1.0, "gp_lfl": 0.5, "evomal": 2.2}, "reproduced"),
        ({"ml3": 0.1, "taylorglo": 1.0, "gp_lfl": 0.5, "evomal": 9.0}, "direction reproduced"),
        ({"ml3": 0.1, "taylorglo": 1.0, "gp_lfl": 3.0, "evomal": 2.2}, "not reproduced"),
        ({"ml3": 0.1, "gp_lfl": 3.0, "evomal": 2.2}, "not run"),
    ],
)
def test_run_times(by_method, expected):
    assert verdict("run-time", evidence(values=hours(**by_method)))[0] == expected


def test_the_published_ratio_is_the_geometric_mean_of_table_v():
    text = verdict("run-time", evidence(values=hours(ml3=0.1, taylorglo=1.0, gp_lfl=0.5, evomal=2.0)))[1]
    table = published("V").set_index(["experiment", "method"])["mean"].unstack()
    by_hand = np.prod(table["evomal"] / table["taylorglo"]) ** (1 / 16)
    assert (
        f"2.00 times as long as TaylorGLO (geometric mean over 1 of 16 experiments; Table V's is {by_hand:.2f})"
        in text
    )


def test_better_early():
    parts = []
    for seed in range(2):
        parts.append(history("gp-lfl", [9] * 9 + [5], seed, "diabetes"))
        parts.append(history("evomal", [9, 4] + [3] * 8, seed, "diabetes"))
    values = final([0.1], "evomal", "diabetes", table="V")
    found, text = verdict("better-early", evidence(values=values, histories=pd.concat(parts)))
    assert found == "reproduced"
    assert "diabetes: 4 after 2 generations, 3 at the end, GP-LFL 5 at the end (n = 2 seeds)" in text


def test_better_early_compares_the_seeds_that_both_have():
    parts = [history("evomal", [9, 4] + [3] * 8, seed, "diabetes") for seed in (0, 1, 2)]
    parts += [history("gp-lfl", [9] * 9 + [5], seed, "diabetes") for seed in (0, 1)]
    parts.append(history("gp-lfl", [1] * 10, 7, "diabetes"))  # a seed at which EvoMAL was not run
    values = final([0.1], "evomal", "diabetes", table="V")
    found, text = verdict("better-early", evidence(values=values, histories=pd.concat(parts)))
    assert found == "reproduced"
    assert "GP-LFL 5 at the end (n = 2 seeds)" in text
    apart = evidence(values=values, histories=pd.concat([parts[0], parts[-1]]))
    assert verdict("better-early", apart)[0] == "not run"


def landscape(method, bowl, seed, experiment):
    x = np.linspace(-1, 1, 21)
    keys = {"experiment": experiment, "profile": "paper", "method": method, "seed": seed}
    return pd.DataFrame({"x": x, "height": bowl * x**2}).assign(**keys, measure="task", task=0, diverged=False)


@pytest.mark.parametrize(
    ("experiment", "ours", "expected"),
    [
        ("cifar10-allcnnc", 1.0, "direction reproduced"),
        ("cifar10-allcnnc", 3.0, "not reproduced"),
        ("cifar10-alexnet", 3.0, "direction reproduced"),
    ],
)
def test_flatness(experiment, ours, expected):
    parts = [landscape("evomal", ours, seed, experiment) for seed in range(3)]
    parts += [landscape("baseline", 2.0, seed, experiment) for seed in range(3)]
    given = evidence(values=final([0.1], "evomal", experiment, table="II"), landscapes=pd.concat(parts))
    assert verdict("flatter-landscapes", given)[0] == expected


def test_each_landscape_is_measured_within_its_own_grid():
    parts = [
        landscape(m, bowl, s, "cifar10-allcnnc") for m, bowl in (("evomal", 1), ("baseline", 2)) for s in (0, 1)
    ]
    coarse = pd.concat(parts).query("x in (-1, 0, 1)").assign(experiment="cifar10-alexnet")
    coarse["height"] *= -1  # sharper than the baseline
    given = evidence(values=final([0.1], "evomal", table="II"), landscapes=pd.concat([*parts, coarse]))
    found, text = verdict("flatter-landscapes", given)
    assert found == "direction reproduced"
    assert (
        "cifar10-allcnnc, within ±0.5: sharpness 0.11, the baseline's 0.22" in text
    )  # the mean of x² from 0.1 to 0.5
    assert "cifar10-alexnet, within ±1: sharpness -1, the baseline's -2" in text


def test_stand_ins_have_no_say_beside_the_claims_own_experiments():
    bowls = {"evomal": 1, "baseline": 2}
    parts = [landscape(m, bowl, s, "cifar10-allcnnc") for m, bowl in bowls.items() for s in (0, 1)]
    sharper = [landscape(m, 3 - bowl, s, "digits-mlp") for m, bowl in bowls.items() for s in (0, 1)]
    table = judge_claims(evidence(landscapes=pd.concat([*parts, *sharper])))
    rows = table.query("claim == 'flatter-landscapes'")
    assert rows[["profile", "verdict", "covered"]].to_numpy().tolist() == [["paper", "direction reproduced", 0.5]]
    assert "digits-mlp" not in rows["finding"].iloc[0]


def rates(evomal, baseline):
    """Errors at three rates, the same for each of six seeds; a rate is chosen by validation error."""
    rows = [
        {"experiment": "diabetes", "profile": "paper", "method": method, "seed": seed, "group": "in-sample"}
        | {"split": split, "rate": rate, "error": error + 0.001 * seed * (1 + (method == "evomal"))}
        for method, errors in (("evomal", evomal), ("baseline", baseline))
        for rate, error in zip((0.001, 0.01, 0.1), errors, strict=True)
        for seed in range(6)
        for split in ("validation", "test")
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("evomal", "baseline", "expected"),
    [
        ([0.3, 0.3, 0.3], [0.9, 0.4, 0.5], "reproduced"),  # better where the baseline is best
        ([0.3, 0.6, 0.3], [0.9, 0.4, 0.5], "not reproduced"),  # better elsewhere only
        ([0.3, 0.3, 0.3], [0.9, 0.5, 0.4], "not run"),  # the best rate may lie beyond the grid
    ],
)
def test_learning_rates(evomal, baseline, expected):
    given = evidence(values=final([0.1], "evomal", "diabetes", table="III"), rates=rates(evomal, baseline))
    assert verdict("not-only-learning-rate", given)[0] == expected


def test_stand_ins_neither_confirm_nor_contradict_a_claim():
    """The claim is about AllCNN-C on CIFAR-10; rates were varied on Diabetes."""
    table = rates([0.3, 0.3, 0.3], [0.9, 0.4, 0.5])
    given = evidence(values=final([0.1], "evomal", "diabetes", table="III"), rates=table)
    found, covered, text = counted("not-only-learning-rate", given)
    assert (found, covered) == ("not run", 0.0)
    assert text.startswith("On stand-ins only: At the baseline's best rate: diabetes, 3 rates")
    own = [final([0.1], "evomal", "cifar10-allcnnc", table="II", profile="quick"), given.values]
    real = table.assign(experiment="cifar10-allcnnc", profile="quick")
    both = evidence(values=pd.concat(own), rates=pd.concat([table, real]))
    # runs of the claim's own experiment count first, though those of the stand-in are of a fairer profile
    assert counted("not-only-learning-rate", both)[:2] == ("reproduced", 1.0)
    rows = judge_claims(both).query("claim == 'not-only-learning-rate'")
    assert rows[["profile", "verdict"]].to_numpy().tolist() == [["quick", "reproduced"], ["paper", "not run"]]


def test_learning_rates_are_compared_at_the_seeds_that_both_methods_have():
    values = final([0.1], "evomal", "diabetes", table="III")
    table = rates([0.3, 0.3, 0.3], [0.9, 0.4, 0.5])
    uneven = table[(table["method"] == "baseline") | (table["seed"] < 4)]
    found, text = verdict("not-only-learning-rate", evidence(values=values, rates=uneven))
    assert found == "reproduced"
    assert "lower in 4 of 4 seeds" in text
    apart = table[(table["method"] == "baseline") == (table["seed"] < 3)]
    assert verdict("not-only-learning-rate", evidence(values=values, rates=apart))[0] == "not run"


def test_varied_rates_are_judged_without_runs_at_the_stated_one():
    table = rates([0.3, 0.3, 0.3], [0.9, 0.4, 0.5]).assign(experiment="cifar10-allcnnc", profile="quick")
    assert counted("not-only-learning-rate", evidence(rates=table))[:2] == ("reproduced", 1.0)


def test_learning_rates_of_other_methods_have_no_say():
    values = final([0.1], "evomal", "diabetes", table="III")
    table = rates([0.3, 0.3, 0.3], [0.9, 0.4, 0.5])
    other = table[(table["method"] == "baseline") & (table["seed"] == 0)].assign(method="random")
    found, text = verdict("not-only-learning-rate", evidence(values=values, rates=pd.concat([table, other])))
    assert found == "reproduced"
    assert "lower in 6 of 6 seeds" in text
    without = pd.concat([table[table["method"] == "baseline"], other])
    assert verdict("not-only-learning-rate", evidence(values=values, rates=without))[0] == "not run"


def transferred(**means):
    keys = {
        "source": "cifar10-allcnnc",
        "experiment": "cifar100-allcnnc",
        "profile": "paper",
        "group": "in-sample",
    }
    return pd.DataFrame(
        [
            {**keys, "method": m.replace("_", "-"), "seed": s, "split": "test", "error": e}
            for m, e in means.items()
            for s in range(2)
        ]
    )


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ({"baseline": 0.3, "evomal": 0.2, "ml3": 0.4}, "reproduced"),
        ({"baseline": 0.3, "evomal": 0.35, "ml3": 0.4}, "direction reproduced"),
        ({"baseline": 0.3, "evomal": 0.35, "ml3": 0.32}, "not reproduced"),
    ],
)
def test_transfers(means, expected):
    given = evidence(values=final([0.1], "evomal", "diabetes", table="III"), transfers=transferred(**means))
    found, text = verdict("transfer", given)
    assert found == expected
    assert "of 1 comparisons (cifar10-allcnnc → cifar100-allcnnc)" in text
    assert "n = 2 seeds" in text


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("quick", ("quick", None)),
        ("quick@base.lr=0.1", ("quick", 0.1)),
        ("paper@split=leaking,base.lr=0.003", ("paper@split=leaking", 0.003)),
        ("paper@base.lr=0.1,meta_optimizer=adam", ("paper@base.lr=0.1,meta_optimizer=adam", None)),
    ],
)
def test_profiles_that_vary_the_learning_rate_alone_are_set_apart(profile, expected):
    assert varied_rate(profile) == expected


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs, and analyses as their modules write them."""
    place = tmp_path_factory.mktemp("results")
    for method, error in (("baseline", 2.0), ("evomal", 0.5)):
        made(Run("sine", "quick", method, 0, place), error=error, new=1.5)
    analyses = {
        "landscapes/sine/quick/evomal/seed-0/line-3.csv": (
            "x,measure,height,task,diverged\n-1,task,2,0,False\n0,task,1.5,0,False\n"
        ),
        "landscapes/sine/quick/evomal/seed-0/line-11.csv": "x,measure,height,task,diverged\n0,task,7,0,False\n",
        "landscapes/sine/quick/baseline/seed-0/line-3.csv": "x,measure,height,task,diverged\n0,task,8,0,False\n",
        "transfer/cifar10-allcnnc-to-cifar100-allcnnc/quick/evomal/seed-0/test.csv": (
            "group,task,step,split,error\nin-sample,0,0,test,0.9\nin-sample,0,5,test,0.25\n"
        ),
        "transfer/diabetes-to-sine/quick/evomal/seed-0/test.csv": (
            "group,task,step,split,error\nin-sample,0,100,test,0.4\n"
        ),
        "transfer/sine-to-sine/smoke/evomal/seed-0/test.csv": "group,task,step,split,error\n",
    }
    for name, text in analyses.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
        (place / name).with_suffix(".json").write_text("{}")
    return place


def test_gathered_evidence_holds_what_the_files_hold(folder):
    found = gather(folder)
    assert found.profiles == ["quick"]
    weights = found.values.query("table == '3' and method == 'evomal'")["value"]
    assert weights.tolist() == [3]
    error = found.values.query("table == '2' and method == 'evomal' and group == 'in-sample' and split == 'train'")
    assert error["value"].tolist() == [0.5]
    assert found.values.query("table == 'IV'")[["experiment", "method", "value"]].to_numpy().tolist() == [
        ["cifar100-allcnnc", "evomal", 0.25]
    ]
    # of the two grids the one that both methods have
    assert found.landscapes[["experiment", "method", "seed", "height"]].to_numpy().tolist() == [
        ["sine", "baseline", 0, 8.0],
        ["sine", "evomal", 0, 2.0],
        ["sine", "evomal", 0, 1.5],
    ]
    assert set(judge_claims(found)["verdict"]) <= set(VERDICTS)


def test_a_transfer_is_compared_with_the_baseline_from_new_starts_as_it_is_itself(folder):
    found = gather(folder).transfers.query("experiment == 'sine' and split == 'test' and group == 'in-sample'")
    assert found.set_index("method")["error"].to_dict() == {"evomal": 0.4, "baseline": 3.0}


def test_a_folder_that_is_not_there_is_no_evidence(tmp_path):
    found = gather(tmp_path / "absent")
    assert not found.profiles
    assert found.values.empty
