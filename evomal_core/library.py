"""Losses by file, by name and by kind of task. A file holds data only, so that loading one can't run code."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch

from evomal_core.expression import Expression
from evomal_core.files import read_json
from evomal_core.kinds import KINDS
from evomal_core.losses import FORMAT, LARGEST, VERSION, LearnedLoss, Loss, TaskLoss
from evomal_core.parametric import NeuralLoss, TaylorLoss
from evomal_core.primitives import PRIMITIVES


def loss_from_record(record: Any, source: str = "the record") -> Loss:
    """The loss that `Loss.record` described.

    Raises:
        ValueError: the record is of another format or a newer version, or its parts do not fit.
    """
    try:
        return _build(record)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{source} is not a saved loss: missing or wrong {error}") from None
    except ValueError as error:
        raise ValueError(f"{source} is not a usable loss: {error}") from None


def _build(record: dict[str, Any]) -> Loss:
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f'it has no "format": "{FORMAT}"')
    version = record["version"]
    if type(version) is not int or not 1 <= version <= VERSION:
        raise ValueError(f"its format version is {version!r}, this EvoMAL reads up to {VERSION}; upgrade evomal")
    kind, family, weights = record["kind"], record["family"], record["weights"]
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r:.40}; known are {', '.join(KINDS)}")
    if not isinstance(weights, list) or not all(
        type(weight) in (int, float) and abs(weight) <= LARGEST for weight in weights
    ):
        raise ValueError("its weights are not a list of finite numbers within float32")
    options = record.get("options", {})
    if not isinstance(options, dict):
        raise ValueError(f"options are by name, got {options!r:.40}")
    loss = _of_family(family, kind, record, weights)
    return loss.replace(**options) if options else loss


def _of_family(family: Any, kind: Any, record: dict[str, Any], weights: list[float]) -> Loss:
    match family:
        case "symbolic":
            softplus = record["softplus"]
            if not isinstance(softplus, bool):
                raise ValueError(f"softplus is true or false, got {softplus!r:.40}")
            _check_operations(record.get("operations", []))
            phi = torch.tensor(weights, dtype=torch.float32)
            return LearnedLoss(Expression.parse(record["expression"]), kind, phi=phi, softplus=softplus)
        case "taylor":
            return TaylorLoss(kind, theta=weights, roles=record.get("roles", "correct"))
        case "neural":
            return _neural(kind, record["hidden"], weights)
        case "task":
            if weights:
                raise ValueError(f"a task loss has no weights, got {len(weights)}")
            return TaskLoss(kind)
    raise ValueError(f"unknown family {family!r:.40}; known are symbolic, taylor, neural, task")


def _check_operations(needed: Any) -> None:
    """Refuse a loss with user-defined operations that are not registered here."""
    if not isinstance(needed, list) or not all(isinstance(name, str) for name in needed):
        raise ValueError(f"operations is a list of names, got {needed!r:.40}")
    if missing := [name for name in needed if name not in PRIMITIVES]:
        raise ValueError(
            f"it needs the operation {missing[0]!r:.40}, which is not registered; define it first, by "
            "evomal_core.primitives.register"
        )


def _neural(kind: Any, hidden: Any, weights: list[float]) -> NeuralLoss:
    if type(hidden) is not int or not 1 <= hidden <= 1000:
        raise ValueError(f"hidden is a whole number from 1 to 1000, got {hidden!r:.40}")
    expected = hidden * (hidden + 3)
    if len(weights) != expected:
        raise ValueError(f"a network with {hidden} hidden units has {expected} weights, got {len(weights)}")
    loss = NeuralLoss(kind, hidden=hidden)
    torch.nn.utils.vector_to_parameters(torch.tensor(weights, dtype=torch.float32), loss.parameters())
    return loss


def load_loss(path: Path | str) -> Loss:
    """Read a saved loss, or one of the zoo by its name, such as `sine/evomal`.

    Its weights are fixed (`loss.requires_grad_()` makes them trainable), in float32. A file goes before a name.

    Raises:
        FileNotFoundError: there is no such file, and no such name.
        ValueError: it is a folder or no path, or the file is truncated, from a newer version, or not a usable
            loss; nothing in it is executed.
    """

    name = str(path) if isinstance(path, str | Path) else ""
    if not name or (Path(name).is_dir() and name not in names()):
        given = f"{name!r}, a folder" if name else f"{path!r:.60}"
        raise ValueError(
            f"give the file of a saved loss, such as 'loss.json', or a name of the zoo, such as 'sine/evomal'; "
            f"got {given}"
        )
    if not Path(name).is_file() and Path(name).suffix != ".json":
        path = path_of(name)
    return loss_from_record(read_json(path), str(path)).requires_grad_(False)


FOLDER = Path(__file__).with_name("zoo_losses")
"""The zoo as it is installed; in a checkout `results/zoo` is a link to it."""


def names() -> list[str]:
    """The names of all losses in the zoo, such as `sine/evomal`."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob("*/*.json"))


def path_of(name: str) -> Path:
    """The file of a loss in the zoo.

    Raises:
        FileNotFoundError: there is no loss of that name; the message names the nearest.
    """
    if name in names():
        return FOLDER / f"{name}.json"
    known = names()
    near = difflib.get_close_matches(name, known, 3, 0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known are {', '.join(known) or 'none'}"
    raise FileNotFoundError(f"no such file: {name}, and no loss of the zoo has that name; {hint}")
