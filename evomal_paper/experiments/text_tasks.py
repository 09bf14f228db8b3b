"""Tasks of names: the nationality of a surname from its letters, in the official split."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from evomal_core.tasks import Task
from evomal_paper.datasets.catalogue import DATASETS
from evomal_paper.experiments.image_tasks import labels, named

PADDING, UNKNOWN = 0, 1
"""Indices of what stands before a short name, and for a letter that no training name has; letters follow."""


def surname_tasks(partition: Sequence[Sequence[int]]) -> tuple[list[Task], int]:
    """Tasks of telling some nationalities apart, and the number of symbols that their names are written in.

    x is (rows, letters) int64, for an embedding: each letter's index among those of the data set's training part,
    after padding up to the longest name there. Many names occur several times for one nationality, on both sides
    of the official split: the part `unseen` holds the test part without those of the task's training part, each
    remaining one once.

    The partition has for each task the numbers of its nationalities, in alphabetical order of all 18.
    """
    dataset = DATASETS["surname"]
    x_train, y_train, _, _, x_test, y_test = dataset.load()
    alphabet = "".join(sorted(set("".join(x_train))))
    length = max(map(len, x_train))
    tasks = []
    for classes in partition:
        (train, train_y), (test, test_y) = labels(y_train, classes), labels(y_test, classes)
        known = set(zip(x_train[train], y_train[train], strict=True))
        pairs = list(zip(x_test[test], y_test[test], strict=True))
        fresh = [row for row, pair in enumerate(pairs) if pair not in known and pair not in pairs[:row]]
        x = encoded(x_test[test], alphabet, length)
        tasks.append(
            Task(
                train=(encoded(x_train[train], alphabet, length), train_y),
                test=(x, test_y),
                unseen=(x[fresh], test_y[fresh]),
                **named(dataset, classes),
            )
        )
    return tasks, len(alphabet) + 2


def surnames_of(task: Task) -> list[str]:
    """The names of the rows of a task's test part."""
    dataset = DATASETS["surname"]
    *_, x_test, y_test = dataset.load()
    rows, _ = labels(y_test, [dataset.classes.index(name) for name in task.classes])
    return x_test[rows].tolist()


def encoded(names: np.ndarray, alphabet: str, length: int) -> Tensor:
    """Names as indices of their letters (rows, length), padded in front so that a network ends on the last letter.

    Of a longer name, the first letters are kept.
    """
    number = {letter: index for index, letter in enumerate(alphabet, start=UNKNOWN + 1)}
    rows = np.full((len(names), length), PADDING, dtype=np.int64)
    for row, name in zip(rows, names, strict=True):
        letters = [number.get(letter, UNKNOWN) for letter in name[:length]]
        row[length - len(letters) :] = letters
    return torch.from_numpy(rows)
