"""Data sets as verified arrays; one that is not at hand is a clear error that says how to get it.

Whatever file the arrays came in, what counts is their content: its hash must be the known one. Nothing is
downloaded unless asked for.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evomal_core.kinds import Kind
from evomal_core.lazy import LazyModule
from evomal_paper.datasets import readers
from evomal_paper.datasets.downloads import DownloadError, Remote, torchvision_files
from evomal_paper.datasets.readers import Arrays

if TYPE_CHECKING:
    from sklearn import datasets
else:
    datasets = LazyModule("sklearn.datasets")

TABLE = ("x", "y")
SPLIT = ("x_train", "y_train", "x_test", "y_test")


class MissingDataError(FileNotFoundError):
    """A data set is not at hand; the message says how to get it."""


class AlteredDataError(ValueError):
    """A data set's content is not the published one."""


def data_folder() -> Path:
    """Folder of the data sets: EVOMAL_DATA, else `data` in the checkout, else `~/.cache/evomal`."""
    if chosen := os.environ.get("EVOMAL_DATA"):
        return Path(chosen).expanduser().absolute()
    root = Path(__file__).resolve().parents[2]
    return root / "data" if (root / "pyproject.toml").exists() else Path.home() / ".cache" / "evomal"


def content_hash(*arrays: np.ndarray) -> str:
    """SHA-256 over the shapes and values of arrays, whatever file they came in."""
    digest = hashlib.sha256()
    for array in arrays:
        plain = np.ascontiguousarray(array)
        digest.update(f"{plain.shape} {plain.dtype.str}".encode())
        digest.update(plain.tobytes())
    return digest.hexdigest()


def byte_hash(*arrays: np.ndarray) -> str:
    """SHA-256 over the values of arrays as bytes 0 to 255, in this order: for images and their classes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, np.uint8).data)  # no copy of bytes
    return digest.hexdigest()


@dataclass(frozen=True)
class DataSet:
    """One data set: what it is, the hash that its arrays must have, and the files it can be read from."""

    name: str
    kind: Kind
    origin: str
    content: str | None
    """The hash of the arrays; None where it is not known, and only shapes and classes are checked."""
    parts: tuple[str, ...] = TABLE
    """The names of the arrays that `load` returns."""
    classes: tuple[str, ...] = ()
    conform: Callable[..., Arrays] = readers.table
    """Brings arrays to one dtype and shape; refuses with ValueError what can't be the data set."""
    digest: Callable[..., str] = content_hash
    builtin: Callable[[], Arrays] | None = None
    """Reads a data set that comes with scikit-learn; the others have `files`."""
    files: tuple[tuple[str, Callable[[Path], Arrays]], ...] = ()
    """Places in the data folder that it can be read from, beside NAME.npz with an array for each part."""
    remotes: Callable[[], Sequence[Remote]] | None = None
    """Files of a download, each to be put in a place that `files` names."""

    def load(self, *, download: bool = False, progress: bool = True) -> Arrays:
        """The arrays that `parts` names, for example the features x and labels y.

        Args:
            download: whether to get the data set from where it is published if it is not at hand.
            progress: whether a download shows a progress bar.

        Raises:
            MissingDataError: it is not at hand.
            AlteredDataError: its content differs from the published one.
            DownloadError: no address serves it, or it can't be saved.
        """
        folder = data_folder()
        try:
            if self.builtin is not None:
                return self._verified(self.builtin, "scikit-learn's copy", "install the pinned scikit-learn")
            arrays, file = self._find(folder, self.remedy(folder))
        except (MissingDataError, AlteredDataError):
            if not download or self.remotes is None:
                raise
            return self._fetch(folder, progress)
        if self.parts == SPLIT and file != self._cache:
            with suppress(DownloadError):  # saves the unpacking next time, where the folder can be written to
                self._save(folder, arrays)
        return arrays

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
        by_hand = self._by_hand(folder)
        return by_hand if self.remotes is None else f"`evomal data {self.name} --download` gets it, or {by_hand}"

    def _by_hand(self, folder: Path) -> str:
        return f"put {' or '.join([self._cache, *(file for file, _ in self.files)])} into {folder}"

    @property
    def _cache(self) -> str:
        return f"{self.name}.npz"

    def _find(self, folder: Path, remedy: str, downloaded: bool = False) -> tuple[Arrays, str]:
        """The arrays of the first file that is there and right, and that file."""
        first: AlteredDataError | None = None
        cache: Callable[[Path], Arrays] = partial(readers.npz, parts=self.parts)
        for file, read in ((self._cache, cache), *self.files):
            path = folder / file
            if not os.path.lexists(path):
                continue
            try:
                where = f"the {file} downloaded" if downloaded else str(path)
                return self._verified(partial(read, path), where, remedy), file
            except AlteredDataError as error:
                first = first or error
        raise first or MissingDataError(f"{self.name} is not at hand: {remedy}")

    def _verified(self, read: Callable[[], Arrays], where: str, remedy: str) -> Arrays:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of old pickles and odd files; the check of the content decides
                arrays = self.conform(*read())
        except readers.UNREADABLE as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise AlteredDataError(
                f"{self.name}: {where} is damaged or something else ({reason}); {remedy}"
            ) from None
        if self.content is not None and (found := self.digest(*arrays)) != self.content:
            difference = f"hash {found}, expected {self.content}"
            raise AlteredDataError(f"{self.name}: {where} has another content ({difference}); {remedy}")
        return arrays

    def _fetch(self, folder: Path, progress: bool) -> Arrays:
        """Download into a folder that is thrown away, read, verify, and only then save as NAME.npz."""
        assert self.remotes is not None
        by_hand = self._by_hand(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=f".{self.name}.") as temporary:
                for remote in self.remotes():
                    remote.download(Path(temporary), progress)
                arrays, _ = self._find(Path(temporary), by_hand, downloaded=True)
        except DownloadError as error:
            raise DownloadError(f"{self.name}: {error}; try again later, or {by_hand}") from None
        except OSError as error:
            raise self._unsaved(folder, error) from None
        self._save(folder, arrays)
        return arrays

    def _save(self, folder: Path, arrays: Arrays) -> None:
        """Write NAME.npz whole or not at all."""
        try:
            handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{self._cache}.")
            try:
                with os.fdopen(handle, "wb") as file:
                    np.savez(file, **dict(zip(self.parts, arrays, strict=True)))  # type: ignore[arg-type]
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).chmod(0o644)
                Path(temporary).replace(folder / self._cache)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise self._unsaved(folder, error) from None

    def _unsaved(self, folder: Path, error: OSError) -> DownloadError:
        remedy = "set EVOMAL_DATA to a folder that can be written to and has space"
        return DownloadError(f"{self.name} can't be saved in {folder} ({error}); {remedy}")


# --- the data sets of the papers -----------------------------------------------------------------------


def _diabetes() -> Arrays:
    data = datasets.load_diabetes(scaled=False)
    return data.data, data.target


def _digits() -> Arrays:
    data = datasets.load_digits()
    return data.images.astype(np.uint8), data.target.astype(np.int64)


def _image_set(
    name: str,
    source: str,
    origin: str,
    content: str | None,
    files: tuple[tuple[str, Callable[[Path], Arrays]], ...],
    conform: Callable[..., Arrays],
    classes: str = "0 1 2 3 4 5 6 7 8 9",
) -> DataSet:
    return DataSet(
        name,
        "multiclass",
        origin,
        content,
        SPLIT,
        tuple(classes.split()),
        conform,
        byte_hash,
        files=files,
        remotes=partial(torchvision_files, source),
    )


_FILES = "https://raw.githubusercontent.com/scikit-learn/scikit-learn/1.0.2/sklearn/datasets/data/"
_BOSTON = Remote("boston_house_prices.csv", (f"{_FILES}boston_house_prices.csv",))
# The archive, checksum included, that scikit-learn's fetch_california_housing takes, and the place it came from.
_CALIFORNIA = Remote(
    "cal_housing.tgz",
    (
        "https://ndownloader.figshare.com/files/5976036",
        "https://www.dcc.fc.up.pt/~ltorgo/Regression/cal_housing.tgz",
    ),
    "sha256:aaa5c9a6afe2225cc2aed2723682ae403280c4a3695a2ddda4ffb5d8215ea681",
)
# The book's own link (github.com/delip/PyTorchNLPBook, data/README.md).
_SURNAMES = Remote(
    "surnames_with_splits.csv",
    ("https://drive.google.com/uc?export=download&id=1T1la2tYO1O7XkMRawG8VcFcvtjbxDqU-",),
)

_ALL = (
    DataSet(
        "diabetes",
        "regression",
        "comes with scikit-learn (Efron et al. 2004; 442 rows, 10 features)",
        "5a6c1a15d4492eedd7a091812a7c17ab4f6b9f7e0cd8d367367128fbb1eac64e",
        builtin=_diabetes,
    ),
    DataSet(
        "digits",
        "multiclass",
        "comes with scikit-learn (Alpaydin & Kaynak 1998; 1,797 images of 8×8, values 0 to 16)",
        "975d4662e749638f4b2a82b80e0e2d98b38655a91d503fc38c56fef5bf259022",
        classes=tuple("0123456789"),
        conform=readers.as_they_are,
        builtin=_digits,
    ),
    DataSet(
        "boston",
        "regression",
        "Boston Housing (Harrison & Rubinfeld 1978; 506 rows, 13 features), left out of scikit-learn since 1.2 "
        "for its racial feature B; here to compare with the paper only",
        "7f4b7d582345ad09bcd1e9b8b6592c68cd3bc85cc59a2afcdc6959149deb20bb",
        files=(("boston_house_prices.csv", readers.boston),),
        remotes=lambda: [_BOSTON],
    ),
    DataSet(
        "california",
        "regression",
        "California Housing (Pace & Barry 1997; 20,640 rows, 8 features as scikit-learn derives them)",
        "fbee70bf74cb542003ef0ea78b56fe78c9c8f05670c2d60e168783f11b3c132a",
        files=(("cal_housing.data", readers.california), ("cal_housing.tgz", readers.california)),
        remotes=lambda: [_CALIFORNIA],
    ),
    _image_set(
        "mnist",
        "MNIST",
        "MNIST (LeCun et al. 1998; 60,000 and 10,000 images of 28×28)",
        "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16",
        (("MNIST", readers.idx_folder),),
        partial(readers.images, rows=(60_000, 10_000), shape=(28, 28), classes=10),
    ),
    _image_set(
        "cifar10",
        "CIFAR10",
        "CIFAR-10 (Krizhevsky 2009; 50,000 and 10,000 images of 32×32×3)",
        "80387ddb9a0edf3fc4a964ee3770296169bb26a651050df20035579673099660",
        (
            ("cifar-10-batches-py", partial(readers.cifar, name="CIFAR10")),
            ("cifar-10-python.tar.gz", partial(readers.cifar, name="CIFAR10")),
        ),
        partial(readers.images, rows=(50_000, 10_000), shape=(32, 32, 3), classes=10),
        "airplane automobile bird cat deer dog frog horse ship truck",
    ),
    DataSet(
        "surname",
        "multiclass",
        "surnames of 18 nationalities with their split (Rao & McMahan 2019; 7,680, 1,640 and 1,660 rows, of which "
        "1,597 repeat a name and nationality, also across the split)",
        "afec57b7692a3726f2fa58ab535bc4cba77472ea89e0a44bf1c124ef26ac652d",
        ("x_train", "y_train", "x_validation", "y_validation", "x_test", "y_test"),
        readers.NATIONALITIES,
        readers.names,
        files=(("surnames_with_splits.csv", readers.surnames),),
        remotes=lambda: [_SURNAMES],
    ),
    _image_set(
        "svhn",
        "SVHN",
        "SVHN, cropped digits, two .mat files (Netzer et al. 2011; 73,257 and 26,032 images of 32×32×3)",
        None,
        (("train_32x32.mat", readers.svhn),),
        partial(readers.images, rows=(73_257, 26_032), shape=(32, 32, 3), classes=10),
    ),
    _image_set(
        "cifar100",
        "CIFAR100",
        "CIFAR-100 (Krizhevsky 2009; 50,000 and 10,000 images of 32×32×3)",
        None,
        (
            ("cifar-100-python", partial(readers.cifar, name="CIFAR100")),
            ("cifar-100-python.tar.gz", partial(readers.cifar, name="CIFAR100")),
        ),
        partial(readers.images, rows=(50_000, 10_000), shape=(32, 32, 3), classes=100, balanced=True),
        " ".join(str(number) for number in range(100)),
    ),
)
DATASETS: dict[str, DataSet] = {dataset.name: dataset for dataset in _ALL}
