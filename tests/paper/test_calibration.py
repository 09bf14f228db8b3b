"""Calibration: the nearest setting is chosen by the baseline's errors alone, and frozen."""

import shutil

import numpy as np
import pandas as pd
import pytest

from evomal_core.files import read_json, write_json
from evomal_paper import base_settings
from evomal_paper.base_settings import MEASURED, baseline_errors, scores
from evomal_paper.experiments import profiles
from evomal_paper.experiments.catalogue import EXPERIMENTS, experiment


def measured(errors: dict[tuple[float, float], list[float]], split: str = "train") -> pd.DataFrame:
    """One seed's errors by task for each (lr, momentum)."""
    return pd.DataFrame(
        [
            {"lr": lr, "momentum": momentum, "seed": 0, "task": task, "split": split, "error": error}
            for (lr, momentum), tasks in errors.items()
            for task, error in enumerate(tasks)
        ]
    )


def test_the_setting_and_the_task_that_match_both_cells_come_first():
    table = measured({(0.001, 0.0): [0.5, 0.4, 0.3], (0.01, 0.9): [0.1, 0.2, 0.06]})
    nearest = scores(table, in_sample=0.2, out_of_sample=0.08).iloc[0]
    assert (nearest["lr"], nearest["momentum"], nearest["learn_on"]) == (0.01, 0.9, 1)
    assert nearest["distance"] == pytest.approx(0, abs=1e-12)


def test_the_distance_is_of_logarithms_and_a_diverged_setting_comes_last():
    table = measured({(0.001, 0.0): [0.4, 0.1], (0.1, 0.0): [np.inf, np.inf]})
    ranked = scores(table, in_sample=0.2, out_of_sample=0.2)
    assert ranked["distance"].iloc[0] == pytest.approx(2 * np.log(2))
    assert np.isinf(ranked["distance"].iloc[-1])


def test_a_calibrated_profile_is_the_papers_but_for_what_was_found(tmp_path, monkeypatch):
    found = tmp_path / "calibrated.json"
    write_json(found, {"mnist": {"lr": 0.005, "momentum": 0.9, "learn_on": 2}})
    monkeypatch.setattr(profiles, "CALIBRATED", found)
    paper = experiment("sine").profile("paper")
    changed = profiles.calibrated("mnist", paper)["calibrated"]
    assert (changed.search.base.lr, changed.search.base.momentum, changed.learn_on) == (0.005, 0.9, 2)
    base = paper.search.base
    assert changed.replace(learn_on=0, search=changed.search.replace(base=base)) == paper
    assert profiles.calibrated("sine", paper) == {}


def test_only_the_part_that_the_table_is_compared_with_counts():
    match = measured({(0.01, 0.9): [0.2, 0.08]}, split="test")
    trained = measured({(0.001, 0.0): [0.3, 0.1], (0.01, 0.9): [0.5, 0.5]})
    ranked = scores(pd.concat([match, trained]), in_sample=0.2, out_of_sample=0.08)
    assert ranked["lr"].tolist() == [0.001, 0.001, 0.01, 0.01]
    assert ranked["distance"].iloc[0] == pytest.approx(np.log(0.3 / 0.2) + np.log(0.1 / 0.08))


@pytest.mark.parametrize("name", sorted(read_json(profiles.CALIBRATED)))
def test_what_is_frozen_is_what_the_committed_measurements_say(name, tmp_path, monkeypatch):
    frozen = read_json(profiles.CALIBRATED)
    shutil.copytree(MEASURED / name, tmp_path / name)
    monkeypatch.setattr(base_settings, "CALIBRATED", tmp_path / "calibrated.json")
    monkeypatch.setattr(base_settings, "_at_setting", lambda *setting: pytest.fail(f"{setting} is not measured"))
    assert base_settings.calibrate(name, tmp_path) == frozen[name]
    assert (tmp_path / f"{name}.csv").read_text() == (MEASURED / f"{name}.csv").read_text()
    found = EXPERIMENTS[name].profile("calibrated")
    chosen = {"lr": found.search.base.lr, "momentum": found.search.base.momentum, "learn_on": found.learn_on}
    assert chosen == {key: frozen[name][key] for key in chosen}


def test_all_seeds_are_spent_on_the_settings_nearest_with_the_first(tmp_path, monkeypatch):
    asked = []

    def baseline(name, lr, momentum, seed):
        asked.append((lr, momentum, seed))
        near = 0.06 if (lr, momentum, seed) == (0.02, 0.0, 0) else lr + momentum  # misleads with the first seed
        rows = [{"task": task, "split": "train", "error": near} for task in range(2)]
        return pd.DataFrame(rows).assign(lr=lr, momentum=momentum, seed=seed)

    monkeypatch.setattr(base_settings, "CALIBRATED", tmp_path / "calibrated.json")
    monkeypatch.setattr(base_settings, "_at_setting", baseline)
    nearest = base_settings.calibrate("cifar10", tmp_path)  # published: 0.0654 and 0.1
    assert asked[:10] == [(*setting, 0) for setting in base_settings.GRID]
    finalists = [(0.02, 0.0), (0.01, 0.0), (0.005, 0.0)]
    assert asked[10:] == [(*setting, seed) for setting in finalists for seed in (1, 2)]
    assert (nearest["lr"], nearest["momentum"], nearest["seeds"]) == (0.02, 0.0, 3)
    table = pd.read_csv(tmp_path / "cifar10.csv")
    assert table["seeds"].tolist() == [3] * 6 + [1] * 14
    base_settings.calibrate("cifar10", tmp_path)
    assert len(asked) == 16


@pytest.mark.parametrize("command", ["calibration", "quick-rate", "base-rate"])
@pytest.mark.parametrize("names", [["california", "mnist", "nosuch"], [], ["--nosuch"]], ids=str)
def test_a_wrong_name_stops_a_command_before_it_measures(command, names, monkeypatch, capsys):
    monkeypatch.setattr(base_settings, "baseline_errors", lambda *_: pytest.fail("measured"))
    with pytest.raises(SystemExit) as stopped:
        base_settings.main([command, *names])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert f"usage: python -m evomal_paper.base_settings {command}" in said or names == ["--nosuch"]
    assert "nosuch" not in names or "choose from" in said


def test_a_command_keeps_the_errors_and_prints_the_rate(tmp_path, monkeypatch, capsys):
    def errors(name, profile, seed, purpose):
        error = 1.5 if profile.search.base.lr > 0.003 else 0.1
        return pd.DataFrame({"seed": [seed], "task": [0], "split": ["train"], "error": [error]})

    monkeypatch.setattr(base_settings, "MEASURED", tmp_path)
    monkeypatch.setattr(base_settings, "baseline_errors", errors)
    assert base_settings.main(["base-rate", "california"]) == base_settings.main(["quick-rate", "digits"]) == 0
    assert {"california 0.003", "digits 0.001"} <= set(capsys.readouterr().out.splitlines())
    assert len(pd.read_csv(tmp_path / "base-rate-california.csv")) == 2 + 5
    assert len(pd.read_csv(tmp_path / "quick-rate-digits.csv")) == 5 * 3


def test_what_is_measured_is_a_training_with_the_task_loss():
    profile = experiment("digits").profile("smoke")
    known = baseline_errors("digits", profile, 0, "test")
    every = baseline_errors("digits", profile, 0, "test", new=True)
    assert sorted(set(every["task"])) == [0, 1, 2, 3, 4]
    pd.testing.assert_frame_equal(every[every["task"] == 0], known)
    rows = known.set_index("split")["error"]
    assert set(rows.index) == {"train", "test"}
    task = experiment("digits").problem(profile, 0).train[0]
    wrong = rows["train"] * len(task.train[0])
    assert wrong == pytest.approx(round(wrong), abs=1e-4)


def test_a_quick_rate_is_the_one_nearest_to_the_published_error():
    errors = {0.001: 0.5, 0.003: 0.08, 0.01: 0.03, 0.03: np.inf}  # published for MNIST: 0.0414
    found = pd.DataFrame([{"rate": rate, "seed": 0, "error": error} for rate, error in errors.items()])
    assert base_settings.nearest_rate("mnist", found) == base_settings.nearest_rate("digits", found) == 0.01
    assert base_settings.nearest_rate("mnist", found.assign(error=0.0)) == 0.001


@pytest.mark.parametrize("path", sorted(MEASURED.glob("*-rate-*.csv")), ids=lambda path: path.stem)
def test_the_frozen_rates_are_what_the_committed_measurements_say(path):
    found = pd.read_csv(path)
    kind, _, name = path.stem.partition("-rate-")
    if kind == "quick":
        assert set(zip(found["rate"], found["seed"], strict=True)) == {
            (rate, seed) for rate in base_settings.QUICK_RATES for seed in base_settings.SEEDS
        }
        nearest, held = base_settings.nearest_rate(name, found), experiment(name).profile("quick").search.base.lr
        assert held < nearest if name == "cifar10" else held == nearest
    else:
        assert base_settings.largest_rate(name, found) == experiment(name).profile("calibrated").search.base.lr
