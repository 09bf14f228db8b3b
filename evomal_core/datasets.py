"""Data sets as verified arrays; one that is not at hand is a clear error that says how to get it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evomal_core.losses import Kind

Arrays = tuple[np.ndarray, np.ndarray]


class MissingDataError(FileNotFoundError):
    """A data set is not at hand; the message says how to get it."""


class AlteredDataError(ValueError):
    """A data set's content is not the published one."""


@dataclass(frozen=True)
class DataSet:
    """One data set: where it comes from, and the hash that its arrays must have."""

    name: str
    kind: Kind
    origin: str
    content: str
    read: Callable[[], Arrays]

    def load(self) -> Arrays:
        """The features x and labels y.

        Raises:
            MissingDataError: it is not at hand.
            AlteredDataError: its content differs from the published one.
        """
        x, y = self.read()
        found = content_hash(x, y)
        if found != self.content:
            raise AlteredDataError(f"{self.name}: content hash {found}, expected {self.content}; get it anew")
        return x, y


def content_hash(*arrays: np.ndarray) -> str:
    """SHA-256 over the shapes and values of arrays, whatever file they came in."""
    digest = hashlib.sha256()
    for array in arrays:
        plain = np.ascontiguousarray(array)
        digest.update(f"{plain.shape} {plain.dtype.str}".encode())
        digest.update(plain.tobytes())
    return digest.hexdigest()


def _diabetes() -> Arrays:
    from sklearn.datasets import load_diabetes

    data = load_diabetes(scaled=False)
    return data.data.astype(np.float32), data.target.astype(np.float32)


DATASETS: dict[str, DataSet] = {
    "diabetes": DataSet(
        "diabetes",
        "regression",
        "comes with scikit-learn (Efron et al. 2004; 442 rows, 10 features)",
        "5a6c1a15d4492eedd7a091812a7c17ab4f6b9f7e0cd8d367367128fbb1eac64e",
        _diabetes,
    ),
}
