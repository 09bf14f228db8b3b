"""Readers of the files that data sets come in, and forms that their arrays are brought to."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from evomal_paper.datasets.torchvision import import_torchvision
from evomal_paper.published.tables import facts

Arrays = tuple[np.ndarray, ...]

NATIONALITIES = next(row["classes"] for row in facts("datasets", "dataset") if row["name"] == "surname")
BOSTON = ("CRIM", "ZN", "INDUS", "CHAS", "NOX", "RM", "AGE", "DIS", "RAD", "TAX", "PTRATIO", "B", "LSTAT", "MEDV")


def npz(path: Path, parts: tuple[str, ...]) -> Arrays:
    """The arrays of these names in numpy's archive of arrays; pickled objects are refused."""
    with path.open("rb") as file:  # numpy would leave a damaged file open
        arrays = np.load(file)
        return tuple(arrays[part] for part in parts)


# --- bringing arrays to one form -----------------------------------------------------------------------


def table(x: np.ndarray, y: np.ndarray) -> Arrays:
    """Features (rows, features) and targets (rows,), both float32."""
    return x.astype(np.float32), y.astype(np.float32)


def images(*arrays: np.ndarray, rows: Sequence[int], shape: tuple[int, ...], classes: int) -> Arrays:
    """Images (rows, height, width[, 3]) of bytes, and their classes (rows,) as int64, of each part.

    Raises:
        ValueError: the numbers of images, their size or their classes are others.
    """
    conformed: list[np.ndarray] = []
    for x, y, count in zip(arrays[::2], arrays[1::2], rows, strict=True):
        if y.min() < 0 or y.max() >= classes:
            raise ValueError(f"classes {y.min()} to {y.max()}, expected 0 to {classes - 1}")
        conformed += [x.astype(np.uint8, copy=False).reshape(count, *shape)]
        conformed += [y.astype(np.int64, copy=False).reshape(count)]
    return tuple(conformed)


def names(*arrays: np.ndarray) -> Arrays:
    """Names (rows,) as text, as wide as the longest, and their classes (rows,) as int64, of each part."""
    pairs = zip(arrays[::2], arrays[1::2], strict=True)
    return tuple(array for x, y in pairs for array in (np.array(x.tolist()), y.astype(np.int64)))


# --- files ---------------------------------------------------------------------------------------------


def boston(path: Path | str) -> Arrays:
    """Boston Housing from a CSV, whose line of column names may follow a line of counts."""
    table = pd.read_csv(path)
    if "MEDV" not in table:
        table = pd.read_csv(path, skiprows=1)
    columns = table[list(BOSTON)].to_numpy()
    return columns[:, :-1], columns[:, -1]


def california(path: Path) -> Arrays:
    """California Housing from StatLib's cal_housing.data, as scikit-learn derives it.

    Per block: median income, house age, rooms, bedrooms, population and occupants, the second, third and last
    of them per household, latitude and longitude; the target is the median value in 100,000 dollars.
    """
    longitude, latitude, age, rooms, bedrooms, population, households, income, value = np.loadtxt(
        path, delimiter=","
    ).T
    features = [
        *(income, age, rooms / households, bedrooms / households),
        *(population, population / households, latitude, longitude),
    ]
    return np.stack(features, axis=1), value / 100_000


def surnames(path: Path | str) -> Arrays:
    """Surnames and the indices of their nationalities, in the CSV's own three parts and order."""
    table = pd.read_csv(path, keep_default_na=False)
    y = table["nationality"].map(NATIONALITIES.index)
    parts = [table["split"] == split for split in ("train", "val", "test")]
    return tuple(column[rows].to_numpy() for rows in parts for column in (table["surname"], y))


def torchvision_images(path: Path, source: str, download: bool = False) -> Arrays:
    """Images and classes of torchvision's data set of a class name, from the place where it keeps them.

    Of the pickles that CIFAR comes in, torchvision opens none whose MD5 is not the published one.

    Args:
        path: a file or folder of the data set, beside which its others lie.
        source: the name of torchvision's class.
        download: whether torchvision gets what is not there.
    """
    reader = getattr(import_torchvision().datasets, source)
    splits = [{"split": "train"}, {"split": "test"}] if source == "SVHN" else [{"train": True}, {"train": False}]
    parts = [reader(path.parent, download=download, **split) for split in splits]
    if source == "SVHN":
        return tuple(array for part in parts for array in (part.data.transpose(0, 2, 3, 1), part.labels))
    return tuple(np.asarray(array) for part in parts for array in (part.data, part.targets))
