"""Pictures of the demonstrations: what the training rows look like, and the losses in order."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure

import evomal_core as em
from evomal_core.kinds import TASK_LOSSES
from evomal_paper.plots.style import new_figure, styled

LEARNED, RIVAL, CLEAN = "#d62728", "0.45", "#1f77b4"
"""Colours of the learned loss, of rivals, and of training on the clean rows."""


@styled
def ranked(trainings: pd.DataFrame, metric: str, limit: int = 13) -> Figure:
    """The losses by mean test error: a dot for each data seed, a diamond for the mean, the learned loss in red.

    Beside the best losses stand the learned and the usual one; a mean beyond the axis is written at its end.
    """
    errors = trainings.groupby(["loss", "data seed"], sort=False)["test"].mean().reset_index()
    means = errors.groupby("loss")["test"].mean().sort_values()
    needed = {"learned", *TASK_LOSSES.values()}
    shown = [loss for place, loss in enumerate(means.index) if place < limit or loss in needed]
    finite = errors["loss"].isin(means.index[:limit]) & np.isfinite(errors["test"])
    right = errors.loc[finite, "test"].max() * 1.05
    within = errors[errors["loss"].isin([loss for loss in shown if means[loss] <= right])]
    figure, ((axes,),) = new_figure(6.4, 0.8 + 0.28 * len(shown))
    look: dict[str, Any] = {"x": "test", "y": "loss", "hue": "loss", "order": shown, "legend": False, "ax": axes}
    look |= {"hue_order": shown, "palette": {loss: _colour(loss) for loss in shown}}
    sns.stripplot(within, **look, jitter=False, size=3.5, alpha=0.45)
    sns.pointplot(within, **look, errorbar=None, linestyle="none", marker="D", markersize=5)
    for place, loss in enumerate(shown):
        if means[loss] > right:
            text = {"color": _colour(loss), "ha": "right", "va": "center", "fontsize": 8}
            axes.text(right, place, f"{means[loss]:.3g} →", **text)
    axes.set(
        xlim=(None, right), xlabel=f"test {metric}, n = {errors['data seed'].nunique()} data seeds", ylabel=""
    )
    return figure


def _colour(loss: str) -> str:
    return LEARNED if loss == "learned" else CLEAN if "validation rows" in loss else RIVAL


@styled
def noisy_images(task: em.Task, clean: em.Task, columns: int = 10, rows: int = 2) -> Figure:
    """Training images with the label that the network is told, in red where it is wrong."""
    side = int(np.sqrt(task.features[0]))
    x, _ = task.train
    images = x if task.x_scale is None else task.x_scale.undo(x)
    figure, grid = new_figure(6.4, 0.85 * rows, rows, columns)
    for number, axes in enumerate(grid.ravel()):
        told, true = int(task.train[1][number]), int(clean.train[1][number])
        axes.imshow(images[number].reshape(side, side).numpy(), cmap="gray_r")
        axes.set_title(str(told), color=LEARNED if told != true else "black", fontsize=9, pad=2)
        axes.axis("off")
    return figure


@styled
def label_shift(told: torch.Tensor, true: torch.Tensor) -> Figure:
    """The training labels of a regression, (rows, 1), against the true ones."""
    figure, ((axes,),) = new_figure(3.2, 2.8)
    how = "too high" if bool((told >= true).all()) else "too low"
    wrong = np.where(told[:, 0] != true[:, 0], how, "right")
    look = {"hue_order": ["right", how], "palette": ["0.6", LEARNED], "s": 5, "linewidth": 0}
    sns.scatterplot(x=true[:, 0].numpy(), y=told[:, 0].numpy(), hue=wrong, ax=axes, **look)
    axes.set(xlabel="true label (standard deviations)", ylabel="label told (the same)")
    sns.move_legend(axes, "lower right", bbox_to_anchor=(1, 1), ncols=2, markerscale=3)
    return figure


@styled
def by_label(losses: Mapping[str, em.LearnedLoss], labels: Sequence[float]) -> Figure:
    """Regression losses, each above its least value, against the prediction: a panel a loss, a line a label."""
    figure, (row,) = new_figure(1.2 + max(2.4, 1.3 * len(losses)), 2.2, 1, len(losses), sharex=True)
    predictions = torch.linspace(-2, 3, 201)
    for axes, (name, loss) in zip(row, losses.items(), strict=True):
        for number, label in enumerate(labels):
            with torch.no_grad():
                values = loss.elementwise(predictions, torch.full_like(predictions, label))
            look = {"color": LEARNED if label == labels[-1] else str(0.65 - 0.3 * number), "lw": 1.2}
            axes.plot(predictions, values - values.min(), label=f"{label:.2g}", **look)
        axes.set(title=name, xlabel="prediction", yticks=[])
    row[0].set_ylabel("loss")
    row[-1].legend(title="label", bbox_to_anchor=(1, 1), loc="upper left")
    return figure


@styled
def predicted(true: torch.Tensor, predictions: Mapping[str, torch.Tensor], limit: float) -> Figure:
    """Predictions of networks against true labels, (rows, 1), with a dotted line at the training labels' limit."""
    figure, (row,) = new_figure(2.6 * len(predictions) + 0.4, 2.8, 1, len(predictions), sharey=True)
    for axes, (name, values) in zip(row, predictions.items(), strict=True):
        error = float(((values - true) ** 2).mean())
        axes.scatter(true, values, s=5, lw=0, color=LEARNED if name.startswith("learned") else RIVAL)
        axes.axline((limit, limit), slope=1, color="black", lw=0.8)
        axes.axhline(limit, color="black", lw=0.8, ls=":")
        axes.set(title=f"{name}: MSE {error:.2g}", xlabel="true label")
    row[0].set_ylabel("prediction")
    return figure
