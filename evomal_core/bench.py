"""The bench of a search: all that evaluations need beside the candidates, in this process or a worker's."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch

from evomal_core.config import SearchConfig
from evomal_core.devices import one_thread, plain_torch, threads_for
from evomal_core.engines import fitness, local_search, promises
from evomal_core.filters import Samples
from evomal_core.lazy import LazyModule
from evomal_core.learners import Learner
from evomal_core.losses import Loss
from evomal_core.population import compiled
from evomal_core.population.networks import NotBatchable, make_stacks

cloudpickle = LazyModule("cloudpickle", "evomal[cluster]")

Tick = Callable[[], None]
UNIT = 5
"""Candidates evaluated together where their rounding could depend on their company, on a CPU."""
UNIT_ON_CUDA = 25


class WorkerError(RuntimeError):
    """A worker could not do its part; the message says why and what helps."""


@dataclass(frozen=True, eq=False)
class Bench:
    """The tasks with their networks, the configuration and the engine: evaluations are a function of these.

    Each method takes candidates and gives one JSON-ready result for each.
    """

    learners: list[Learner]
    trained: list[Learner]
    """The learners that fitness is measured by."""
    config: SearchConfig
    engine: str
    samples: Samples

    def local_search(self, losses: Sequence[Loss], tick: Tick) -> list[Any]:
        """The tuned weights of each loss, and whether they diverged."""
        tuned = local_search(losses, self.learners, self.config, self.engine, tick)
        return [[[w.tolist() for w in each.loss.parameters()], each.diverged] for each in tuned]

    def rejection(self, losses: Sequence[Loss], tick: Tick) -> list[Any]:
        """The rejection protocol's correlation of each loss."""
        task = self.learners[0].task
        return promises(losses, self.samples, self.config, task.kind, self.engine, task.measure)

    def fitness(self, losses: Sequence[Loss], tick: Tick) -> list[Any]:
        """The fitness of each loss."""
        return fitness(losses, self.trained, self.config, self.engine)

    def unit(self, probe: Loss, apart: bool) -> int | None:
        """Largest number of candidates evaluated together; None for all.

        A function of the network, configuration and engine alone where company may change the rounding.

        Args:
            probe: one of the losses.
            apart: whether small units are wanted, to spread them or to stop between them.
        """
        if self.engine != "batched":
            return 1 if apart else None
        if self.learners[0].device.type == "cuda":
            return UNIT_ON_CUDA
        try:
            stacks = make_stacks(self.learners)
        except NotBatchable:
            return UNIT
        # the kernels compute each candidate by itself; meta-steps and training have theirs
        if all(compiled.fits(stack, [probe]) and compiled.fits(stack, [probe], self.config) for stack in stacks):
            return 1 if apart else None
        return UNIT


def packed(bench: Bench) -> tuple[str, bytes]:
    """A bench as bytes, and the name of its content.

    Raises:
        ValueError: a part of it can't be sent to another process.
    """
    try:
        content = cloudpickle.dumps(bench)
    except Exception as error:  # whatever an object's own __reduce__ raises
        task = bench.learners[0].task
        parts = {"model": bench.learners[0].network, "metric": getattr(task, "metric", None), "task": task}
        name = next((name for name, part in parts.items() if not _can_be_packed(part)), "search")
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"the {name} can't be sent to workers ({problem:.120}); let it hold no locks, open files or generators"
        ) from error
    return hashlib.sha256(content).hexdigest(), content


def _can_be_packed(part: Any) -> bool:
    try:
        cloudpickle.dumps(part)
    except Exception:  # as above
        return False
    return True


def versions() -> dict[str, str]:
    """Versions that a worker must have in common with the caller."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"evomal": sys.modules["evomal_core"].__version__, "torch": torch.__version__, "Python": python}


@dataclass(frozen=True)
class Unknown:
    """The answer of a worker that was not sent the bench yet."""

    worker: str


KEPT = 2**30
"""Bytes of benches that a worker keeps beside the one in use."""
_BENCHES: OrderedDict[str, tuple[Bench, int]] = OrderedDict()
"""Benches that this process was sent, and their bytes, by the names of their content, the last used at the end."""
_WORKING = Lock()
"""One evaluation at a time in a process: its random generators belong to all threads."""


def work(wanted: dict[str, str], name: str, content: bytes | None, phase: str, losses: bytes, number: int) -> Any:
    """Do a unit's part of a phase in a worker; `Unknown` where it lacks the bench of that name.

    Args:
        wanted: the caller's versions.
        name: which bench.
        content: the bench, where the worker is known to lack it.
        phase: a method of the bench.
        losses: the candidates.
        number: tells two calls apart.

    Raises:
        WorkerError: the worker has other versions, or can't load what it was sent.
    """
    with _WORKING:
        here = platform.node()
        _check_versions(wanted)
        if name not in _BENCHES and content is None:
            return Unknown(f"{here} {os.getpid()}")
        try:
            if content is not None and name not in _BENCHES:
                _BENCHES[name] = cloudpickle.loads(content), len(content)
            bench, _ = _BENCHES[name]
            candidates = cloudpickle.loads(losses)
        except Exception as error:
            raise WorkerError(
                f"the worker on {here} can't load what it was sent ({type(error).__name__}: {error}); install "
                "there what the model, the metric and the tasks come from"
            ) from None
        _BENCHES.move_to_end(name)
        while len(_BENCHES) > 1 and sum(size for _, size in _BENCHES.values()) > KEPT:
            _BENCHES.popitem(last=False)
        weights = sum(weights.numel() for weights in bench.learners[0].theta.values())
        with plain_torch(bench.learners[0].device), threads_for(weights):
            return getattr(bench, phase)(candidates, lambda: None)


def call(wanted: dict[str, str], content: bytes) -> Any:
    """Call a pickled function with its arguments in a worker, on one thread.

    Raises:
        WorkerError: the worker has other versions.
    """
    with _WORKING, one_thread():
        _check_versions(wanted)
        function, arguments = cloudpickle.loads(content)
        return function(*arguments)


def _check_versions(wanted: dict[str, str]) -> None:
    for package, version in versions().items():
        if version != wanted[package]:
            raise WorkerError(
                f"the worker on {platform.node()} has {package} {version}, the caller {wanted[package]}; "
                "install the same"
            )
