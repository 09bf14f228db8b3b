"""What runs cost: sums of phases, and shares of outcomes, by hand-made records and by a real search."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from evomal_paper.analysis import runtime
from evomal_paper.plots import runtime as plots_runtime
from evomal_paper.runs.run import complete_runs
from evomal_paper.runs.tables import load, load_or_run

RUNS = pd.DataFrame(
    {
        "experiment": "diabetes",
        "profile": "quick",
        "method": ["baseline", "ml3", "taylorglo", "gp-lfl", "evomal", "evomal"],
        "seed": [0, 0, 0, 0, 0, 1],
        "engine": ["none", "jvp", "batched", "batched", "batched", "batched"],
        "seconds local search": [np.nan, 1.0, np.nan, np.nan, 8.0, 16.0],
        "seconds filters": [np.nan, np.nan, np.nan, 2.0, 4.0, 8.0],
        "seconds filter: rejection": [np.nan, np.nan, np.nan, 1.5, 3.0, 5.0],
        "seconds fitness": [1.0, 1.0, 10.0, 3.0, 6.0, 18.0],
        "seconds meta-test": 2.0,
    }
)
# Two generations of 10: 16 new candidates, of which 8 are tuned, 3 trained with.
COUNTS = {
    "cached": [0, 4],
    "skipped": [1, 1],
    "rejected early": [4, 2],
    "optimised": [5, 3],
    "rejected": [3, 1],
    "equivalent": [0, 1],
    "evaluated": [3, 2],
    "trained": [2, 1],
}


def histories(counts=None, experiment="diabetes", seeds=(0, 1)):
    rows = pd.DataFrame(counts or COUNTS).assign(generation=[0, 1], experiment=experiment, profile="quick")
    return pd.concat([rows.assign(method="evomal", seed=seed) for seed in seeds], ignore_index=True)


def test_meta_training_is_the_sum_of_its_phases_and_parts_of_filters_do_not_count_twice():
    spent = runtime.seconds(RUNS).set_index("method")
    assert spent["meta-training"].to_dict() == {
        "baseline": 1.0,
        "ml3": 2.0,
        "taylorglo": 10.0,
        "gp-lfl": 5.0,
        "evomal": 30.0,
    }
    assert spent.loc["evomal", ["n", "local search", "filters", "fitness", "meta-test"]].tolist() == [
        2,
        12,
        6,
        12,
        2,
    ]
    assert spent.loc["evomal", "sd"] == pytest.approx(np.std([18, 42], ddof=1))


def test_table_v_has_all_published_rows_and_the_measured_beside():
    table = runtime.table_v(runtime.seconds(RUNS))
    assert len(table) == 16
    assert table.loc["diabetes", ("published, hours", "EvoMAL")] == 1.93
    assert table.loc["diabetes", ("measured, seconds", "EvoMAL")] == 30.0
    assert table.loc["diabetes", ("n", "")] == 2
    assert table.loc["svhn-wideresnet", "measured, seconds"].isna().all()


def test_ratios_are_those_of_meta_training():
    found = runtime.ratios(runtime.seconds(RUNS)).set_index("other")
    assert found["measured"].to_dict() == {"ml3": 15.0, "taylorglo": 3.0, "gp-lfl": 6.0}
    assert found.loc["taylorglo", "published"] == pytest.approx(1.93 / 0.83)
    assert set(found["n"]) == {1}
    other = runtime.ratios(runtime.seconds(RUNS.assign(experiment="sine")))
    assert other["published"].isna().all()  # which Table V does not have


def test_shares_of_a_generation_are_means_over_runs():
    shares = runtime.frequencies(histories()).set_index(["generation", "outcome"])["share"]
    assert shares[1, "rejected early"] == 0.4
    assert shares[2, "cached"] == 0.4
    assert shares[2, "trained"] == 0.1
    cached = histories()
    cached.loc[(cached["seed"] == 0) & (cached["generation"] == 1), ["cached", "evaluated"]] = [2, 4]
    found = runtime.frequencies(cached).set_index(["generation", "outcome"])
    assert found.loc[(2, "cached"), "share"] == pytest.approx(0.3)
    assert found.loc[(2, "cached"), "n"] == 2


def test_filters_that_are_off_have_no_row():
    off = {name: COUNTS[name] for name in COUNTS} | {"skipped": [0, 0], "rejected early": [0, 0]}
    assert "skipped" not in set(runtime.frequencies(histories(off))["outcome"])


def test_several_experiments_have_a_mean_of_all_their_runs():
    table = pd.concat([histories(), histories(experiment="boston", seeds=(0,))], ignore_index=True)
    found = runtime.frequencies(table)
    assert list(dict.fromkeys(found["experiment"])) == ["diabetes", "boston", "all"]
    assert set(found.loc[found["experiment"] == "all", "n"]) == {3}


def test_searches_without_the_papers_filters_stay_out_of_figure_5():
    table = pd.concat([histories(), histories(experiment="sine")], ignore_index=True)
    assert set(runtime.filtered(table)["experiment"]) == {"diabetes"}
    assert len(runtime.filtered(histories(experiment="sine"))) == 4


def test_baselines_alone_have_nothing_to_show():
    runs = RUNS.query("method == 'evomal'").assign(method="baseline")
    spent = runtime.seconds(runs)
    level = histories()[["experiment", "profile", "seed", "generation"]].assign(
        method="baseline", best_fitness=1.0
    )
    shares = runtime.frequencies(runtime.filtered(level))
    assert shares.empty
    for figure in (plots_runtime.seconds_by_phase(spent), plots_runtime.filter_frequencies(shares)):
        assert "nothing to show" in figure.get_suptitle()
    assert runtime.ratios(spent).empty


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A results folder with small searches of Diabetes, and those with one filter switched."""
    folder = tmp_path_factory.mktemp("results")
    options = {"seeds": [1], "results_dir": folder, "progress": False}  # whose search meets the archive
    load_or_run("diabetes", "smoke", methods=["gp-lfl", "evomal"], **options)
    return folder, runtime.on_and_off("diabetes", "smoke", **options)


def test_a_switched_filter_changes_what_it_says_and_skipping_changes_no_result(smoke):
    _, measured = smoke
    assert list(measured["variant"]) == list(runtime.VARIANTS)
    found = runtime.compared(measured).set_index("variant")
    base = found.loc["as the profile has them"]
    assert (base["ratio"], base["same"]) == (1.0, 1)
    assert found.loc["without the symbolic archive", "optimised"] > base["optimised"]
    assert found.loc["without the rejection protocol", "trained"] > base["trained"]
    assert found.loc["with early rejection", "optimised"] < base["optimised"]
    skipping = found.loc["skipping irrelevant weights"]
    assert skipping["same"] == 1
    assert skipping["optimised"] <= base["optimised"]
    assert (measured[["cpu", "seconds"]] > 0).all(axis=None)


def test_real_records_become_tables_figures_and_words(smoke):
    folder, _ = smoke
    runs = [run for run in complete_runs(folder) if run.profile == "smoke"]
    found = load(runs)
    machines = runtime.machines(runs)
    assert machines["runs"].sum() == len(runs) == 2
    spent = runtime.seconds(found.runs)
    shares = runtime.frequencies(found.histories)
    # Rejected, equivalent, trained and diverged while tuned are all that new candidates can become.
    table = runtime.outcomes(found.histories)
    assert (table["population"] == 4).all()
    assert (table["cached"] + table["optimised"] == 4).all()
    figures = (
        plots_runtime.seconds_by_phase(spent),
        plots_runtime.filter_frequencies(shares),
    )
    assert [len(figure.axes) for figure in figures] == [1, 5]
