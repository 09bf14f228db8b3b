"""The grid of rates, choosing one without test data, and what is left of a gain."""

import numpy as np
import pandas as pd
import pytest

from evomal_paper.analysis import learning_rate as lr
from evomal_paper.runs.tables import load_or_run


@pytest.fixture
def final():
    """Errors by (method, rate): the test part contradicts the validation part, and one run diverged."""
    errors = {
        ("baseline", 0.1): ([4.0, 4.2, 4.4], [3.0, 3.3, 3.2]),
        ("baseline", 1.0): ([2.0, 2.1, 2.4], [9.0, 9.0, 9.0]),
        ("baseline", 10.0): ([np.inf, 3.0, 3.0], [0.0, 0.0, 0.0]),
        ("evomal", 0.1): ([1.0, 1.0, 1.0], [1.0, 1.1, 1.0]),
        ("evomal", 1.0): ([1.5, 1.5, 0.5], [8.0, 8.1, 8.2]),
        ("evomal", 10.0): ([np.inf, np.inf, np.inf], [np.inf, np.inf, np.inf]),
    }
    rows = [
        {"experiment": "sine", "method": method, "rate": rate, "seed": seed, "group": "in-sample"}
        | {"split": split, "error": value}
        for (method, rate), parts in errors.items()
        for split, values in zip(("validation", "test"), parts, strict=True)
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_rates_vary_the_profile_by_name_and_keep_its_own():
    assert lr.stated_rate("sine", "quick") == 1e-3
    assert lr.profile_at("sine", "quick", 0.01) == "quick@base.lr=0.01"
    assert lr.profile_at("sine", "quick@generations=3", 0.01) == "quick@generations=3,base.lr=0.01"
    assert lr.profile_at("sine", "quick", 1e-3) == "quick"
    assert lr.rates_of("sine", "quick") == [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1]
    assert lr.rates_of("sine", "quick", [0.5, 0.01]) == [1e-3, 0.01, 0.5]


def test_the_rate_is_chosen_by_validation_and_never_where_it_diverged(final):
    chosen = lr.tuned(final).set_index(["method", "seed"])["rate"]
    assert chosen["baseline"].tolist() == [1.0, 1.0, 1.0]
    assert chosen["evomal"].tolist() == [0.1, 0.1, 1.0]
    lost = lr.tuned(final[final["rate"] == 10]).set_index(["method", "seed"])["rate"]
    assert lost["evomal"].isna().all()
    other = final.assign(error=final["error"].mask(final["split"] == "test", 0.0))
    pd.testing.assert_frame_equal(lr.tuned(other), lr.tuned(final))


def test_without_a_validation_part_the_training_part_chooses(final):
    renamed = final.assign(split=final["split"].replace({"validation": "train"}))
    assert lr.tuning_split(final) == "validation"
    assert lr.tuning_split(renamed) == "train"
    pd.testing.assert_frame_equal(lr.tuned(renamed), lr.tuned(final))


def test_what_remains_of_the_gain_when_rates_are_tuned(final):
    gains = lr.remaining_gain(final, stated=0.1).query("split == 'test'").set_index("comparison")
    assert gains.loc["stated", "difference"] == pytest.approx(3.1 / 3 - 9.5 / 3)
    assert gains.loc["stated", "verdict"] == "lower"
    assert gains.loc["baseline tuned", "difference"] == pytest.approx(3.1 / 3 - 9)
    assert gains.loc["same rate", "difference"] == pytest.approx(8.1 - 9)
    assert gains.loc["both tuned", "difference"] == pytest.approx((1 + 1.1 + 8.2) / 3 - 9)
    assert gains.loc["same rate", "share"] == pytest.approx(-0.9 / (3.1 / 3 - 9.5 / 3))
    worse = final.assign(method=final["method"].map({"baseline": "evomal", "evomal": "baseline"}))
    assert lr.remaining_gain(worse, stated=0.1)["share"].isna().all()


def test_only_seeds_with_both_methods_at_every_rate_are_compared(final):
    absent = (final["method"] == "evomal") & (final["seed"] == 2) & (final["rate"] == 1.0)
    gains = lr.remaining_gain(final[~absent], stated=0.1)
    assert set(gains["n"]) == {2}
    assert set(gains.query("comparison == 'stated'")["diverged"]) == {0}
    pd.testing.assert_frame_equal(gains, lr.remaining_gain(final[final["seed"] < 2], stated=0.1))
    with pytest.raises(ValueError, match="no seed has all methods at every rate"):
        lr.remaining_gain(final[(final["method"] == "evomal") == (final["seed"] == 0)], stated=0.1)


def test_the_grid_is_made_of_runs_whose_search_used_the_rate(tmp_path):
    table = lr.grid("sine", "smoke", [0.01], seeds=1, results_dir=tmp_path, progress=False)
    assert sorted(path.name for path in (tmp_path / "sine").iterdir()) == ["smoke", "smoke@base.lr=0.01"]
    assert set(zip(table["rate"], table["profile"], strict=True)) == {
        (0.001, "smoke"),
        (0.01, "smoke@base.lr=0.01"),
    }
    assert set(table["method"]) == {"baseline", "evomal"}


def test_in_the_published_grid_the_rate_of_meta_testing_alone_changes(tmp_path):
    profile = "smoke@generations=1"
    options = {"seeds": [0], "results_dir": tmp_path, "progress": False}
    found = lr.published_grid("sine", profile, (0.001, 0.5), **options)
    results = load_or_run("sine", profile, methods=lr.METHODS, **options)
    keys = ["method", "group", "split"]
    own = results.final("search").astype({"method": str}).set_index(keys)["error"]
    at_own_rate = found[found["rate"] == 0.001].set_index(keys)["error"]
    pd.testing.assert_series_equal(at_own_rate.sort_index(), own.sort_index())
    other = found[found["rate"] == 0.5].set_index(keys)["error"]
    assert (other.sort_index() != at_own_rate.sort_index()).all()
    twice = pd.concat([found, found.assign(seed=1, error=found["error"] + 2), found.assign(seed=2, error=np.inf)])
    middle = lr.medians(twice).set_index([*keys, "rate"])["error"]
    assert (middle == found.set_index([*keys, "rate"])["error"] + 2)[np.isfinite(middle)].all()
