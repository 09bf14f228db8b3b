"""Checkpoints: a search's state as JSON, bound to the configuration that it belongs to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from evomal_core.config import SearchConfig
from evomal_core.expression import Expression
from evomal_core.files import decode, file_in_the_way, read_json, write_json
from evomal_core.learners import Learner

FORMAT = "evomal-checkpoint"
VERSION = 1
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""What differs from process to process in the text of a network that holds a function."""


class Checkpoint:
    """The file that a search saves its state to after each generation, and resumes from.

    Args:
        folder: where the file lies; None keeps no checkpoint.
        fingerprint: what the state is a function of; a state of another fingerprint is refused.

    Raises:
        ValueError: the folder, or one that it would lie in, is a file.
    """

    def __init__(self, folder: Path | str | None, fingerprint: dict[str, Any]) -> None:
        if folder is not None and (place := file_in_the_way(Path(folder))) is not None:
            raise ValueError(f"checkpoint is a folder, but {str(place)!r} is a file; name another folder")
        self.path = None if folder is None else Path(folder) / "checkpoint.json"
        self.fingerprint = fingerprint

    def load(self) -> Any:
        """The saved state, or None if there is none.

        Raises:
            ValueError: the file belongs to another configuration, or is not a checkpoint.
        """
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
        if difference := first_difference(_completed(record["fingerprint"]), self.fingerprint):
            raise ValueError(
                f"{self.path} belongs to another search: {difference}; choose another folder, or delete this one"
            )
        return decode(record["state"])

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Within it, a state that does not have the expected parts is one clear ValueError."""
        try:
            yield
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.path} is damaged ({type(error).__name__}: {error}); delete it to start the search anew"
            ) from None

    def save(self, state: Any) -> None:
        """Replace the saved state, atomically."""
        if self.path is not None:
            write_json(
                self.path,
                {"format": FORMAT, "version": VERSION, "fingerprint": self.fingerprint, "state": state},
            )


def _completed(found: Any) -> Any:
    """A saved fingerprint with the settings that did not exist when it was written, at their defaults."""
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
        return found
    defaults = SearchConfig().model_dump(mode="json", exclude={"engine"})
    return found | {"config": defaults | found["config"]}


def fingerprint(
    method: str, learners: Sequence[Learner], config: SearchConfig, seed: int, initial: Sequence[Expression]
) -> dict[str, Any]:
    """What a search is a function of: method, seed, configuration, first losses, data and initial networks."""
    architecture = ADDRESS.sub("", str([e.network for e in learners]))
    state = [array for e in learners for array in e.network.state_dict().values()]
    return {
        "method": method,
        "seed": seed,
        # The engine changes only rounding, so that a search may go on with another one.
        "config": config.model_dump(mode="json", exclude={"engine"}),
        "initial": [str(expression) for expression in initial],
        "kinds": [e.task.kind for e in learners],
        **({"augment": str(augment)} if (augment := [e.task.augment for e in learners if e.task.augment]) else {}),
        "tasks": digest_of(array for e in learners for part in e.task.parts().values() for array in part),
        "architecture": hashlib.sha256(architecture.encode()).hexdigest()[:16],
        "networks": digest_of(array for array in state if isinstance(array, Tensor)),
    }


def digest_of(tensors: Iterable[Tensor]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of tensors' types, shapes and values."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().data)  # no copy
    return digest.hexdigest()[:16]


def first_difference(found: Any, wanted: Any, name: str = "") -> str:
    """The first place where two nested records differ, in words; empty if they are equal."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in {**wanted, **found}:
            inner = f"{name}.{key}" if name else key
            if difference := first_difference(found.get(key), wanted.get(key), inner):
                return difference
        return ""
    return "" if found == wanted else f"{name} is {found!r:.60} there and {wanted!r:.60} here"
