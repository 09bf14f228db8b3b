"""The explorer's curves are the loss's, and every widget redraws; no browser is needed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import evomal_core as em
from evomal_core.losses import TaskLoss
from evomal_core.parametric import NeuralLoss, TaylorLoss
from evomal_paper.analysis.examples import EXAMPLES
from evomal_paper.plots import explorer as module
from evomal_paper.plots.explorer import curves_of, envelope_of, picture, weights_of


@pytest.fixture
def losses():
    return {
        "line": em.LearnedLoss("mul(f, y)", phi=[3.0, -2.0]),
        "e": EXAMPLES["e"].loss(),
        "taylor": TaylorLoss(theta=[0.1 * number for number in range(8)]),
        "ml3": NeuralLoss(),
    }


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
        curves_of(loss, 1.0, [weight + 1 for weight in before])
        assert weights_of(loss) == before
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


def test_the_explorer_draws_the_loss_that_is_chosen_and_the_weights_that_are_set(losses, monkeypatch):
    pytest.importorskip("ipywidgets")
    drawn, draw = [], module.picture
    monkeypatch.setattr(module, "picture", lambda *given: drawn.append(given) or draw(*given))
    menu, panel = module.explore(losses).children
    assert menu.options[: len(losses)] == tuple(losses)
    y, first, _, image = panel.children
    assert drawn[-1][1:] == (1, [3.0, -2.0], "line")
    before = bytes(image.value)
    assert before.startswith(b"\x89PNG")
    first.value = 4.5
    assert drawn[-1][1:] == (1, [4.5, -2.0], "line")
    y.value = -2
    assert drawn[-1][1:] == (-2, [4.5, -2.0], "line")
    assert bytes(image.value) != before
    menu.value = "ml3"
    assert len(panel.children) == 2
    assert drawn[-1][1:] == (1, None, "ml3")


def test_no_widget_of_the_explorer_needs_an_answer_of_the_front_end(losses):
    """nbclient answers an output widget, and may then miss the kernel's next message: a batch run would hang."""
    widgets = pytest.importorskip("ipywidgets")
    found = [module.explore(losses)]
    for widget in found:
        assert not isinstance(widget, widgets.Output)
        found += getattr(widget, "children", ())
    assert len(found) > 5


def test_an_explorer_of_nothing_is_refused():
    pytest.importorskip("ipywidgets")
    with pytest.raises(ValueError, match="no losses"):
        module.explore({})
