"""A search under way, and the fingerprint of everything that it depends on."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from evomal_core.checkpoints import Checkpoint, digest_of
from evomal_core.config import SearchConfig
from evomal_core.expression import Expression
from evomal_core.kinds import Kind
from evomal_core.learners import Learner
from evomal_core.progress import Progress


@dataclass
class Search:
    """One search under way: its problem, configuration, seed, and where its state is kept."""

    method: str
    learners: list[Learner]
    config: SearchConfig
    seed: int
    checkpoint: Checkpoint
    progress: Progress
    initial: list[Expression] = field(default_factory=list)
    engine: str = "none"
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """The kind of the tasks."""
        return self.learners[0].task.kind

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the wall-clock seconds spent within to a phase."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - begin


ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""What differs from process to process in the text of a network that holds a function."""


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
