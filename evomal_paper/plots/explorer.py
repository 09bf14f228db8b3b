"""An interactive explorer of losses for Jupyter: choose one, move the label and each weight, and see it change.

The logic is `curves_of`, a function from (loss, y, phi) to numbers, and `picture`, from those to a figure, which
also serves where no one can move a slider. ipywidgets is imported only when the widgets are shown.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pandas as pd
import torch

from evomal_core.losses import LearnedLoss, Loss, TaskLoss
from evomal_paper.analysis.curves import value_and_slope
from evomal_paper.plots.style import Picture, arsinh_scale, headline, legend_outside, loss_line, new_figure, styled

MOST_SLIDERS = 200
"""The weights of a loss with more than this are left as they are."""


def weights_of(loss: Loss) -> list[float]:
    """All weights of a loss, in one list."""
    return [float(value) for part in loss.parameters() for value in part.detach().flatten()]


def curves_of(loss: Loss, y: float, phi: Sequence[float] | None = None) -> pd.DataFrame:
    """A loss of one output over its predictions: columns f, value and gradient, 301 rows.

    f is a probability of a classification, and within y ± 3 of a regression. The loss is left as it is; phi are
    other weights than its own.

    Raises:
        ValueError: the number of weights is another than the loss's.
    """
    shown = deepcopy(loss)
    if phi is not None and len(phi) != loss.size:
        raise ValueError(f"the loss has {loss.size} weights, got {len(phi)}")
    if phi:
        torch.nn.utils.vector_to_parameters(torch.tensor(phi, dtype=torch.float32), shown.parameters())
    f = y + np.linspace(-3, 3, 301) if loss.kind == "regression" else np.linspace(0.005, 0.995, 301)
    value, gradient = value_and_slope(shown, f, y)
    return pd.DataFrame({"f": f, "value": value, "gradient": gradient})


def envelope_of(loss: Loss, y: float, share: float = 0.2) -> pd.DataFrame:
    """Envelope of the curves of a loss when any one weight is moved by a share of itself, up or down.

    The columns of `curves_of`, and lowest and highest value and gradient over the moved weights; the curves
    themselves for a loss with more than MOST_SLIDERS weights.
    """
    phi, table = weights_of(loss), curves_of(loss, y)
    curves = [table]
    for number in range(len(phi) if len(phi) <= MOST_SLIDERS else 0):
        for factor in (1 - share, 1 + share):
            curves.append(curves_of(loss, y, [w * factor if i == number else w for i, w in enumerate(phi)]))
    stacked = pd.concat(curves).groupby(level=0)
    return table.join(stacked.min().add_prefix("lowest ")).join(stacked.max().add_prefix("highest "))


@styled
def picture(loss: Loss, y: float, phi: Sequence[float] | None = None, title: str = "") -> Picture:
    """Value and gradient of a loss at a label, with the weights that it has (thin) and with others (thick).

    Without other weights, phi, a band shows what ±20 % of any one weight does.
    """
    figure, panels = new_figure(7.2, 2.9, 1, 2)
    regression = loss.kind == "regression"
    learned = envelope_of(loss, y) if phi is None else curves_of(loss, y)
    set_to = None if phi is None else curves_of(loss, y, phi)
    x = learned["f"] - y if regression else learned["f"]
    labels = {"value": "loss M(y, f)", "gradient": "gradient ∂M/∂f"}
    for axes, (column, label) in zip(panels.flat, labels.items(), strict=True):
        axes.plot(x, learned[column], label="as learned", **loss_line("", 0))
        if set_to is None:
            band = learned[f"lowest {column}"], learned[f"highest {column}"]
            axes.fill_between(x, *band, color="0.8", linewidth=0, label="one weight ± 20 %")
        else:
            axes.plot(x, set_to[column], label="as set", **loss_line("evomal", 1))
        axes.set(xlabel="error f − y" if regression else "probability f", ylabel=label)
    arsinh_scale(panels[0, 1])
    legend_outside(figure)
    headline(figure, title or type(loss).__name__, f"label y = {y:g}".replace("-", "−"))
    return figure


def explore(losses: Mapping[str, Loss]) -> Any:
    """Make widgets for Jupyter to explore losses with: a menu, a slider for the label and one for each weight.

    The picture is an image widget: the output widget that `interact` draws in sometimes hangs a batch run, as
    nbclient sends its state back to the kernel and may then miss the kernel's next message. Where no one can move
    a slider, `picture` gives the same figure. The menu shows the losses by name, and the task losses of their
    kinds.

    Raises:
        ValueError: there are no losses.
        ModuleNotFoundError: ipywidgets is not installed; the extra `notebooks` of evomal brings it.
    """
    import ipywidgets as widgets

    if not losses:
        raise ValueError("there are no losses to explore")
    kinds = dict.fromkeys(loss.kind for loss in losses.values())
    choices = dict(losses) | {f"task loss, {kind}": TaskLoss(kind) for kind in kinds}
    menu, panel = widgets.Dropdown(options=list(choices), description="loss"), widgets.VBox()

    def choose(_: Any = None) -> None:
        """Show the sliders of one loss, at the weights that it came with."""
        loss = choices[menu.value]
        regression = loss.kind == "regression"
        y = widgets.FloatSlider(1, min=-3, max=3, step=0.25) if regression else widgets.IntSlider(1, min=0, max=1)
        y.description = "y"
        phi = [
            widgets.FloatSlider(weight, min=weight - reach, max=weight + reach, step=reach / 200, description=name)
            for name, weight in zip(_weight_names(loss), weights_of(loss), strict=False)
            if (reach := 2 * max(1.0, abs(weight)))
        ]
        image = widgets.Image(format="png")

        def draw(_: Any = None) -> None:
            """Draw the loss with the weights that are set."""
            drawn = picture(loss, y.value, [weight.value for weight in phi] or None, menu.value)
            image.value, size = drawn._repr_png_()
            image.width = f"{size['width']:.0f}"

        for slider in (y, *phi):
            slider.observe(draw, "value")
        draw()
        panel.children = (y, *phi, image)

    menu.observe(choose, "value")
    choose()
    return widgets.VBox([menu, panel])


def _weight_names(loss: Loss) -> list[str]:
    """Return a name for each weight that gets a slider: the node whose output it multiplies, or its number."""
    if isinstance(loss, LearnedLoss):
        return [f"{number}: {node}" for number, node in enumerate(loss.expression.nodes[1:])]
    return [f"{number}" for number in range(loss.size)] if loss.size <= MOST_SLIDERS else []
