"""The tabular experiments: the two splits, and the learning rate that trains."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from evomal_paper import base_settings
from evomal_paper.datasets.catalogue import DATASETS
from evomal_paper.experiments import tabular
from evomal_paper.experiments.catalogue import EXPERIMENTS, experiment, profile_table
from evomal_paper.experiments.tabular import split_rows
from evomal_paper.runs.run import Run


def rows(part):
    """Each row of a part of a task, features and label, as bytes."""
    return [np.append(x, y).tobytes() for x, y in zip(part[0].numpy(), part[1].numpy(), strict=True)]


def problem(profile, seed=0):
    entry = experiment("diabetes")
    return entry.problem(entry.profile(profile), seed)


def test_disjoint_parts_share_no_row_and_use_all():
    (task,) = problem("quick").train
    train, validation, test = (rows(part) for part in (task.train, task.validation, task.test))
    assert (len(train), len(validation), len(test)) == (265, 88, 89)
    assert len({*train, *validation, *test}) == 442  # no row of Diabetes occurs twice


def test_leaking_test_rows_are_the_training_and_validation_rows_and_the_rest_is_unused():
    (task,) = problem("quick@split=leaking").train
    train, validation, test = (rows(part) for part in (task.train, task.validation, task.test))
    assert (len(train), len(validation), len(test)) == (88, 89, 177)  # 20, 20 and 40 % of 442
    assert not set(train) & set(validation)
    assert sorted(test) == sorted([*train, *validation])


@pytest.mark.parametrize("split", ["disjoint", "leaking"])
def test_features_and_labels_are_standardised_on_the_training_rows(split):
    task = tabular.tabular_task("diabetes", split)
    for values in task.train:
        torch.testing.assert_close(values.mean(dim=0), torch.zeros(values.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(values.std(dim=0, correction=0), torch.ones(values.shape[1]))


def test_the_split_is_the_same_at_every_seed():
    for profile in ("quick", "quick@split=leaking"):
        (one,), (other,) = problem(profile, 0).train, problem(profile, 7).train
        assert rows(one.test) == rows(other.test)


@pytest.mark.parametrize("split", ["disjoint", "leaking"])
def test_a_draw_puts_other_rows_into_the_parts(split):
    def labels(task):
        return np.rint(np.asarray(task.y_scale.undo(task.test[1]))).ravel().tolist()

    known = sorted(DATASETS["diabetes"].load()[1].tolist())
    first, second, again = (labels(tabular.tabular_task("diabetes", split, "draw", n)) for n in (0, 1, 1))
    assert second == again
    assert not set(second) - set(known)
    assert len(first) == len(second)
    assert sorted(first) != sorted(second)
    (task,) = problem(f"quick@rows=draw,draw=1,split={split}").train
    assert labels(task) == second


def test_rows_are_those_of_two_shuffles_by_numpys_old_generator():
    """scikit-learn's split at random_state=0: a permutation, its first ⌈n·share⌉ rows to the test side."""
    order = np.random.RandomState(0).permutation(442)
    others, most = order[:177], order[177:]
    halves = np.random.RandomState(0).permutation(177)
    second, first = others[halves[:89]], others[halves[89:]]
    found = dict(zip(("leaking", "disjoint"), (split_rows(442, s) for s in ("leaking", "disjoint")), strict=True))
    for ours, wanted in zip(found["leaking"], (first, second, others), strict=True):
        assert ours.tolist() == wanted.tolist()
    for ours, wanted in zip(found["disjoint"], (most, first, second), strict=True):
        assert ours.tolist() == wanted.tolist()


def test_a_draw_without_random_rows_is_refused():
    with pytest.raises(ValueError, match="draw=1 numbers random orders of the rows; write rows='draw'"):
        experiment("diabetes").profile("quick@draw=1")


def test_the_two_splits_are_two_runs_in_two_folders(tmp_path):
    kept, leaking = (
        Run("diabetes", profile, "baseline", 0, tmp_path) for profile in ("quick", "quick@split=leaking")
    )
    assert kept.pack != leaking.pack
    assert kept.configuration()["split"] == "disjoint"
    assert leaking.configuration()["split"] == "leaking"
    changed = profile_table("diabetes", "quick").set_index("setting")
    assert changed.loc["split"].tolist() == ["leaking", "disjoint"]
    assert "split" not in profile_table("diabetes", "quick@split=leaking")["setting"].tolist()


def test_narrow_is_the_published_protocol_but_for_the_width():
    for name, whole in {"diabetes": "paper", "boston": "paper", "california": "calibrated"}.items():
        profiles = EXPERIMENTS[name].profiles
        assert profiles["narrow"] == profiles[whole].replace(hidden=(100, 100), split="disjoint")
        assert profiles[whole].hidden == (1000, 1000)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="'disjoint' or 'leaking'"):
        experiment("diabetes").profile("quick@split=leeking")


def test_only_california_leaves_the_stated_rate_and_not_in_paper():
    for name in ("diabetes", "boston"):
        assert {p.search.base.lr for p in EXPERIMENTS[name].profiles.values()} == {0.01}
        assert "calibrated" not in EXPERIMENTS[name].profiles
    rates = {key: profile.search.base.lr for key, profile in EXPERIMENTS["california"].profiles.items()}
    found = rates["calibrated"]
    assert rates == {
        "smoke": 0.01,
        "quick": found,
        "narrow": found,
        "paper": 0.01,
        "text": 0.01,
        "calibrated": found,
    }
    assert found in base_settings.BASE_RATES
    changed = profile_table("california", "calibrated")
    assert changed.to_dict("records") == [
        {"setting": "search.base.lr", "paper": "0.01", "calibrated": f"{found:g}"}
    ]


def test_the_nearest_rate_is_the_largest_that_trains_at_every_seed(capsys):
    errors = {(0.01, 0): np.inf, (0.003, 0): 0.5, (0.003, 1): 1.5, (0.002, 0): 0.5, (0.002, 1): 0.6}
    found = pd.DataFrame([{"rate": rate, "seed": seed, "error": e} for (rate, seed), e in errors.items()])
    assert base_settings.largest_rate("boston", found) == 0.002
    with pytest.raises(ValueError, match=r"none of the rates 0\.01, 0\.003 trains boston"):
        base_settings.largest_rate("boston", found[found["rate"] > 0.002])
    small = experiment("diabetes").profile("smoke").replace(test_steps=200)
    measured = base_settings.measure_base_rates("diabetes", small, (1000.0, 0.01, 0.001))
    assert measured["rate"].tolist() == [1000.0] + [0.01] * 5  # the first failed at its first seed
    assert base_settings.largest_rate("diabetes", measured) == 0.01
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("diabetes: rate 1000, seed 0: training error")
