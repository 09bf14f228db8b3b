"""Figures of the analyses show what their tables hold."""

import numpy as np
import pandas as pd
import pytest
import torch

import evomal_core as em
from evomal_paper import plots
from evomal_paper.plots import demonstrations
from evomal_paper.plots import landscapes as pa

KINDS = {"sine": "regression"}


def drawn_lines(figure, axes):
    """The heights of the lines of data by their names in the legend."""
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    drawn = [line.get_ydata() for line in axes.get_lines() if len(line.get_xdata())]
    return dict(zip(names, drawn, strict=False))


@pytest.fixture
def lines():
    x = np.linspace(-1, 1, 11)
    parts = []
    for method, sharp in (("baseline", 1.0), ("evomal", 4.0), ("ml3", 100.0)):
        for seed in range(3):
            part = pd.DataFrame({"x": x, "height": 1 + seed + sharp * x**2})
            parts.append(part.assign(method=method, seed=seed, diverged=(method, seed) == ("ml3", 0)))
    return pd.concat(parts).assign(experiment="sine", profile="quick", measure="task", task=0)


def test_lines_are_means_over_seeds_and_the_axis_ends_with_baseline_and_evomal(lines):
    figure = pa.landscape_lines(lines, KINDS)
    (axes,) = figure.axes
    drawn = drawn_lines(figure, axes)
    assert list(drawn) == ["Baseline", "ML³", "EvoMAL"]
    assert drawn["EvoMAL"][[0, 5]] == pytest.approx([6, 2])
    assert drawn["ML³"][5] == pytest.approx(2.5)
    assert [text.get_text() for text in axes.texts] == ["ML³: 1 diverged"]
    assert axes.get_ylim() == pytest.approx((0, 1.15 * 6))
    assert axes.get_ylabel() == "training MSE"


def test_surfaces_share_their_levels_and_name_the_trained_network_s_height():
    axis = np.linspace(-1, 1, 5)
    x, y = (grid.ravel() for grid in np.meshgrid(axis, axis))
    parts = [
        pd.DataFrame({"x": x, "y": y, "height": 0.5 + sharp * (x**2 + y**2)}).assign(method=method)
        for method, sharp in (("baseline", 1.0), ("evomal", 3.0))
    ]
    run = {"experiment": "sine", "profile": "quick", "measure": "task", "task": 0, "seed": 0, "diverged": False}
    table = pd.concat(parts).assign(**run)
    figure = pa.landscape_surfaces(table, KINDS)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Sine regression: Baseline, height 0.5",
        "Sine regression: EvoMAL, height 0.5",
    ]
    diverged = table.assign(diverged=table["method"] == "evomal")
    assert "diverged" in [text.get_text() for text in pa.landscape_surfaces(diverged, KINDS).axes[1].texts]


def test_errors_by_rate_show_medians_and_count_divergence():
    rows = [
        {"method": method, "rate": rate, "seed": seed, "group": "in-sample", "split": "test"}
        | {"experiment": "sine", "error": np.inf if (rate, seed) == (0.1, 0) else base * (1 + seed)}
        for method, base in (("baseline", 2.0), ("evomal", 1.0))
        for rate in (0.01, 0.1)
        for seed in range(3)
    ]
    figure = plots.error_by_rate(pd.DataFrame(rows), stated=0.01)
    (axes,) = figure.axes
    medians = drawn_lines(figure, axes)
    assert medians["Baseline"] == pytest.approx([4, 5])
    assert medians["EvoMAL"] == pytest.approx([2, 2.5])
    assert [text.get_text() for text in axes.texts] == ["1/3", "1/3"]
    assert axes.get_xscale() == "log"


def test_transfer_errors_have_a_panel_for_each_target():
    rows = [
        {"source": "sine", "target": target, "profile": "quick", "group": "in-sample", "split": "test"}
        | {"method": method, "seed": seed, "error": 1.0 + seed}
        for target in ("diabetes", "boston")
        for method in ("baseline", "evomal")
        for seed in range(2)
    ]
    figure = plots.transfer_errors(pd.DataFrame(rows), {"diabetes": "MSE", "boston": "MSE"})
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert sorted(titles) == ["sine → boston\nin-sample", "sine → diabetes\nin-sample"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["Baseline", "EvoMAL"]


def test_losses_are_ranked_by_their_means_and_those_beyond_the_axis_are_written():
    errors = {"learned": [0.3, 0.5], "focal": [0.2, 0.3], "cross-entropy": [2.0, 3.0], "lost": [0.1, np.inf]}
    rows = [{"loss": n, "data seed": s, "test": e} for n, each in errors.items() for s, e in enumerate(each)]
    (axes,) = demonstrations.ranked(pd.DataFrame(rows), "error rate", limit=2).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["focal", "learned", "cross-entropy"]
    drawn = sorted(float(x) for line in axes.get_lines() for x in line.get_xdata() if np.isfinite(x))
    assert drawn == pytest.approx([0.25, 0.4])
    assert [text.get_text() for text in axes.texts] == ["2.5 →"]
    (whole,) = demonstrations.ranked(pd.DataFrame(rows), "error rate").axes
    assert [text.get_text() for text in whole.texts] == ["inf →"]


def test_losses_by_label_are_drawn_above_their_least_value():
    losses = {name: em.known_losses("regression")[name] for name in ("squared error", "Cauchy")}
    left, right = demonstrations.by_label(losses, [-1.0, 0.5]).axes
    x, values = left.get_lines()[1].get_data()
    assert values == pytest.approx((x - 0.5) ** 2 - ((x - 0.5) ** 2).min(), abs=1e-6)
    assert [line.get_color() for line in right.get_lines()][-1] == demonstrations.LEARNED


def test_predictions_are_drawn_against_true_labels_with_their_error():
    true = torch.tensor([[0.0], [1.0], [2.0]])
    predictions = {"squared error": true.clamp(max=1.0), "learned loss": true}
    left, right = demonstrations.predicted(true, predictions, limit=1.0).axes
    assert [axes.get_title() for axes in (left, right)] == ["squared error: MSE 0.33", "learned loss: MSE 0"]
    assert left.collections[0].get_offsets().tolist() == [[0, 0], [1, 1], [2, 1]]
