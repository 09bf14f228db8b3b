"""Table III under both splits: names of profiles, the joint table, and which published orders are kept."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from evomal_paper import plots
from evomal_paper.comparison import tables
from evomal_paper.experiments import tabular
from evomal_paper.published import tables as paper

METHODS = ("baseline", "gp-lfl", "ml3", "taylorglo", "evomal")


def final(errors, experiment="diabetes", seeds=3):
    """Test errors by profile and method: `seeds` values around each mean, 0.01 apart."""
    rows = []
    for profile, means in errors.items():
        for method, mean in means.items():
            for seed in range(seeds):
                place = {"experiment": experiment, "profile": profile, "method": method, "seed": seed}
                parts = {"train": 0.0, "validation": 9.0, "test": mean + 0.01 * seed}
                rows += [
                    {**place, "group": "in-sample", "split": part, "error": error} for part, error in parts.items()
                ]
    return pd.DataFrame(rows)


LEAKING = dict(zip(METHODS, (0.38, 0.37, 0.43, 0.36, 0.35), strict=True))
DISJOINT = dict(zip(METHODS, (0.70, 0.74, 0.90, 0.80, 0.75), strict=True))
BOTH = {"quick": DISJOINT, "quick@split=leaking": LEAKING}


@pytest.mark.parametrize(
    ("profile", "split", "name"),
    [
        ("quick", "disjoint", "quick"),
        ("quick", "leaking", "quick@split=leaking"),
        ("text@base.lr=0.003", "leaking", "text@base.lr=0.003,split=leaking"),
        ("text@base.lr=0.003", "disjoint", "text@base.lr=0.003"),
        ("paper", "leaking", "paper"),
        ("paper", "disjoint", "paper@split=disjoint"),
        ("calibrated@base.lr=0.003", "disjoint", "calibrated@base.lr=0.003,split=disjoint"),
    ],
)
def test_a_split_is_part_of_the_profiles_name(profile, split, name):
    assert tabular.with_split(profile, split) == name
    assert tabular.split_of(name) == split


def test_a_profile_that_has_a_split_takes_no_other():
    with pytest.raises(ValueError, match="'quick@split=leaking' has a split of its own; name it in splits"):
        tabular.with_split("quick@split=leaking", "disjoint")


def test_the_table_has_a_column_for_each_split_and_judges_the_leaking_one_only():
    table = tables.table_iii(final(BOTH))
    assert list(table) == ["published", "leaking", "leaking beside published", "disjoint"]
    row = table.loc["diabetes", "evomal"]
    assert row["published"] == "0.3573 ± 0.0198 (5)"
    assert row["leaking"] == "0.3600 ± 0.0100 (3)"
    assert row["disjoint"] == "0.7600 ± 0.0100 (3)"
    assert row["leaking beside published"] == "reproduced"
    assert [method for _, method in table.index] == list(METHODS)
    assert list(tables.table_iii(final({"quick": DISJOINT}))) == ["published", "disjoint"]


def test_new_starts_stand_beside_the_leaking_cell_and_alone_on_disjoint_rows():
    errors = final({"paper": LEAKING, "paper@split=disjoint": DISJOINT})
    errors["error from new starts"] = errors["error"] + 0.1
    row = tables.table_iii(errors).loc["diabetes", "evomal"]
    assert row["leaking"] == "0.3600 ± 0.0100 (3)"
    assert row["leaking, new starts"] == "0.4600 ± 0.0100 (3)"
    assert row["disjoint, new starts"] == "0.8600 ± 0.0100 (3)"
    assert "disjoint" not in row


def test_a_diverged_run_is_counted_in_its_cell():
    errors = final(BOTH)
    errors.loc[(errors["method"] == "ml3") & (errors["seed"] == 1), "error"] = np.inf
    assert tables.table_iii(errors).loc["diabetes", "ml3"]["disjoint"] == "0.9100 ± 0.0141 (3, 1 diverged)"


def test_orders_are_kept_or_lost_by_the_means():
    found = tables.orders(final(BOTH)).set_index(["split", "other"])
    assert set(found["best"]) == {"evomal"}
    assert found.loc["leaking", "verdict"].tolist() == ["kept"] * 4
    assert found.loc["disjoint", "verdict"].to_dict() == {
        "baseline": "lost",
        "gp-lfl": "lost",
        "ml3": "kept",
        "taylorglo": "kept",
    }
    assert found.loc[("disjoint", "ml3"), ["n", "wins"]].tolist() == [3, 3]
    # 0.3573 ± 0.0198 against 0.3829 ± 0.0065 and 0.3746 ± 0.0577, five executions each
    assert not found.loc[("leaking", "baseline"), "by_chance"]
    assert found.loc[("leaking", "gp-lfl"), "by_chance"]


def test_on_boston_the_baseline_is_published_as_the_best():
    assert set(tables.orders(final(BOTH, "boston"))["best"]) == {"baseline"}
    assert set(tables.orders(final(BOTH, "california"))["best"]) == {"evomal"}


def test_a_diverged_method_is_never_below_and_one_seed_decides_nothing():
    errors = final(BOTH)
    errors.loc[(errors["method"] == "evomal") & (errors["seed"] == 0), "error"] = np.inf
    assert set(tables.orders(errors)["verdict"]) == {"lost"}
    errors.loc[errors["method"] == "ml3", "error"] = np.inf
    assert tables.orders(errors).query("other == 'ml3'")["verdict"].tolist() == ["lost", "lost"]
    assert set(tables.orders(final(BOTH, seeds=1))["verdict"]) == {"undecided"}


def test_the_figure_has_a_panel_for_each_split_and_published_cells_beside_the_leaking_one_only():
    theirs = paper.published("III").query("experiment == 'diabetes'")
    figure = plots.errors_by_split(final(BOTH), theirs)
    left, right = figure.axes
    assert left.get_title("left") == "leaking split: quick@split=leaking"
    assert right.get_title("left") == "disjoint split: quick"
    assert len(left.containers[0].lines[0].get_xdata()) == 5
    assert not right.containers
    assert len(plots.errors_by_split(final({"quick": DISJOINT}), theirs).axes) == 1


@pytest.mark.parametrize("profiles", [{"quick@split=leaking": LEAKING}, BOTH])
def test_the_headline_fits_a_figure_of_one_panel_too(profiles):
    theirs = paper.published("III").query("experiment == 'diabetes'")
    figure = plots.errors_by_split(final(profiles), theirs)
    figure.canvas.draw()
    assert figure._suptitle.get_window_extent().x1 <= figure.bbox.x1
