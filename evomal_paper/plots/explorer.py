"""An interactive explorer of losses for Jupyter: choose one, move the label and each weight, and see it change.

The logic is `curves_of`, a function from (loss, y, phi) to numbers, and `picture`, from those to a figure, which
also serves where no one can move a slider. ipywidgets is imported only when the widgets are built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pandas as pd
import torch

from evomal_core.losses import LearnedLoss, Loss, TaskLoss
from evomal_paper.analysis.curves import value_and_slope
from evomal_paper.plots.style import Picture, arsinh_scale, headline, loss_line, new_figure, styled

MOST_SLIDERS = 200
"""The weights of a loss with more than this are left as they are."""


def weights_of(loss: Loss) -> list[float]:
    """All weights of a loss, in one list."""
    return [float(value) for part in loss.parameters() for value in part.detach().flatten()]


def with_weights(loss: Loss, phi: Sequence[float]) -> Loss:
    """A copy of a loss with other weights.

    Raises:
        ValueError: the number of weights is another than the loss's.
    """
    changed = deepcopy(loss)
    if len(phi) != changed.size:
        raise ValueError(f"the loss has {changed.size} weights, got {len(phi)}")
    if len(phi):
        torch.nn.utils.vector_to_parameters(torch.tensor(phi, dtype=torch.float32), changed.parameters())
    return changed


def curves_of(loss: Loss, y: float, phi: Sequence[float] | None = None) -> pd.DataFrame:
    """A loss of one output over its predictions: columns f, value and gradient, 301 rows.

    Args:
        loss: any loss; f is a probability of a classification, and within y ± 3 of a regression.
        y: the label.
        phi: its weights; those that it has if not given.

    Raises:
        ValueError: the number of weights is another than the loss's.
    """
    shown = loss if phi is None else with_weights(loss, phi)
    f = y + np.linspace(-3, 3, 301) if loss.kind == "regression" else np.linspace(0.005, 0.995, 301)
    value, gradient = value_and_slope(shown, f, y)
    return pd.DataFrame({"f": f, "value": value, "gradient": gradient})


def envelope_of(loss: Loss, y: float, share: float = 0.2) -> pd.DataFrame:
    """How far the curves of a loss go when any one weight is moved by a share of itself, up or down.

    Returns:
        The columns of `curves_of`, and lowest and highest value and gradient over the moved weights; the
        curves themselves for a loss with more than MOST_SLIDERS weights.
    """
    phi, table = weights_of(loss), curves_of(loss, y)
    curves = [table]
    for number in range(len(phi) if len(phi) <= MOST_SLIDERS else 0):
        for factor in (1 - share, 1 + share):
            curves.append(curves_of(loss, y, [w * factor if i == number else w for i, w in enumerate(phi)]))
    for column in ("value", "gradient"):
        stacked = np.array([curve[column] for curve in curves])
        table = table.assign(**{f"lowest {column}": stacked.min(axis=0), f"highest {column}": stacked.max(axis=0)})
    return table


@styled
def picture(loss: Loss, y: float, phi: Sequence[float] | None = None, title: str = "") -> Picture:
    """Value and gradient of a loss at a label, with the weights that it has (thin) and with others (thick).

    Args:
        loss: any loss.
        y: the label.
        phi: the other weights; if not given, a band shows what ±20 % of any one weight does.
        title: what the loss is called.
    """
    figure, panels = new_figure(7.2, 2.9, 1, 2)
    regression = loss.kind == "regression"
    learned = envelope_of(loss, y) if phi is None else curves_of(loss, y)
    set_to = None if phi is None else curves_of(loss, y, phi)
    x = learned["f"] - y if regression else learned["f"]
    for axes, column, label in zip(
        panels.flat, ("value", "gradient"), ("loss M(y, f)", "gradient ∂M/∂f"), strict=True
    ):
        axes.plot(x, learned[column], label="as learned", **loss_line("", 0))
        if set_to is None:
            band = learned[f"lowest {column}"], learned[f"highest {column}"]
            axes.fill_between(x, *band, color="0.8", linewidth=0, label="one weight ± 20 %")
        else:
            axes.plot(x, set_to[column], label="as set", **loss_line("evomal", 1))
        axes.set(xlabel="error f − y" if regression else "probability f", ylabel=label)
    arsinh_scale(panels[0, 1])
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside right upper")
    headline(figure, title or type(loss).__name__, f"label y = {y:g}".replace("-", "−"))
    return figure


class Explorer:
    """Widgets to explore losses with: a menu, a slider for the label and one for each weight, and the picture.

    Shown at the end of a cell in Jupyter. Where no one can move a slider, as in a batch run, `picture` gives
    the same figure.

    Args:
        losses: losses by the names that the menu shows; the task losses of their kinds are added.

    Attributes:
        menu: the widget that chooses a loss.
        label: the slider of y; 0 or 1 for a classification.
        sliders: a slider for each weight; none if there are more than MOST_SLIDERS, as in ML³'s losses.
        image: the widget that shows the picture.
        widget: all of them.

    Raises:
        ValueError: there are no losses.
        ModuleNotFoundError: ipywidgets is not installed; the extra `notebooks` of evomal brings it.
    """

    def __init__(self, losses: Mapping[str, Loss]) -> None:
        import ipywidgets as widgets

        if not losses:
            raise ValueError("there are no losses to explore")
        kinds = dict.fromkeys(loss.kind for loss in losses.values())
        self.losses = dict(losses) | {f"task loss, {kind}": TaskLoss(kind) for kind in kinds}
        self.menu = widgets.Dropdown(options=list(self.losses), description="loss")
        self.label = widgets.FloatSlider(value=1, min=-3, max=3, step=0.25, description="label y")
        self.reset = widgets.Button(description="weights as learned")
        self.formula = widgets.HTMLMath()
        self.image = widgets.Image(format="png", width=720)
        self.sliders: list[Any] = []
        self._rows = widgets.VBox(layout=widgets.Layout(max_height="320px", overflow="auto", display="block"))
        controls = widgets.HBox([self.menu, self.label, self.reset])
        self.widget = widgets.VBox([controls, self.formula, self.image, self._rows])
        self.menu.observe(self._choose, "value")
        self.label.observe(self._draw, "value")
        self.reset.on_click(self._choose)
        self._choose()

    @property
    def loss(self) -> Loss:
        """The loss that is chosen, with the weights that it came with."""
        return self.losses[self.menu.value]

    @property
    def phi(self) -> list[float] | None:
        """The weights that are set, or None where there are none to move."""
        return [slider.value for slider in self.sliders] if self.sliders else None

    def picture(self) -> Picture:
        """The picture of what is set."""
        return picture(self.loss, self.label.value, self.phi, self.menu.value)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        text = "An explorer of losses, which needs a running kernel."
        return {**self.widget._repr_mimebundle_(**kwargs), "text/plain": text}

    def _choose(self, _: Any = None) -> None:
        """Set the sliders up for the loss that the menu shows, at the weights that it came with."""
        from ipywidgets import FloatSlider, Layout

        regression = self.loss.kind == "regression"
        self.label.unobserve(self._draw, "value")
        self.label.min, self.label.max = (-3, 3) if regression else (0, 1)
        self.label.step = 0.25 if regression else 1
        self.label.value = self.label.value if regression else round(self.label.value)
        self.label.observe(self._draw, "value")
        self.sliders = []
        for name, weight in zip(_weight_names(self.loss), weights_of(self.loss), strict=False):
            reach = 2 * max(1.0, abs(weight))
            look = {"description": name, "readout_format": ".3f", "layout": Layout(width="98%")}
            self.sliders.append(
                FloatSlider(value=weight, min=weight - reach, max=weight + reach, step=reach / 200, **look)
            )
            self.sliders[-1].observe(self._draw, "value")
        self._rows.children = self.sliders
        self.formula.value = f"$M(y, f) = {self.loss.latex()}$"
        self._draw()

    def _draw(self, _: Any = None) -> None:
        self.image.value = self.picture()._repr_png_()[0]


def _weight_names(loss: Loss) -> list[str]:
    """A name for each weight that gets a slider: the node whose output it multiplies, or its number."""
    if isinstance(loss, LearnedLoss):
        return [f"{number}: {node}" for number, node in enumerate(loss.expression.nodes[1:])]
    return [f"{number}" for number in range(loss.size)] if loss.size <= MOST_SLIDERS else []
