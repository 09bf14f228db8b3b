"""Tasks of images: some classes of a data set, in the data set's own training and test parts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomal_core.seeds import numpy_rng
from evomal_core.tasks import Scale, Task
from evomal_paper.datasets.catalogue import DATASETS, DataSet
from evomal_paper.datasets.readers import Arrays

DIGITS_TRAINED_ON = 1437
"""Rows of scikit-learn's digits that are its training part: the first 80 %, as it has no split of its own."""


def image_task(name: str, classes: Sequence[int] | None = None, *, validation: float = 0.0, draw: int = 0) -> Task:
    """A task of telling some classes of an image data set apart: binary for two of them, else multiclass.

    x is (rows, channels, height, width) float32: pixels less the mean and divided by the standard deviation of
    their channel over the data set's whole training part, so that all its tasks are on one scale (as in the code
    of TPAMI's authors; GECCO does not say). Labels number the classes in the order given. The test part is the
    data set's own; only of `digits`, which has none, it is the last 20 % of the rows, and its images of 8×8 are
    enlarged to 16×16 by repeating pixels.

    Args:
        name: an image data set of `DATASETS`.
        classes: two or more of its classes, by number; all of them if None.
        validation: the share of each class's training images that becomes the validation part.
        draw: which random draw of them.
    """
    return image_tasks(name, [classes], validation=validation, draw=draw)[0]


def image_tasks(
    name: str, partition: Sequence[Sequence[int] | None], *, validation: float = 0.0, draw: int = 0
) -> list[Task]:
    """An `image_task` for each group of classes; the data set is read once."""
    dataset = DATASETS[name]
    x_train, y_train, x_test, y_test = _halves(dataset.load()) if name == "digits" else dataset.load()
    scale = _channel_scale(x_train)
    tasks = []
    for group in partition:
        classes = list(group or range(len(dataset.classes)))
        rows, y = labels(y_train, classes)
        tested, y_tested = labels(y_test, classes)
        kept, held = _held_back(y_train[rows], validation, draw)
        tasks.append(
            Task(
                train=(_scaled(x_train[rows[kept]], *scale), y[kept]),
                validation=(_scaled(x_train[rows[held]], *scale), y[held]) if len(held) else None,
                test=(_scaled(x_test[tested], *scale), y_tested),
                x_scale=Scale(*scale),
                **named(dataset, classes),
            )
        )
    return tasks


def named(dataset: DataSet, classes: Sequence[int]) -> dict[str, Any]:
    """Kind and name of a task, of the data set and the classes that it tells apart, and those classes."""
    names = tuple(dataset.classes[each] for each in classes)
    kind = "binary" if len(classes) == 2 else "multiclass"
    return {"kind": kind, "name": f"{dataset.name}: {', '.join(names)}", "classes": names}


def labels(y: np.ndarray, classes: Sequence[int]) -> tuple[np.ndarray, Tensor]:
    """The rows whose class is one of `classes`, and those rows' labels as a task has them."""
    numbers = np.full(max(y.max(), *classes) + 1, -1)
    numbers[list(classes)] = range(len(classes))
    rows = np.flatnonzero(numbers[y] >= 0)
    found = torch.from_numpy(numbers[y[rows]])
    return rows, found.float().unsqueeze(1) if len(classes) == 2 else found


def _held_back(y: np.ndarray, share: float, draw: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of training and validation images: a share of each class, in the data set's order."""
    held = np.zeros(len(y), dtype=bool)
    for each in np.unique(y):
        rows = numpy_rng(draw, "validation images", int(each)).permutation(np.flatnonzero(y == each))
        held[rows[: round(share * len(rows))]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def _halves(digits: Arrays) -> Arrays:
    """scikit-learn's digits, enlarged, with the first rows to train on and the others to test."""
    x, y = digits[0].repeat(2, axis=1).repeat(2, axis=2), digits[1]
    return x[:DIGITS_TRAINED_ON], y[:DIGITS_TRAINED_ON], x[DIGITS_TRAINED_ON:], y[DIGITS_TRAINED_ON:]


def _channel_scale(x: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the bytes of each channel, (channels, 1, 1), by counting them."""
    channels = x[..., None] if x.ndim == 3 else x
    shares = np.stack([np.bincount(c.ravel(), minlength=256) / c.size for c in np.moveaxis(channels, -1, 0)])
    values = np.arange(256)
    mean = shares @ values
    spread = np.sqrt(shares @ values**2 - mean**2)
    return torch.tensor(mean)[:, None, None], torch.tensor(spread)[:, None, None]


def _scaled(x: np.ndarray, mean: Tensor, spread: Tensor) -> Tensor:
    """Bytes (rows, height, width[, channels]) as standardised float32 (rows, channels, height, width)."""
    pixels = torch.from_numpy(x[..., None] if x.ndim == 3 else x).movedim(-1, 1)
    whole = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    return whole.sub_(mean.float()).div_(spread.float())


def some_images(part: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor]:
    """So many images of a part, all if 0 or too many: drawn at random, as evenly from the classes as can be."""
    x, y = part
    if count == 0 or count >= len(y):
        return part
    shuffled = numpy_rng(0, "some images").permutation(len(y))
    classes = y.flatten().numpy()[shuffled]
    turn = np.empty(len(y), int)
    for each in np.unique(classes):
        turn[classes == each] = np.arange(np.count_nonzero(classes == each))
    rows = torch.from_numpy(np.sort(shuffled[np.argsort(turn, kind="stable")[:count]]))
    return x[rows], y[rows]
