"""Loss landscapes along filter-normalised random directions (Li et al. 2018; TPAMI'23 section V-D, Figure 7)."""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import AfterValidator
from torch import Tensor, nn
from tqdm.auto import tqdm

from evomal_core.config import Config, Positive, PositiveFloat
from evomal_core.devices import one_thread, repeatable
from evomal_core.labels import read_pair
from evomal_core.learners import Weights
from evomal_core.losses import Loss, TaskLoss
from evomal_core.seeds import torch_rng
from evomal_core.tasks import Task
from evomal_paper.analysis.cached_table import Piece, training_configuration
from evomal_paper.experiments.catalogue import experiment
from evomal_paper.runs.meta_test import base_trainings
from evomal_paper.runs.tables import KEYS, Results, ordered
from evomal_paper.statistics import against, spread

Measure = Callable[[Tensor, Tensor], Tensor]
"""Height of a landscape: a function of (y_pred, y_true) that is a mean over rows."""
AXES = ("x", "y")
RADIUS = 0.5
"""Distance from the trained network at which its sharpness is taken, in the norms of its filters."""


def _odd(value: int) -> int:
    if value < 3 or value % 2 == 0:
        raise ValueError("an odd number of at least 3, so that the trained network is one of the points")
    return value


class Grid(Config):
    """Where a landscape is measured: theta + x·d_x (+ y·d_y) for x (and y) from −radius to radius."""

    points: Annotated[int, AfterValidator(_odd)] = 51
    """Points along each axis."""
    radius: PositiveFloat = 1.0
    """Half length of the axes, in units of each filter's own norm."""
    dimensions: Literal[1, 2] = 1
    rows: Positive = 10_000
    """Largest number of rows of the training part that are measured."""

    def offsets(self) -> Tensor:
        """The coordinates of all points, (points^dimensions, dimensions), in float64."""
        axis = torch.linspace(-self.radius, self.radius, self.points, dtype=torch.float64)
        axis[self.points // 2] = 0.0
        return torch.cartesian_prod(*[axis] * self.dimensions).reshape(-1, self.dimensions)


def direction(network: nn.Module, seed: int, axis: int = 0) -> Weights:
    """A filter-normalised random direction, d_i ← d_i / ‖d_i‖ · ‖w_i‖ for each filter i (Li et al. 2018, sec. 4).

    d is normal; a filter is what makes one output of a layer: a row of a weight matrix, a kernel of a convolution.
    Parameters with fewer than two axes, biases and those of norm layers, have no filters: their direction is zero.
    The normal draws depend on the seed and the axis, 0 or 1, alone, so all networks of one shape share them.
    """
    rng = torch_rng(seed, "landscape", axis)
    found = {}
    for name, weights in network.named_parameters():
        drawn = torch.randn(weights.shape, generator=rng, dtype=torch.float64).to(weights)
        if weights.ndim < 2:
            found[name] = torch.zeros_like(weights)
            continue
        ours, theirs = (part.detach().flatten(1).norm(dim=1) for part in (drawn, weights))
        found[name] = drawn * (theirs / ours).view(-1, *[1] * (weights.ndim - 1))
    return found


@torch.no_grad()
def heights(
    network: nn.Module,
    part: tuple[Tensor, Tensor],
    measures: Sequence[Measure],
    directions: Sequence[Weights],
    offsets: Tensor,
) -> Tensor:
    """The height of a landscape at theta + Σ_k offset_k · d_k, for each measure; NaN becomes +inf.

    The network is in evaluation mode: dropout is off, and batch norm keeps the running statistics of the trained
    network at every point, as in the authors' code of Li et al. (2018).

    Points are taken one by one, on as many threads as torch is set to, each computing on one: changing the
    weights of all points at once (`torch.func.vmap`) took 1.3 times as long for LeNet-5, whose convolutions
    become grouped ones, and torch's own threads wait for each other within such small layers.

    Offsets are (points, directions), heights (points, measures) in float64; the network is left as it is.
    """
    workers = torch.get_num_threads() if part[0].device.type == "cpu" else 1

    def height(offset: list[float]) -> Tensor:
        moved = copy.deepcopy(network).eval()
        with torch.no_grad():
            for name, weights in moved.named_parameters():
                for scale, way in zip(offset, directions, strict=True):
                    weights.add_(way[name], alpha=scale)
            return _means(moved, part, measures).cpu()

    with one_thread(), repeatable(), ThreadPoolExecutor(workers) as pool:
        result = torch.stack(list(pool.map(height, offsets.tolist())))
    return result.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)


def _means(network: nn.Module, part: tuple[Tensor, Tensor], measures: Sequence[Measure]) -> Tensor:
    """Each measure's mean over rows, in float64."""
    x, y = part
    at_once = 256 if x.device.type == "cpu" else 4096  # 256 images stay within the cache
    total = torch.zeros(len(measures), dtype=torch.float64, device=x.device)
    for rows, labels in zip(x.split(at_once), y.split(at_once), strict=True):
        y_pred = network(rows)
        total += len(rows) * torch.stack([measure(y_pred, labels).double() for measure in measures])
    return total / len(x)


def landscape(network: nn.Module, task: Task, grid: Grid, seed: int) -> pd.DataFrame:
    """The landscape of a trained network on the training part of its task, along the directions of a seed.

    Columns: x (and y), measure ("task": cross-entropy or squared error; "error": error rate or MSE) and height.
    """
    functions: dict[str, Measure] = {
        "task": TaskLoss(task.kind),
        "error": lambda y_pred, y_true: task.measure(*read_pair(y_pred, y_true, task.kind)),
    }
    directions = [direction(network, seed, axis) for axis in range(grid.dimensions)]
    x, y = (array[: grid.rows] for array in task.train)
    offsets = grid.offsets()
    found = heights(network, (x, y), list(functions.values()), directions, offsets)
    places = dict(zip(AXES, offsets.T.numpy(), strict=False))
    tables = [pd.DataFrame(places).assign(measure=n, height=found[:, i].numpy()) for i, n in enumerate(functions)]
    return pd.concat(tables, ignore_index=True)


def load_or_compute(
    results: Results,
    grid: Grid,
    *,
    device: str = "cpu",
    results_dir: str | Path = "results",
    progress: bool = True,
) -> pd.DataFrame:
    """The landscapes of networks that are trained with the losses of finished runs, as in meta-testing.

    Each run gives one trained network per in-sample task. At a seed, all methods share initial weights, batches
    and random directions. Each landscape is kept in
    `<results_dir>/landscapes/<experiment>/<profile>/<method>/seed-<k>/line-<points>.csv` (or `surface-…`).

    Returns:
        Columns experiment, profile, method, seed, x (and y), measure, height, task, diverged (did training?).

    Raises:
        ValueError: a folder holds a landscape of another configuration.
    """
    tables = []
    keys = results.runs[KEYS].to_dict("records")
    for key in tqdm(keys, unit="landscape", disable=not progress):
        name, profile, method, seed = (key[column] for column in KEYS)
        loss = results.losses[name, method, seed]
        sizes = experiment(name).profile(profile)
        kind = f"line-{grid.points}" if grid.dimensions == 1 else f"surface-{grid.points}"
        folder = Path(results_dir, "landscapes", name, profile, method, f"seed-{seed}")
        configuration = key | grid.model_dump(mode="json") | training_configuration(sizes, loss)
        piece = Piece(folder, kind, configuration)
        compute = partial(_of_run, loss, name, profile, seed, grid, device)
        tables.append(piece.load_or_compute(compute, device).assign(**key))
    return ordered(pd.concat(tables, ignore_index=True))


def _of_run(loss: Loss, name: str, profile: str, seed: int, grid: Grid, device: str) -> pd.DataFrame:
    sizes = experiment(name).profile(profile)
    problem = experiment(name).problem(sizes, seed)
    tables = []
    with one_thread():  # as runs are computed, so that the networks are theirs
        trained = list(base_trainings(loss, problem, sizes, seed, "in-sample", device))
    for number, (learner, training) in enumerate(trained):
        found = landscape(training.network, learner.task, grid, seed)
        tables.append(found.assign(task=number, diverged=training.diverged))
    return pd.concat(tables, ignore_index=True)


def per_seed(table: pd.DataFrame, measure: str = "task") -> pd.DataFrame:
    """The landscape of each run: its height at each point, averaged over the run's tasks, inf if one diverged."""
    rows = table[table["measure"] == measure]
    rows = rows.assign(height=rows["height"].mask(rows["diverged"], np.inf))
    axes = [axis for axis in AXES if axis in rows]
    return rows.groupby([*KEYS, *axes], observed=True, sort=False)["height"].mean().reset_index()


def sharpness(lines: pd.DataFrame, radius: float = RADIUS) -> pd.DataFrame:
    """The sharpness of each run's one-dimensional landscape h, one row per run.

    S = mean of h(x) − h(0) over the grid's points with 0 < |x| ≤ radius: the expected sharpness of Neyshabur et
    al. (2017, "Exploring generalization in deep learning"), with a uniform x along one direction in place of
    normal noise. In the units of h, the task loss: nats (cross-entropy) or squared standard deviations of the
    label (MSE); x is in units of each filter's norm. A diverged training is infinitely sharp. Columns: experiment,
    profile, method, seed, centre (h(0)) and sharpness.

    Raises:
        ValueError: the radius is beyond the grid or holds no point beside the centre.
    """
    found = per_seed(lines).assign(x=lambda table: table["x"].abs())
    x = found["x"]
    near = (x > 0) & (x <= radius)
    if not 0 < radius <= x.max() or not near.any():
        raise ValueError(f"radius {radius:g} is not within the landscape's (0, {x.max():g}] or holds no point")
    centre, around = (
        found[rows].groupby(KEYS, observed=True, sort=False)["height"].mean() for rows in (x == 0, near)
    )
    rise = np.where(np.isfinite(centre), around - centre.where(np.isfinite(centre), 0), np.inf)
    return pd.DataFrame({"centre": centre, "sharpness": rise}).reset_index()


def flatness(sharp: pd.DataFrame, final: pd.DataFrame) -> pd.DataFrame:
    """Sharpness by experiment and method beside held-out error, and against the baseline seed by seed.

    Columns: experiment, profile, method; mean, sd, n and diverged of the sharpness; centre and held-out (means
    over seeds, the latter of `Results.final` of the same runs); difference, low, high, wins and verdict of
    `statistics.against`, where "lower" is flatter.
    """
    by = ["experiment", "profile", "method"]
    cells = spread(sharp, "sharpness", by).set_index(by)
    cells["centre"] = sharp.groupby(by, observed=True)["centre"].mean()
    held_out = final[(final["group"] == "in-sample") & (final["split"] == "test")]
    cells["held-out"] = held_out.groupby(by, observed=True)["error"].mean()
    compared = against(sharp, "sharpness", by[:2]).set_index(by)
    return cells.join(compared[["difference", "low", "high", "wins", "verdict"]]).reset_index()
