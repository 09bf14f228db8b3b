"""Pictures of the demonstrations: what the training rows look like, and the losses in order."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import evomal_core as em
from evomal_core.kinds import TASK_LOSSES
from evomal_paper.plots.style import new_figure

LEARNED, RIVAL, CLEAN = "#d62728", "0.45", "#1f77b4"
"""Colours of the learned loss, of rivals, and of training on the clean rows."""
USUAL = tuple(TASK_LOSSES.values())


def ranked(trainings: pd.DataFrame, metric: str, limit: int = 13) -> Figure:
    """The losses by mean test error: a dot for each data seed, a diamond for the mean, the learned loss in red.

    Beside the best losses stand the learned and the usual one; a mean beyond the axis is written at its end.
    """
    means = trainings.groupby(["loss", "data seed"])["test"].mean().unstack()
    order = list(means.mean(axis=1).sort_values().index)
    shown = [loss for place, loss in enumerate(order) if place < limit or loss in ("learned", *USUAL)]
    figure, ((axes,),) = new_figure(6.4, 0.8 + 0.28 * len(shown))
    right = means.loc[order[:limit]].max(axis=None) * 1.05
    for place, loss in enumerate(reversed(shown)):
        color = LEARNED if loss == "learned" else CLEAN if "validation rows" in loss else RIVAL
        values = means.loc[loss].to_numpy()
        if values.mean() > right:
            axes.text(right, place, f"{values.mean():.3g} →", color=color, ha="right", va="center", fontsize=8)
            continue
        axes.plot(values, np.full(len(values), place), "o", color=color, alpha=0.45, markersize=3.5)
        axes.plot(values.mean(), place, "D", color=color, markersize=5)
    axes.set(xlim=(None, right), ylim=(-0.6, len(shown) - 0.4))
    axes.set_yticks(range(len(shown)), shown[::-1])
    axes.set_xlabel(f"test {metric}, n = {means.shape[1]} data seeds")
    axes.grid(axis="x", alpha=0.3)
    return figure


def noisy_images(task: em.Task, clean: em.Task, columns: int = 10, rows: int = 2) -> Figure:
    """Training images with the label that the network is told, in red where it is wrong."""
    side = int(np.sqrt(task.features[0]))
    x, _ = task.train
    images = x if task.x_scale is None else task.x_scale.undo(x)
    figure, grid = new_figure(6.4, 0.85 * rows, rows, columns)
    for number, axes in enumerate(grid.ravel()):
        told, true = int(task.train[1][number]), int(clean.train[1][number])
        axes.imshow(images[number].reshape(side, side), cmap="gray_r")
        axes.set_title(str(told), color=LEARNED if told != true else "black", fontsize=9, pad=2)
        axes.axis("off")
    return figure


def label_shift(task: em.Task, clean: em.Task) -> Figure:
    """The training labels of a regression against the true ones."""
    figure, ((axes,),) = new_figure(3.2, 2.8)
    told, true = task.train[1][:, 0], clean.train[1][:, 0]
    wrong = (told != true).numpy()
    axes.plot(true[~wrong], told[~wrong], ".", color="0.6", markersize=2, label="right")
    axes.plot(true[wrong], told[wrong], ".", color=LEARNED, markersize=2, label="too high")
    axes.set(xlabel="true label (standard deviations)", ylabel="label told (the same)")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, markerscale=3)
    return figure


def curves(table: pd.DataFrame, losses: list[str], metric: str) -> Figure:
    """Test errors over the steps of training at each loss's rate: mean and range over trainings.

    Args:
        table: `Comparison.curves` with the rates that were chosen.
        losses: which to show, "learned" first.
        metric: the name of the error.
    """
    figure, ((axes,),) = new_figure(5.2, 3.0)
    for number, loss in enumerate(losses):
        rows = table[(table["loss"] == loss) & (table["split"] == "test")].groupby("step")["error"]
        color = LEARNED if loss == "learned" else ["black", "0.45", CLEAN][(number - 1) % 3]
        style = ["-", "-", "--", ":"][number % 4]
        axes.plot(rows.mean(), style, color=color, label=loss)
        axes.fill_between(rows.min().index, rows.min(), rows.max(), color=color, alpha=0.12, linewidth=0)
    axes.set(xlabel="step of training", ylabel=f"test {metric}")
    axes.legend(frameon=False)
    return figure
