"""Checkpoints: a search's state as JSON, bound to the configuration that it belongs to."""

from __future__ import annotations

import copy
import hashlib
import io
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomal_core.config import SearchConfig
from evomal_core.files import decode, file_in_the_way, read_json, write_atomic, write_json
from evomal_core.locks import locked

FORMAT = "evomal-checkpoint"
VERSION = 2
NOT_IN_FINGERPRINT = {"engine", "generations"}
"""Settings that a search may go on with another value of: an engine changes only rounding, and the first
generations do not depend on how many follow."""
LATER = ("sample_weight", "values")
"""Parts of a fingerprint that older checkpoints lack; they count as equal."""
CLOSE = 1e-4
"""Greatest difference of a fingerprint's values, relative to the largest of them, that rounding may make."""


class Checkpoint:
    """The file that a search saves its state to after each generation, and resumes from.

    Args:
        folder: where the file lies; None keeps no checkpoint.
        fingerprint: what the state is a function of; a state of another fingerprint is refused.

    Raises:
        ValueError: the folder has no name, or it, or one that it would lie in, is a file.
    """

    def __init__(self, folder: Path | str | None, fingerprint: dict[str, Any]) -> None:
        if not isinstance(folder, str | Path | None):
            raise ValueError(f"checkpoint is the name of a folder, such as 'runs/mine', got {folder!r:.40}")
        if isinstance(folder, str) and not folder.strip():
            raise ValueError(
                f"checkpoint={folder!r} names no folder; name one, such as 'runs/mine', or '.' for the current one"
            )
        if folder is not None and (place := file_in_the_way(Path(folder))) is not None:
            raise ValueError(f"checkpoint is a folder, but {str(place)!r} is a file; name another folder")
        self.path = None if folder is None else Path(folder) / "checkpoint.json"
        self.fingerprint = fingerprint
        self.state: Any = None
        """The state that was saved last, whether or not there is a file."""

    def extended(self, state: Any, generations: int) -> Checkpoint:
        """The checkpoint of an extension to so many generations, which goes on from a state of the search.

        It has a file of its own, so that the search and its extension can both be resumed, by the same calls.
        """
        other = copy.copy(self)
        other.path = None if self.path is None else self.path.with_name(f"extended-{generations}.json")
        other.state = None if other.path is not None and other.path.exists() else state
        return other

    def load(self) -> Any:
        """The saved state, or None if there is none.

        Raises:
            ValueError: the file belongs to another configuration, or is not a checkpoint.
        """
        if self.state is not None:
            return self.state
        if self.path is None or not self.path.exists():
            return None
        try:
            record = read_json(self.path)
        except ValueError as error:
            raise ValueError(f"{error}; delete it to start the search anew") from None
        if (
            not isinstance(record, dict)
            or (record.get("format"), record.get("version")) != (FORMAT, VERSION)
            or not {"fingerprint", "state"} <= record.keys()
        ):
            raise ValueError(
                f"{self.path} is not a checkpoint of this version of EvoMAL; move it away to start anew"
            )
        if difference := first_difference(self._completed(record["fingerprint"]), self.fingerprint):
            raise ValueError(
                f"{self.path} belongs to another search: {difference}; choose another folder, or delete this one "
                "(to start from that search's losses with other settings, give initial=result)"
            )
        self.state = decode(record["state"])
        return self.state

    @contextmanager
    def held(self) -> Iterator[None]:
        """Context manager: lock the checkpoint, waiting while another process holds it."""
        if self.path is None:
            yield
            return
        with locked(self.path.with_suffix(".lock"), f"checkpoint {self.path.parent}"):
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Context manager: raise one ValueError if the state lacks an expected part."""
        try:
            yield
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.path} is damaged ({type(error).__name__}: {error}); delete it to start the search anew"
            ) from None

    def _completed(self, found: Any) -> Any:
        """A saved fingerprint with what did not exist when it was written: settings have their defaults."""
        if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
            return found
        config = SearchConfig().model_dump(mode="json") | found["config"]
        later = {name: self.fingerprint[name] for name in LATER if name in self.fingerprint}
        return later | found | {"config": {k: v for k, v in config.items() if k not in NOT_IN_FINGERPRINT}}

    def save(self, state: Any) -> None:
        """Replace the saved state, atomically."""
        self.state = state
        if self.path is not None:
            write_json(
                self.path,
                {"format": FORMAT, "version": VERSION, "fingerprint": self.fingerprint, "state": state},
            )


def digest_of(tensors: Iterable[Tensor]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of tensors' types, shapes and values."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().data)  # no copy
    return digest.hexdigest()[:16]


def first_difference(found: Any, wanted: Any, name: str = "") -> str:
    """The first place where two nested records differ, in words; empty if they are equal.

    The values of functions, under the name "values", may differ by rounding.
    """
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in {**wanted, **found}:
            inner = f"{name}.{key}" if name else key
            if difference := first_difference(found.get(key), wanted.get(key), inner):
                return difference
        return ""
    if found == wanted or (name.startswith("values.") and _close(found, wanted)):
        return ""
    if name.startswith("values."):
        function = name.removeprefix("values.")
        return f"{function} gives {found!r:.60} there and {wanted!r:.60} here for the same input"
    return f"{name} is {found!r:.60} there and {wanted!r:.60} here"


def _close(found: Any, wanted: Any) -> bool:
    """Whether two lists of numbers, of which JSON may hold infinities as text, are the same but for rounding."""
    try:
        first, second = (torch.tensor([float(value) for value in values]).double() for values in (found, wanted))
    except (TypeError, ValueError):
        return False
    if len(first) != len(second):
        return False
    size = second.abs().nan_to_num(posinf=0.0).max().item() if len(second) else 0.0
    return torch.allclose(first, second, rtol=CLOSE, atol=CLOSE * size, equal_nan=True)


class Snapshot:
    """The file that a training saves its state to about once a minute, and resumes from.

    Args:
        path: where the file lies.
        subject: what the state belongs to; a state of another subject is not taken up.
    """

    SECONDS = 60.0
    """Between two saves; what a kill loses."""

    def __init__(self, path: Path, subject: str) -> None:
        self.path, self.subject = path, subject
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The saved state, or None if there is none of this subject.

        Raises:
            ValueError: the file is no snapshot, or is damaged.
        """
        self._saved = time.monotonic()
        if not self.path.exists():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            return state["state"] if state["subject"] == self.subject else None
        except Exception as error:  # whatever a damaged file makes PyTorch raise
            problem = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{self.path} is damaged ({problem:.80}); delete it to train anew") from None

    @property
    def is_due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._saved >= self.SECONDS

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state, atomically. It holds tensors, numbers, strings, lists and dictionaries."""
        content = io.BytesIO()
        torch.save({"subject": self.subject, "state": state}, content)
        write_atomic(self.path, content.getvalue())
        self._saved = time.monotonic()
