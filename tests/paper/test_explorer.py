"""The explorer's curves are the loss's, and every widget redraws; no browser is needed."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import evomal_core as em
from evomal_core.losses import NeuralLoss, TaskLoss, TaylorLoss
from evomal_paper.analysis.examples import EXAMPLES
from evomal_paper.plots.explorer import Explorer, curves_of, envelope_of, picture, weights_of, with_weights


@pytest.fixture
def losses():
    return {
        "line": em.LearnedLoss("mul(f, y)", phi=[3.0, -2.0]),
        "e": EXAMPLES["e"].loss(),
        "taylor": TaylorLoss(theta=[0.1 * number for number in range(8)]),
        "ml3": NeuralLoss(),
    }


@pytest.fixture
def explorer(losses):
    return Explorer(losses)


@given(st.floats(-3, 3), st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_curves_are_values_and_gradients_for_the_label_and_the_weights(y, phi):
    curve = curves_of(em.LearnedLoss("square(sub(f, y))"), y, phi)
    f = curve["f"].to_numpy()
    a, b, c = (float(torch.tensor(weight, dtype=torch.float32)) for weight in phi)
    assert np.ptp(f) == pytest.approx(6)
    assert f[150] == pytest.approx(y, abs=1e-12)
    inside = a * (b * f - c * y)
    np.testing.assert_allclose(curve["value"], inside**2, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(curve["gradient"], 2 * a * b * inside, rtol=1e-9, atol=1e-12)


def test_a_classification_is_shown_over_probabilities():
    curve = curves_of(TaskLoss("binary"), 0.0)
    assert 0 < curve["f"].min() < curve["f"].max() < 1
    np.testing.assert_allclose(curve["value"], -np.log(1 - curve["f"]), rtol=1e-12)


def test_other_weights_leave_the_loss_as_it_is(losses):
    for loss in losses.values():
        before = weights_of(loss)
        changed = with_weights(loss, [weight + 1 for weight in before])
        assert weights_of(loss) == before
        assert weights_of(changed) == pytest.approx([weight + 1 for weight in before])
    with pytest.raises(ValueError, match="has 2 weights, got 3"):
        curves_of(losses["line"], 1.0, [1, 2, 3])


def test_the_band_is_the_reach_of_single_weights(losses):
    band = envelope_of(losses["line"], y=2.0, share=0.5)
    value = 3 * band["f"] * -2 * 2
    np.testing.assert_allclose(band["value"], value, rtol=1e-6)
    np.testing.assert_allclose(band["highest value"], value + 0.5 * value.abs(), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(band["lowest gradient"], np.full(301, -18.0), rtol=1e-6)
    network = envelope_of(losses["ml3"], y=2.0)
    assert (network["lowest value"] == network["highest value"]).all()


def test_the_static_picture_shows_value_and_gradient(losses):
    for name, loss in losses.items():
        figure = picture(loss, 1.0, title=name)
        value, gradient = figure.axes
        curve = curves_of(loss, 1.0)
        np.testing.assert_array_equal(value.lines[0].get_ydata(), curve["value"])
        np.testing.assert_array_equal(gradient.lines[0].get_ydata(), curve["gradient"])
        assert figure.get_suptitle().startswith(name)


def test_the_sliders_begin_at_the_weights_of_the_loss(explorer):
    assert explorer.menu.value == "line"
    assert [slider.description for slider in explorer.sliders] == ["0: f", "1: y"]
    assert explorer.phi == weights_of(explorer.loss) == [3.0, -2.0]
    assert bytes(explorer.image.value).startswith(b"\x89PNG")


def test_moving_any_slider_redraws(explorer):
    for slider in (*explorer.sliders, explorer.label):
        before = explorer.image.value
        slider.value += 0.5
        assert explorer.image.value != before
    (_, as_set), _ = (axes.lines for axes in explorer.picture().axes)
    f = as_set.get_xdata() + 1.5
    np.testing.assert_allclose(as_set.get_ydata(), 3.5 * f * -1.5 * 1.5, rtol=1e-6, atol=1e-6)


def test_the_button_restores_the_weights(explorer):
    before = explorer.image.value
    explorer.sliders[0].value = -1
    explorer.reset.click()
    assert explorer.phi == [3.0, -2.0]
    assert explorer.image.value == before


def test_choosing_a_loss_brings_its_sliders_and_its_labels(explorer):
    line = explorer.image.value
    explorer.label.value = -2.5
    explorer.menu.value = "e"
    assert len(explorer.sliders) == 5
    assert (explorer.label.min, explorer.label.max, explorer.label.step) == (0, 1, 1)
    assert explorer.label.value in (0, 1)
    assert explorer.image.value != line
    assert r"\log" in explorer.formula.value
    explorer.menu.value = "taylor"
    assert len(explorer.sliders) == 8
    assert (explorer.label.min, explorer.label.max) == (-3, 3)
    explorer.menu.value = "ml3"
    assert explorer.sliders == []
    assert explorer.phi is None
    explorer.menu.value = "task loss, multiclass"
    assert isinstance(explorer.loss, TaskLoss)


def test_it_shows_as_a_widget_with_a_line_of_text(explorer):
    shown = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in shown
    assert "running kernel" in shown["text/plain"]


def test_without_losses_it_says_so():
    with pytest.raises(ValueError, match="no losses"):
        Explorer({})


def test_widgets_are_imported_only_when_they_are_built():
    code = "import sys, evomal_paper.plots.explorer; sys.exit('ipywidgets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
