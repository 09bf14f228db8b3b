"""Evaluation of a population in units of candidates: here, or by the workers of a `concurrent.futures.Executor`.

Results are the same bit by bit, wherever and in whatever order the units are evaluated. Units that are done are
kept in the checkpoint, so that a search that stops in the middle of a generation goes on from there.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from itertools import pairwise
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import torch

from evomal_core.bench import (
    Answer,
    WorkerError,
    asked,
    call,
    forget,
    in_one_line,
    this_process,
    versions,
    work,
)
from evomal_core.config import SearchConfig
from evomal_core.deadlines import OutOfTimeError
from evomal_core.learners import Learner
from evomal_core.losses import Loss
from evomal_core.sending import packed
from evomal_core.session import Search
from evomal_core.unroll import Tuned

log = logging.getLogger("evomal")

Tick = Callable[[], None]
Units = Mapping[int, Sequence[Loss]]
SAVED_EVERY = 60.0
"""Seconds between two saves within a generation."""
SILENCE = 600.0
"""Seconds without an answer, or 20 times the longest time between two so far if that is more, after which all
workers are asked for what is missing, and after as many more the search ends."""
FIRST_SILENCE = 3600.0
"""The same as long as it is not known how long a unit takes."""
NEXT_SILENCE = 30.0
"""Seconds after which all are asked, once it is known that a worker hangs: it may be given units of each phase."""
_NUMBERS = itertools.count()


class Bench(Protocol):
    """Evaluates candidates: `engines.Bench`. Phases are methods of it, by name."""

    @property
    def learners(self) -> list[Learner]: ...  # noqa: D102

    @property
    def config(self) -> SearchConfig: ...  # noqa: D102

    def unit(self, probe: Loss, apart: bool) -> int | None: ...  # noqa: D102


class Here:
    """Evaluates units in this process, one after the other."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def results(self, phase: str, units: Units, tick: Tick, over: Callable[[], bool]) -> Iterator[tuple[int, Any]]:
        """Yield each unit with its results as it is done, until all are done or `over()`."""
        for number, losses in units.items():
            if over():
                return
            yield number, getattr(self.bench, phase)(losses, tick)


class Pool:
    """The workers of an executor. One that lacks the bench says so, and the bench is sent with that unit."""

    def __init__(self, bench: Bench, executor: Executor) -> None:
        self.executor, self.meta_steps = executor, max(bench.config.meta_steps, 1)
        self.name, self.content = sendable(bench)
        self.longest: float | None = None
        """The longest time in seconds between two answers so far."""
        self.hangs = False
        """Whether a worker hung before."""
        self.addresses: dict[str, None] = {}
        """Dask workers that have answered so far."""
        self.sent: set[str] = set()
        """Workers for which the bench was sent, though an executor may have given it to another."""

    def patience(self, least: float | None = None) -> float:
        """Seconds without an answer after which workers count as lost."""
        if self.longest is None:
            return FIRST_SILENCE
        return max(SILENCE if least is None else least, 20 * self.longest)

    def results(self, phase: str, units: Units, tick: Tick, over: Callable[[], bool]) -> Iterator[tuple[int, Any]]:
        """Yield each unit with its results as it is done, until all are done or `over()`.

        Raises:
            WorkerError: the workers are gone, or silent for too long, or have other versions.
        """
        unanswered = _Asked(self, phase, units)
        try:
            while unanswered.missing and not over():
                number, found = unanswered.answer()
                if found is not None:
                    for _ in range(len(found) * self.meta_steps if phase == "local_search" else 0):
                        tick()
                    yield number, found
        finally:
            for future in unanswered.waiting:
                future.cancel()
            forget(unanswered.calls, self.patience())


class _Asked:
    """The units of one phase that were submitted to an executor.

    Attributes:
        missing: the units that are not done.
        waiting: calls without an answer; a unit may have two of them.
        calls: the names of all calls.
    """

    def __init__(self, pool: Pool, phase: str, units: Units) -> None:
        self.pool, self.phase, self.units = pool, phase, units
        self.missing = set(units)
        self.waiting: dict[Future, int] = {}
        self.calls: list[str] = []
        self.answers: SimpleQueue[Future] = SimpleQueue()
        self.carrying: set[Future] = set()
        self.parked: list[int] = []
        self.heard = time.monotonic()
        self.again = False
        for number in units:
            self._ask(number)

    def _ask(self, number: int, bench: bool = False, address: str = "") -> Future:
        """Submit a unit, perhaps with the bench, and to a Dask worker as long as it is there."""
        pool, losses = self.pool, packed(self.units[number])
        # a name of its own: Dask answers two calls with the same arguments once
        self.calls.append(asked(f"{this_process()} {next(_NUMBERS)}"))
        given = versions(), pool.name, pool.content if bench else None, self.phase, losses, self.calls[-1]
        where = {"workers": [address], "allow_other_workers": True} if address else {}
        future = _submitted(pool.executor, work, *given, **where)
        self.waiting[future] = number
        future.add_done_callback(self.answers.put)
        return future

    def answer(self) -> tuple[int, Any]:
        """Wait for a unit; return its number and results, or None for these if a second passes without any."""
        try:
            future = self.answers.get(timeout=1.0)
        except Empty:
            self._check_silence()
            return -1, None
        now = time.monotonic()
        silent, self.heard = now - self.heard, now
        number, answer = self.waiting.pop(future), answer_of(future)
        self.carrying.discard(future)
        if answer.address:
            self.pool.addresses[answer.address] = None
        found = None
        if number in self.missing:  # and was not asked for twice
            if answer.found is None:
                self._send(number, answer)
            else:
                found = answer.found
                self.pool.longest = max(self.pool.longest or 0.0, silent)
                self.missing.discard(number)
        while self.parked and not self.carrying:
            self._ask(self.parked.pop())
        return number, found

    def _send(self, number: int, lacking: Answer) -> None:
        """Send the bench with a unit, unless it is on its way to that worker."""
        if lacking.worker in self.pool.sent and self.carrying:
            self.parked.append(number)
        else:
            self.pool.sent.add(lacking.worker)
            self.carrying.add(self._ask(number, bench=True, address=lacking.address))

    def _check_silence(self) -> None:
        """Ask every worker for what is missing where none answers; give up where that is of no use."""
        silent = time.monotonic() - self.heard
        if silent <= self.pool.patience(NEXT_SILENCE if self.pool.hangs and not self.again else None):
            return
        if self.again:
            raise WorkerError(f"no worker has answered for {silent:.0f} s; look for those that hang")
        log.warning("no worker has answered for %.0f s; what they were asked for is given to others", silent)
        self.again, self.heard, self.pool.hangs = True, time.monotonic(), True
        # without addresses, an executor may give a unit to the very worker that hangs, but hardly both times
        for number, address in itertools.product(sorted(self.missing), self.pool.addresses or ("", "")):
            self._ask(number, address=address)


def sendable(bench: Bench) -> tuple[str, bytes]:
    """The name of a bench's content, and the content.

    Raises:
        ValueError: a part of it can't be sent to another process.
    """
    try:
        content = packed(bench)
    except Exception as error:  # whatever an object's own __reduce__ raises
        tasks = [learner.task for learner in bench.learners]
        # the model last, as it is sent with what draws its weights anew, which holds the task
        parts = {"metric": [task.metric for task in tasks], "task loss": [task.task_loss for task in tasks]}
        name = next(
            (name for name, part in (parts | {"task": tasks}).items() if not _can_be_packed(part)), "model"
        )
        raise ValueError(
            f"the {name} can't be sent to workers ({in_one_line(error)}); let it hold no locks, open files or "
            "generators"
        ) from error
    return hashlib.sha256(content).hexdigest(), content


def _can_be_packed(part: Any) -> bool:
    try:
        packed(part)
    except Exception:  # as above
        return False
    return True


def called(executor: Executor, function: Callable[..., Any], *arguments: Any) -> Any:
    """The value of a function, computed by one of an executor's workers; if that one is silent, by another, too.

    Raises:
        WorkerError: the workers are gone, or have other versions.
    """
    content = packed((function, arguments))
    waiting: set[Future] = set()
    while True:
        waiting.add(_submitted(executor, call, versions(), content, f"{this_process()} {next(_NUMBERS)}"))
        done, _ = wait(waiting, timeout=FIRST_SILENCE, return_when=FIRST_COMPLETED)
        if done:
            for future in waiting - done:
                future.cancel()
            return answer_of(done.pop())
        log.warning(
            "no worker has answered for %.0f s; another one is asked, too; look for those that hang", FIRST_SILENCE
        )


def _submitted(executor: Executor, function: Callable[..., Any], *arguments: Any, **where: Any) -> Future:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
            return executor.submit(function, *arguments, **where)
    except Exception as error:  # it was shut down, or its workers are gone
        raise _lost(error) from error


def answer_of(future: Future) -> Any:
    """The result of a call.

    Raises:
        WorkerError: the workers are gone, or can't do it.
    """
    try:
        return future.result()
    except WorkerError:
        raise
    except CancelledError as error:
        raise WorkerError(
            "the executor's workers are gone (calls were cancelled: is its scheduler there?)"
        ) from error
    except BrokenExecutor as error:
        raise _lost(error) from error
    except Exception as error:
        name = getattr(error, "ename", type(error).__name__)  # ipyparallel tells a worker's error by its name
        if name == "WorkerError":
            raise WorkerError(str(getattr(error, "evalue", error))) from None
        if name in ("ImportError", "ModuleNotFoundError") or "deserializ" in str(error):
            raise WorkerError(
                f"a worker or the scheduler can't load this package ({in_one_line(error.__cause__ or error)}); "
                "install there what is here"
            ) from error
        if name == "EngineError" or type(error).__module__.split(".")[0] in ("distributed", "dask"):
            raise _lost(error) from error
        raise


def _lost(error: BaseException) -> WorkerError:
    return WorkerError(f"the executor's workers are gone ({in_one_line(error)})")


class Workers:
    """Local search, rejection and fitness of a generation's candidates, in units, with those done kept.

    Args:
        search: its executor, deadline and checkpoint are used; its engine is set.
        probe: one of the losses.
        empty: the search's state before its first generation.
        unrolled: whether the method unrolls training.
    """

    def __init__(self, search: Search, probe: Loss, empty: dict[str, Any], *, unrolled: bool = False) -> None:
        self.search, self.empty = search, empty
        bench = search.set_up(
            search.learners, search.trained, search.config, unrolled=unrolled, say=search.progress.say
        )
        self.samples = bench.samples
        """Predictions of the untrained networks."""
        search.engine = bench.engine
        apart = search.executor is not None or search.deadline < float("inf")
        self.unit = bench.unit(probe, apart)
        self.source: Here | Pool = Here(bench) if search.executor is None else Pool(bench, search.executor)
        self.begin({})

    def begin(self, done: dict[str, Any]) -> None:
        """Begin a generation; `done` holds the results of its finished candidates by phase and place."""
        self.done = {phase: dict(units) for phase, units in done.items()}
        self.phases = 0
        self.saved = time.monotonic()

    def local_search(self, losses: Sequence[Loss], tick: Tick = lambda: None) -> list[Tuned]:
        """Each loss after local search; those given stay as they are."""
        found = self._each("local_search", losses, tick)
        return [
            Tuned(_with_weights(loss, weights), diverged)
            for loss, (weights, diverged) in zip(losses, found, strict=True)
        ]

    def rejection(self, losses: Sequence[Loss]) -> list[float]:
        """The rejection protocol's correlation of each loss."""
        return self._each("rejection", losses)

    def fitness(self, losses: Sequence[Loss]) -> list[float]:
        """The fitness of each loss."""
        return self._each("fitness", losses)

    def _each(self, phase: str, losses: Sequence[Loss], tick: Tick = lambda: None) -> list[Any]:
        self.phases += 1
        done = self.done.setdefault(f"{self.phases} {phase}", {})
        units = [[place for place in unit if str(place) not in done] for unit in _split(len(losses), self.unit)]
        todo = {number: [losses[place] for place in unit] for number, unit in enumerate(units) if unit}
        try:
            for number, found in self.source.results(phase, todo, tick, lambda: self.search.out_of_time):
                done.update(zip(map(str, units[number]), found, strict=True))
                self.search.progressed = True
                if time.monotonic() - self.saved >= SAVED_EVERY:
                    self._save()
        except WorkerError as error:
            self._save()
            kept = f"; what was done is in {self.search.checkpoint.path}" if self.search.checkpoint.path else ""
            raise WorkerError(f"{error}{kept}; call again with an executor that works") from error
        if len(done) < len(losses):
            self._save()
            raise OutOfTimeError
        return [done[str(place)] for place in range(len(losses))]

    def _save(self) -> None:
        state = self.search.checkpoint.state or self.empty
        self.search.checkpoint.save(state | {"unfinished": self.done})
        self.saved = time.monotonic()


def _split(candidates: int, size: int | None) -> list[range]:
    """Units of about equally many candidates: one alone may be rounded otherwise than among others."""
    count = math.ceil(candidates / size) if size else min(candidates, 1)
    ends = [candidates * number // max(count, 1) for number in range(count + 1)]
    return [range(start, end) for start, end in pairwise(ends)]


def _with_weights(loss: Loss, weights: Sequence[Any]) -> Loss:
    other = copy.deepcopy(loss)
    with torch.no_grad():
        for parameter, values in zip(other.parameters(), weights, strict=True):
            parameter.copy_(torch.tensor(values, dtype=parameter.dtype).reshape(parameter.shape))
    return other
