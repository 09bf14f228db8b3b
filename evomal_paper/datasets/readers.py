"""Readers of the files that data sets come in; none of them trusts what it reads."""

from __future__ import annotations

import csv
import gzip
import shutil
import struct
import tarfile
import tempfile
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from evomal_paper.datasets.downloads import import_torchvision

Arrays = tuple[np.ndarray, ...]

UNREADABLE = (
    *(OSError, ValueError, LookupError, EOFError, RuntimeError, MemoryError, OverflowError, TypeError),
    *(csv.Error, struct.error, tarfile.TarError, zipfile.BadZipFile, zlib.error),
    *(SyntaxError, tokenize.TokenError),  # numpy's parser of the headers of arrays
)
"""Errors that reading a damaged, truncated or foreign file raises."""

NATIONALITIES = (
    *("Arabic", "Chinese", "Czech", "Dutch", "English", "French", "German", "Greek"),
    *("Irish", "Italian", "Japanese", "Korean", "Polish", "Portuguese", "Russian"),
    *("Scottish", "Spanish", "Vietnamese"),
)
BOSTON = ("CRIM", "ZN", "INDUS", "CHAS", "NOX", "RM", "AGE", "DIS", "RAD", "TAX", "PTRATIO", "B", "LSTAT", "MEDV")


def npz(path: Path, parts: tuple[str, ...]) -> Arrays:
    """The arrays of these names in numpy's archive of arrays; pickled objects are refused."""
    with path.open("rb") as raw:  # numpy would leave a damaged file open
        file = np.load(raw)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it is no npz archive")
        with file:
            return tuple(file[part] for part in parts)


# --- bringing arrays to one form -----------------------------------------------------------------------


def as_they_are(*arrays: np.ndarray) -> Arrays:
    """The arrays themselves."""
    return arrays


def table(x: np.ndarray, y: np.ndarray) -> Arrays:
    """Features (rows, features) and targets (rows,), both float32."""
    for array in (x, y):
        _refuse_objects(array)
    return x.astype(np.float32, copy=False), y.astype(np.float32, copy=False)


def images(
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
    *,
    rows: tuple[int, int],
    shape: tuple[int, ...],
    classes: int,
    balanced: bool = False,
) -> Arrays:
    """Images (rows, height, width[, 3]) of bytes, and their classes (rows,) as int64.

    Raises:
        ValueError: the numbers of images, their size, their values or their classes are others.
    """
    conformed: list[np.ndarray] = []
    for x, y, count in ((x_train, y_train, rows[0]), (x_test, y_test, rows[1])):
        if x.size != count * int(np.prod(shape)) or x.shape[0] != count or y.size != count:
            raise ValueError(f"images {x.shape} with classes {y.shape}, expected {(count, *shape)} and {(count,)}")
        x, y = _whole(x, np.uint8).reshape(count, *shape), _whole(y, np.int64).reshape(count)
        if y.min() < 0 or y.max() >= classes:
            raise ValueError(f"classes {y.min()} to {y.max()}, expected 0 to {classes - 1}")
        if balanced and (np.bincount(y, minlength=classes) != count // classes).any():
            raise ValueError(f"the {classes} classes are not equally many")
        conformed += [x, y]
    return tuple(conformed)


def names(*arrays: np.ndarray) -> Arrays:
    """Pairs of names (rows,) as text and their classes (rows,) as int64.

    Raises:
        ValueError: a class is not one of NATIONALITIES, or not each name has one.
    """
    conformed: list[np.ndarray] = []
    for x, y in zip(arrays[::2], arrays[1::2], strict=True):
        if x.dtype.kind != "U" or x.ndim != 1 or y.shape != x.shape or not x.size:
            raise ValueError(f"names {x.dtype} {x.shape} with classes {y.shape}, expected text and one class each")
        y = _whole(y, np.int64)
        if y.min() < 0 or y.max() >= len(NATIONALITIES):
            raise ValueError(f"classes {y.min()} to {y.max()}, expected 0 to {len(NATIONALITIES) - 1}")
        conformed += [np.array(x.tolist()), y]  # as wide as its longest name
    return tuple(conformed)


def _refuse_objects(array: np.ndarray) -> None:
    if array.dtype.kind not in "buif":
        raise ValueError(f"an array of {array.dtype}, expected numbers")


def _whole(array: np.ndarray, dtype: Any) -> np.ndarray:
    """The array in an integer dtype that must hold its values exactly; no copy where it has it."""
    if array.dtype == dtype:
        return array
    _refuse_objects(array)
    with np.errstate(invalid="ignore"):
        converted = array.astype(dtype)
    if not np.array_equal(converted, array):
        raise ValueError(f"values that {np.dtype(dtype)} can't hold")
    return converted


# --- tables and names ----------------------------------------------------------------------------------


def boston(path: Path) -> Arrays:
    """Boston Housing from a CSV with a line of column names, in any order, perhaps after a line of counts."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = iter(list(csv.reader(file)))
    for line in lines:
        header = [name.strip().upper() for name in line]
        if "MEDV" in header:
            columns = [header.index(name) for name in BOSTON]
            rows = np.array([[float(line[column]) for column in columns] for line in lines if line])
            return rows[:, :-1], rows[:, -1]
    raise ValueError("no column is named MEDV")


def california(path: Path) -> Arrays:
    """California Housing from StatLib's cal_housing.data, or from the .tgz around it, as scikit-learn derives it.

    Per block: median income, house age, rooms, bedrooms, population and occupants, the second, third and last
    of them per household, latitude and longitude; the target is the median value in 100,000 dollars.
    """
    if path.suffix == ".tgz":
        with tarfile.open(path) as tar, _member(tar, "CaliforniaHousing/cal_housing.data") as file:
            raw = np.loadtxt(file, delimiter=",")
    else:
        raw = np.loadtxt(path, delimiter=",")
    longitude, latitude, age, rooms, bedrooms, population, households, income, value = raw.T
    features = [
        *(income, age, rooms / households, bedrooms / households),
        *(population, population / households, latitude, longitude),
    ]
    return np.stack(features, axis=1), value / 100_000


def _member(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    if (member := tar.extractfile(name)) is None:
        raise ValueError(f"{name} is no file in it")
    return member


def surnames(path: Path) -> Arrays:
    """Surnames and the indices of their nationalities, in the CSV's own three parts and order."""
    parts: dict[str, tuple[list[str], list[int]]] = {split: ([], []) for split in ("train", "val", "test")}
    number = {nationality: index for index, nationality in enumerate(NATIONALITIES)}
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.DictReader(file)
        for row in lines:
            if None in row.values():
                raise ValueError(f"line {lines.line_num} is cut short")
            x, y = parts[row["split"]]
            x.append(row["surname"])
            y.append(number[row["nationality"]])
    return tuple(np.array(column) for part in parts.values() for column in part)


# --- images, in torchvision's layout -------------------------------------------------------------------


def idx_folder(path: Path) -> Arrays:
    """MNIST and its kin, from a folder of `…-ubyte` files or its `raw`, plain or gzipped (LeCun et al. 1998)."""
    folder = path / "raw" if (path / "raw").is_dir() else path
    kinds = ("images-idx3", "labels-idx1")
    return tuple(_idx(folder, f"{split}-{kind}-ubyte") for split in ("train", "t10k") for kind in kinds)


def _idx(folder: Path, name: str) -> np.ndarray:
    names = (name, f"{name}.gz", name.replace("-idx", ".idx"))  # the last as they come out of some archives
    path = next((folder / each for each in names if (folder / each).exists()), folder / name)
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    zero, kind, dimensions = struct.unpack_from(">HBB", content)
    if zero != 0 or kind != 8:
        raise ValueError(f"{path.name} is no idx file of bytes")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    # A copy, since an array over bytes can't be written to, which PyTorch warns of.
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy()


def cifar(path: Path, name: str) -> Arrays:
    """CIFAR through torchvision's class of a name, from its folder of batches or the archive around it.

    The batches are pickles; torchvision opens none whose MD5 is not the published one.
    """
    source = getattr(import_torchvision().datasets, name)
    if path.is_dir():
        return _torchvision_splits(source, path.parent)
    with tempfile.TemporaryDirectory() as folder, tarfile.open(path) as tar:
        target = Path(folder, source.base_folder)
        target.mkdir()
        files = [file for file, _ in (*source.train_list, *source.test_list)]
        for file in (*files, source.meta["filename"]):
            with _member(tar, f"{source.base_folder}/{file}") as member, (target / file).open("wb") as copy:
                shutil.copyfileobj(member, copy)
        return _torchvision_splits(source, Path(folder))


def _torchvision_splits(source: Any, root: Path) -> Arrays:
    train, test = source(root, train=True), source(root, train=False)
    return tuple(np.ascontiguousarray(array) for split in (train, test) for array in (split.data, split.targets))


def svhn(path: Path) -> Arrays:
    """SVHN's cropped digits through torchvision, from train_32x32.mat and test_32x32.mat beside it."""
    source = import_torchvision().datasets.SVHN
    arrays: list[np.ndarray] = []
    for split in ("train", "test"):
        part = source(path.parent, split=split)
        arrays += [np.ascontiguousarray(part.data.transpose(0, 2, 3, 1)), part.labels]
    return tuple(arrays)
