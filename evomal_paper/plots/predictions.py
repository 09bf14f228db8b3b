"""Figures of single predictions."""

import pandas as pd
from matplotlib.figure import Figure

from evomal_core.tasks import Task
from evomal_paper.plots.style import headline, new_panels, styled
from evomal_paper.published.tables import LABELS


@styled
def images(task: Task, shown: pd.DataFrame, better: str, other: str, title: str = "") -> Figure:
    """Test images with what two losses' networks take them for, and with which probability.

    They are rows of `predictions.predictions`, for example of `predictions.only_right_by`, at least one; the loss
    `better` is named first. The `x_scale` of the task undoes its standardisation.

    Raises:
        ValueError: there is nothing to show.
    """
    if shown.empty or task.test is None or task.x_scale is None:
        raise ValueError("no image is to be shown")
    figure, panels = new_panels(len(shown), 1.6, 2.0, columns=6)
    for axes, row in zip(panels, shown.to_dict("records"), strict=True):
        axes.set_axis_off()
        pixels = task.x_scale.undo(task.test[0][row["row"]][None].cpu())[0].movedim(0, -1)
        brightest = 255 if pixels.shape[-1] == 3 else float(pixels.max())
        axes.imshow((pixels / brightest).clamp(0, 1).numpy().squeeze(), cmap="gray", interpolation="nearest")
        said = [
            f"{LABELS.get(name, name)}: {task.classes[row[name]]} ({row[f'p {name}']:.0%})"
            for name in (better, other)
        ]
        axes.set_title("\n".join(said), fontsize=7, loc="center")
    headline(figure, title, "each network's most probable class and its probability")
    return figure
