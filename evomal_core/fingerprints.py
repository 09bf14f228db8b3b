"""The fingerprint of everything that a search depends on, by which its checkpoint is known."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from evomal_core.checkpoints import NOT_IN_FINGERPRINT, digest_of
from evomal_core.config import SearchConfig
from evomal_core.derivatives import points
from evomal_core.expression import Expression
from evomal_core.learners import Learner
from evomal_core.primitives import PRIMITIVES, arity, function_names, own_operations
from evomal_core.training import error
from evomal_core.trials import first_batch

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""Addresses of functions in the text of a network, which differ from process to process."""
PROBED_ROWS = 16
"""Rows on which functions of one name are told apart."""


def fingerprint(
    method: str, learners: Sequence[Learner], config: SearchConfig, seed: int, initial: Sequence[Expression]
) -> dict[str, Any]:
    """Fingerprint of a search's inputs: method, seed, configuration, first losses, data and initial networks.

    Functions are known by their names and by their values on a few rows, see `probe`.
    """
    architecture = ADDRESS.sub("", str([e.network for e in learners]))
    state = [array for e in learners for array in e.network.state_dict().values()]
    augment = [e.task.augment for e in learners if e.task.augment]
    weights = [dict(e.task.sample_weight or {}) for e in learners]
    return {
        "method": method,
        "seed": seed,
        "config": config.model_dump(mode="json", exclude=NOT_IN_FINGERPRINT),
        "initial": [str(expression) for expression in initial],
        "kinds": [e.task.kind for e in learners],
        **({"augment": ADDRESS.sub("", str(augment))} if augment else {}),
        **_objectives(learners),
        "tasks": digest_of(array for e in learners for part in e.task.parts().values() for array in part),
        "architecture": hashlib.sha256(architecture.encode()).hexdigest()[:16],
        "networks": digest_of(array for array in state if isinstance(array, Tensor)),
        "sample_weight": digest_of(array for by_part in weights for _, array in sorted(by_part.items())),
        "values": _values(learners, config),
    }


def _values(learners: Sequence[Learner], config: SearchConfig) -> dict[str, list[float]]:
    """Values of the tasks' functions and of the user-defined operations, by name."""
    probes = [probe(e) for e in learners]
    values = {name: [value for found in probes for value in found[name]] for name in probes[0]}
    own = sorted(set(own_operations()) & set(function_names(config.operations)))
    return values | {f"operation {name}": probe_operation(name) for name in own}


def _objectives(learners: Sequence[Learner]) -> dict[str, Any]:
    """The names of the metrics and task losses that are not those of the kind."""
    metrics = [e.task.metric.name for e in learners if e.task.metric is not None]
    losses = [str(getattr(e.task.task_loss, "__name__", e.task.task_loss)) for e in learners if e.task.task_loss]
    named = {"metrics": metrics, "task_losses": [ADDRESS.sub("", loss) for loss in losses]}
    return {name: found for name, found in named.items() if found}


def probe(learner: Learner) -> dict[str, list[float]]:
    """Values of the untrained network, the metric and the task loss on a few rows, which their names do not tell.

    They are computed on the CPU, so that another device, process or number of threads changes them by rounding
    only. A function that fails there or gives other values when it is called again, such as one with a random
    generator of its own, has none; a default one needs none.
    """
    task = learner.task
    small = learner.small(PROBED_ROWS, next(iter(learner.theta.values())).dtype)

    def network() -> Tensor:
        return _summary(first_batch(small)[0].detach())

    def metric() -> Tensor:
        return torch.tensor(error(small.network, small.task, small.task.labelled("train")))

    def task_loss() -> Tensor:
        assert task.task_loss is not None
        output, labels = first_batch(small)
        return task.task_loss(*(array.to(learner.device) for array in (output, *labels)))

    return {
        "network": _steady(network),
        "metric": [] if task.metric is None else _steady(metric),
        "task_loss": [] if task.task_loss is None else _steady(task_loss),
    }


def probe_operation(name: str) -> list[float]:
    """Values of an operation of expressions, see `probe`."""
    return _steady(lambda: _summary(PRIMITIVES[name].torch(*points()[: arity(name)])))


def _summary(values: Tensor) -> Tensor:
    """The mean of finite values, their mean size, and a mean in which their order counts."""
    values = values.flatten().double().nan_to_num(posinf=0.0, neginf=0.0)
    waves = torch.cos(torch.arange(len(values), dtype=values.dtype))
    return torch.stack([values.mean(), values.abs().mean(), (values * waves).mean()])


def _steady(compute: Callable[[], Tensor]) -> list[float]:
    """The values of a function, if it has the same when it is called again."""
    try:
        first, again = (compute().detach().cpu().double().flatten() for _ in range(2))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a user's function raises on a few rows, or on the CPU
        return []
    return list(first.tolist()) if torch.allclose(first, again, equal_nan=True) else []
