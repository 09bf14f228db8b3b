"""Evaluation of a population in units of candidates: here, or by the workers of a `concurrent.futures.Executor`.

What is found is the same, bit by bit, whoever evaluates the units and in whatever order. Units that are done are
kept in the checkpoint, so that a search that stops in the middle of a generation goes on from there.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from itertools import pairwise
from typing import Any, Protocol

import torch

from evomal_core.bench import Bench, Tick, Unknown, WorkerError, cloudpickle, packed, versions, work
from evomal_core.losses import Loss
from evomal_core.session import OutOfTimeError, Search
from evomal_core.unroll import Tuned

Units = Mapping[int, Sequence[Loss]]
SAVED_EVERY = 60.0
"""Seconds between two saves within a generation."""
SILENCE = 600.0
"""Seconds, or 20 times as long as a unit took so far if that is more, after which silent workers are given up."""


class Source(Protocol):
    """Whoever evaluates units."""

    def results(self, phase: str, units: Units, tick: Tick, over: Callable[[], bool]) -> Iterator[tuple[int, Any]]:
        """Units as they are done, until all are or `over()`."""
        ...


class Here:
    """This process, one unit after the other."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def results(self, phase: str, units: Units, tick: Tick, over: Callable[[], bool]) -> Iterator[tuple[int, Any]]:
        """Units as they are done, until all are or `over()`."""
        for number, losses in units.items():
            if over():
                return
            yield number, getattr(self.bench, phase)(losses, tick)


class Pool:
    """The workers of an executor. One that lacks the bench says so, and the bench is sent with that unit."""

    def __init__(self, bench: Bench, executor: Executor) -> None:
        self.executor, self.meta_steps = executor, max(bench.config.meta_steps, 1)
        self.name, self.content = packed(bench)
        self.longest = 0.0
        self.sent: set[str] = set()
        """Workers for which the bench was sent, though an executor may have given it to another."""

    def _submit(self, phase: str, losses: Sequence[Loss], content: bytes | None = None) -> Future:
        try:
            return self.executor.submit(work, versions(), self.name, content, phase, cloudpickle.dumps(losses))
        except RuntimeError as error:  # it was shut down, or its workers are gone
            raise _lost(error) from error

    def results(self, phase: str, units: Units, tick: Tick, over: Callable[[], bool]) -> Iterator[tuple[int, Any]]:
        """Units as they are done, until all are or `over()`.

        Raises:
            WorkerError: the workers are gone, or silent for too long, or have other versions.
        """
        waiting = {self._submit(phase, losses): number for number, losses in units.items()}
        carrying: set[Future] = set()
        parked: list[int] = []
        begin = heard = time.monotonic()
        try:
            while waiting and not over():
                ready, _ = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
                now = time.monotonic()
                if ready:
                    heard = now
                elif now - heard > max(SILENCE, 20 * self.longest):
                    raise WorkerError(f"no worker has answered for {now - heard:.0f} s; look for those that hang")
                for future in ready:
                    number, found = waiting.pop(future), _answer(future)
                    carrying.discard(future)
                    if not isinstance(found, Unknown):
                        self.longest = max(self.longest, now - begin)
                        for _ in range(len(found) * self.meta_steps if phase == "local_search" else 0):
                            tick()
                        yield number, found
                    elif found.worker in self.sent and carrying:
                        parked.append(number)
                    else:
                        self.sent.add(found.worker)
                        carrying.add(sending := self._submit(phase, units[number], self.content))
                        waiting[sending] = number
                if not carrying:
                    waiting |= {self._submit(phase, units[number]): number for number in parked}
                    parked.clear()
        finally:
            running = [future for future in waiting if not future.cancel()]
            if isinstance(self.executor, ThreadPoolExecutor):
                wait(running)  # this thread is about to compute in the same process


def _answer(future: Future) -> Any:
    try:
        return future.result()
    except WorkerError:
        raise
    except (BrokenExecutor, CancelledError) as error:
        raise _lost(error) from error
    except Exception as error:
        if type(error).__module__.split(".")[0] in ("distributed", "dask"):
            raise _lost(error) from error
        raise


def _lost(error: BaseException) -> WorkerError:
    problem = str(error).splitlines()[0] if str(error) else type(error).__name__
    return WorkerError(f"the executor's workers are gone ({type(error).__name__}: {problem:.120})")


class Workers:
    """Local search, rejection and fitness of a generation's candidates, in units, with those done kept.

    Args:
        search: its executor, deadline and checkpoint are used.
        bench: what evaluations depend on.
        probe: one of the losses.
        empty: the search's state before its first generation.
    """

    def __init__(self, search: Search, bench: Bench, probe: Loss, empty: dict[str, Any]) -> None:
        self.search, self.empty = search, empty
        apart = search.executor is not None or search.deadline < float("inf")
        self.unit = bench.unit(probe, apart)
        self.source: Source = Here(bench) if search.executor is None else Pool(bench, search.executor)
        self.begin({})

    def begin(self, done: dict[str, Any]) -> None:
        """Begin a generation of which some candidates may be done: results by phase and place in it."""
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
