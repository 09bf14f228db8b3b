"""Data sets as verified arrays; one that is not at hand is a clear error that says how to get it.

Whatever file the arrays came in, what counts is their content: its hash must be the known one. Nothing is
downloaded unless asked for.
"""

import hashlib
import io
import os
import socket
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evomal_core.files import write_atomic
from evomal_core.lazy import LazyModule
from evomal_paper.datasets import readers
from evomal_paper.datasets.readers import Arrays
from evomal_paper.published.tables import facts

if TYPE_CHECKING:
    from sklearn import datasets
else:
    datasets = LazyModule("sklearn.datasets")

TABLE = ("x", "y")
SPLIT = ("x_train", "y_train", "x_test", "y_test")
TIMEOUT = 30.0
"""Seconds without a byte after which a server counts as stalled."""


class MissingDataError(FileNotFoundError):
    """A data set is not at hand; the message says how to get it."""


class AlteredDataError(ValueError):
    """A data set's content is not the published one."""


class DownloadError(OSError):
    """A data set can't be downloaded or saved; the message says why."""


def data_folder() -> Path:
    """Folder of the data sets: EVOMAL_DATA, else `data` in the checkout, else `~/.cache/evomal`."""
    if chosen := os.environ.get("EVOMAL_DATA"):
        return Path(chosen).expanduser().absolute()
    root = Path(__file__).resolve().parents[2]
    return root / "data" if (root / "pyproject.toml").exists() else Path.home() / ".cache" / "evomal"


def content_hash(*arrays: np.ndarray) -> str:
    """SHA-256 over the shapes, types and values of arrays, whatever file they came in."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype.str}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)  # no copy of bytes
    return digest.hexdigest()


@dataclass(frozen=True)
class DataSet:
    """One data set: what it is, the hash that its arrays must have, and the files it can be read from."""

    name: str
    origin: str
    content: str | None
    """The hash of the arrays; None where it is not known, and only shapes and classes are checked."""
    parts: tuple[str, ...] = TABLE
    """The names of the arrays that `load` returns."""
    classes: tuple[str, ...] = ()
    conform: Callable[..., Arrays] = readers.table
    """Brings arrays to one dtype and shape; refuses with ValueError what can't be the data set."""
    builtin: Callable[[], Arrays] | None = None
    """Reads a data set that comes with scikit-learn; the others have a `file`."""
    file: str = ""
    """A place in the data folder that it can be read from, beside NAME.npz with an array for each part."""
    read: Callable[[Path], Arrays] | None = None
    """Reads `file`."""
    download: Callable[[Path], Arrays] | None = None
    """Gets the arrays from where they are published, by way of files in a folder."""

    def load(self, *, download: bool = False) -> Arrays:
        """The arrays that `parts` names, for example the features x and labels y.

        Args:
            download: whether to get the data set from where it is published if it is not at hand.

        Raises:
            MissingDataError: it is not at hand.
            AlteredDataError: its content differs from the published one.
            DownloadError: no address serves it, or it can't be saved.
        """
        folder = data_folder()
        try:
            return self._find(folder)
        except (MissingDataError, AlteredDataError) as error:
            if download and self.download is not None:
                return self._fetch(folder, self.download)
            raise type(error)(f"{error}: {self.remedy(folder)}") from None

    def state(self) -> str:
        """Describe the data set in one line: whether it is at hand and verified, and its origin."""
        try:
            arrays = self.load()
        except MissingDataError:
            return f"missing: {self.remedy(data_folder())}; {self.origin}"
        except AlteredDataError as error:
            return f"altered: {error}"
        shapes = ", ".join(f"{part} {array.shape}" for part, array in zip(self.parts, arrays, strict=True))
        check = "verified" if self.content else "shapes and classes checked (its hash is not known)"
        return f"at hand: {shapes}; {check}; {self.origin}"

    def remedy(self, folder: Path) -> str:
        """Explain how to get the data set into a folder."""
        if self.builtin is not None:
            return "install the pinned scikit-learn"
        return f"`evomal data {self.name} --download` gets it, or {self._by_hand(folder)}"

    def _by_hand(self, folder: Path) -> str:
        return f"put {self.name}.npz or {self.file} into {folder}"

    def _find(self, folder: Path) -> Arrays:
        """The arrays of the first file that is there and right."""
        if self.builtin is not None:
            return self._verified(self.builtin, "scikit-learn's copy")
        first: AlteredDataError | None = None
        for file, read in ((f"{self.name}.npz", partial(readers.npz, parts=self.parts)), (self.file, self.read)):
            path = folder / file
            if read is None or not os.path.lexists(path):
                continue
            try:
                return self._verified(partial(read, path), str(path))
            except AlteredDataError as error:
                first = first or error
        raise first or MissingDataError(f"{self.name} is not at hand")

    def _verified(self, read: Callable[[], Arrays], where: str) -> Arrays:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of old pickles and odd files; the check of the content decides
                arrays = self.conform(*read())
        except Exception as error:  # whatever a damaged or foreign file makes a reader raise
            raise AlteredDataError(
                f"{self.name}: {where} is damaged or something else ({_one_line(error)})"
            ) from None
        if self.content is not None and (found := content_hash(*arrays)) != self.content:
            difference = f"hash {found}, expected {self.content}"
            raise AlteredDataError(f"{self.name}: {where} has another content ({difference})")
        return arrays

    def _fetch(self, folder: Path, download: Callable[[Path], Arrays]) -> Arrays:
        """Download into a folder that is thrown away, verify, and only then save as NAME.npz."""
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(TIMEOUT)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=f".{self.name}.") as temporary:
                raw = download(Path(temporary))
                arrays = self._verified(lambda: raw, "the download")
            content = io.BytesIO()
            np.savez(content, **dict(zip(self.parts, arrays, strict=True)))  # type: ignore[arg-type]
            write_atomic(folder / f"{self.name}.npz", content.getvalue())
        except Exception as error:  # whatever a reader makes of what a server sends
            remedy = f"try again, set EVOMAL_DATA to another folder, or {self._by_hand(folder)}"
            raise DownloadError(f"{self.name} can't be downloaded ({_one_line(error)}): {remedy}") from None
        finally:
            socket.setdefaulttimeout(before)
        return arrays


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


# --- the data sets of the papers -----------------------------------------------------------------------


def _diabetes() -> Arrays:
    data = datasets.load_diabetes(scaled=False)
    return data.data, data.target


def _digits() -> Arrays:
    data = datasets.load_digits()
    return data.images.astype(np.uint8), data.target.astype(np.int64)


def _california(folder: Path) -> Arrays:
    return datasets.fetch_california_housing(data_home=folder, return_X_y=True)


def _from_url(read: Callable[[str], Arrays], url: str, _: Path) -> Arrays:
    return read(url)


def _images(source: str, rows: list[int], shape: tuple[int, ...], classes: int, file: str) -> dict[str, Any]:
    """Functions that read and download images by torchvision's class `source`."""
    return {
        "parts": SPLIT,
        "conform": partial(readers.images, rows=rows, shape=shape, classes=classes),
        "read": partial(readers.torchvision_images, source=source),
        "download": lambda folder: readers.torchvision_images(folder / file, source, download=True),
    }


_HOW: dict[str, dict[str, Any]] = {
    "diabetes": {"builtin": _diabetes},
    "digits": {"builtin": _digits, "conform": partial(readers.images, rows=[1797], shape=(8, 8), classes=10)},
    "boston": {"read": readers.boston},
    "california": {"read": readers.california, "download": _california},
    "surname": {
        "parts": ("x_train", "y_train", "x_validation", "y_validation", "x_test", "y_test"),
        "conform": readers.names,
        "read": readers.surnames,
    },
}
"""Functions that read the data sets which are no images of torchvision."""


def _catalogue() -> dict[str, DataSet]:
    """The data sets of `published/datasets.toml`, each with how it is read."""
    found = {}
    for row in facts("datasets", "dataset"):
        name, file = row["name"], row.get("file", "")
        classes = tuple(row.get("classes", map(str, range(row.get("numbered", 0)))))
        how = _images(**row["images"], classes=len(classes), file=file) if "images" in row else _HOW[name]
        if "url" in row:  # of the file itself
            how = how | {"download": partial(_from_url, how["read"], row["url"])}
        found[name] = DataSet(name, row["origin"], row.get("content"), classes=classes, file=file, **how)
    return found


DATASETS = _catalogue()
