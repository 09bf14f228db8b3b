"""A search under way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence, Sized
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from evomal_core.checkpoints import Checkpoint
from evomal_core.config import SearchConfig
from evomal_core.deadlines import OutOfTimeError
from evomal_core.expression import Expression
from evomal_core.kinds import Kind
from evomal_core.learners import Learner, Problem
from evomal_core.losses import LearnedLoss
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
    set_up: Callable[..., Any]
    """Chooses the engine and makes the bench: `engines.set_up`."""
    initial: list[Expression]
    known: dict[Expression, LearnedLoss]
    """The known losses that the first generation holds, with their weights."""
    trained: list[Learner]
    """The tasks with each of the initial weights that fitness is measured from."""
    problem: Problem
    engine: str = "none"
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by phase, see `timed`."""
    timing: bool = False
    """Whether a phase is being timed."""
    deadline: float = math.inf
    """The value of `time.monotonic()` after which it stops."""
    choice_deadline: float = math.inf
    """The value of `time.monotonic()` after which the choice among finalists is given up."""
    progressed: bool = False
    """Whether candidates were evaluated since it was begun or gone on with."""
    patience: int | None = None
    """Generations without a better loss after which it stops."""
    executor: Executor | None = None
    """Whose workers evaluate candidates; None for this process."""
    stopped: str = ""
    """Why it stopped before its last generation, if it did."""

    @property
    def kind(self) -> Kind:
        """The kind of the tasks."""
        return self.learners[0].task.kind

    @property
    def out_of_time(self) -> bool:
        """Whether the deadline has passed and a candidate was evaluated: repeated calls then finish the search."""
        return self.progressed and time.monotonic() >= self.deadline

    def is_over(self, rows: Sequence[dict[str, Any]]) -> bool:
        """Whether it ends after these generations; sets `stopped` where they are not all.

        Raises:
            ValueError: there are more generations than were asked for.
        """
        if len(rows) > self.config.generations:
            raise ValueError(
                f"{self.checkpoint.path} holds {len(rows)} generations, more than generations="
                f"{self.config.generations}; ask for as many, or choose another folder"
            )
        if len(rows) == self.config.generations:
            return True
        best = [row["best_fitness"] for row in rows]
        if self.patience is not None and len(best) > self.patience and best[-1] >= best[-1 - self.patience]:
            self.stopped = f"no better loss in {self.patience} generations"
        elif self.out_of_time:
            self.stopped = OUT_OF_TIME
        return bool(self.stopped)

    @contextmanager
    def interruptible(self, found: Sized) -> Iterator[None]:
        """Context manager: end at a passed deadline or at Ctrl-C, which is raised if nothing was found yet."""
        try:
            yield
        except OutOfTimeError:
            self.stopped = OUT_OF_TIME
        except KeyboardInterrupt:
            if not len(found):
                raise
            self.stopped = INTERRUPTED

    @contextmanager
    def overtime(self) -> Iterator[None]:
        """Context manager: suspend the deadline."""
        deadline, self.deadline = self.deadline, math.inf
        try:
            yield
        finally:
            self.deadline = deadline

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Context manager: add the wall-clock seconds spent to a phase, and CPU seconds to "cpu".

        A phase within another one adds to its own seconds only. An executor's workers have CPU seconds of their
        own, so that none are counted with one.
        """
        begin, cpu = time.perf_counter(), time.process_time()
        outer = not self.timing and self.executor is None
        self.timing = self.timing or outer
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - begin
            if outer:
                self.timing = False
                self.seconds["cpu"] = self.seconds.get("cpu", 0.0) + time.process_time() - cpu


OUT_OF_TIME = "time limit"
INTERRUPTED = "Ctrl-C"
