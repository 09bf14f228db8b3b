"""Computing runs: search, meta-test, and write a folder that is complete or resumable, never half right."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from evomal_core.devices import check_device, one_thread
from evomal_core.files import digest, write_atomic, write_json
from evomal_core.result import SearchResult
from evomal_core.search import learn_loss
from evomal_paper.experiments.catalogue import experiment
from evomal_paper.experiments.profiles import Problem
from evomal_paper.runs.machine import hardware, versions
from evomal_paper.runs.meta_test import GROUPS, _formula, meta_test
from evomal_paper.runs.run import FILES, Run

log = logging.getLogger("evomal")


def compute(run: Run, device: str = "cpu", progress: bool = True) -> None:
    """Compute a run, going on from its last generation if it was stopped; a complete one is left alone.

    Files: `history.csv` (generations), `test.csv` (errors over meta-testing steps), `front.csv` (best losses
    by complexity), `loss.json`, and last `run.json` with status "complete".

    Raises:
        ValueError: the folder holds a run of another configuration, or the device is not there.
    """
    check_device(device)
    if run.is_complete:
        return
    with one_thread():
        _compute(run, device, progress)


def _compute(run: Run, device: str, progress: bool) -> None:
    begin = time.perf_counter()
    write_json(run.folder / "run.json", {"status": "running", "configuration": run.configuration()})
    problem = experiment(run.experiment).problem(run.sizes, run.seed)
    result = learn_loss(
        problem.train,
        problem.model,
        run.method,
        config=run.sizes.search,
        seed=run.seed,
        checkpoint=run.folder,
        device=device,
        progress=progress,
        compare=False,  # the baseline is a method of its own
    )
    if result.stopped:
        raise KeyboardInterrupt  # half a search is no run
    searched = time.perf_counter()
    # Where no candidate trains, the least bad one is tested all the same: its errors are the run's result.
    loss = result.best_evaluation.loss
    rows = meta_test(loss, problem, run.sizes, run.seed, device, run.folder, progress)
    tested = time.perf_counter()
    _write_csv(run.folder / "history.csv", result.generations)
    _write_csv(run.folder / "test.csv", rows)
    write_atomic(run.folder / "front.csv", result.table().to_csv(index=False))
    loss.save(run.folder / "loss.json")
    seconds = result.seconds | {"meta-test": tested - searched, "last session": tested - begin}
    files = {"files": {name: digest(run.folder / name) for name in FILES}}
    write_json(run.folder / "run.json", _complete_record(run, result, seconds, device) | _tasks(problem) | files)
    (run.folder / "checkpoint.json").unlink(missing_ok=True)
    for snapshot in run.folder.glob("meta-test-*.pt"):
        snapshot.unlink()


def _complete_record(run: Run, result: SearchResult, seconds: dict[str, float], device: str) -> dict[str, Any]:
    loss = result.best_evaluation.loss
    return {
        "status": "complete",
        "configuration": run.configuration(),
        "fitness": result.fitness,
        "outcome": result.best_evaluation.status,
        "loss": _formula(loss),
        "parameters": loss.size,
        "evaluations": len(result.evaluations),
        "engine": result.engine,
        "device": device,
        "seconds": {phase: round(value, 3) for phase, value in seconds.items()},
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(device),
        "versions": versions(),
    }


def _tasks(problem: Problem) -> dict[str, Any]:
    """Which tasks they were: the papers do not say, for example, which classes form which task."""
    return {
        "tasks": dict(
            zip(GROUPS, ([task.name for task in part] for part in (problem.train, problem.test)), strict=True)
        )
    }


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_atomic(path, pd.DataFrame(rows).to_csv(index=False))


def compute_all(runs: Sequence[Run], device: str = "cpu", jobs: int = 1, progress: bool = True) -> None:
    """Compute those of the runs that are not complete, as `computed` does."""
    for _ in computed(runs, device, jobs, progress):
        pass


def computed(runs: Sequence[Run], device: str = "cpu", jobs: int = 1, progress: bool = True) -> Iterator[Run]:
    """Each run as soon as it is complete: first those that are, then the others, computed `jobs` at a time.

    With 0 jobs there is one for each core, on CUDA one; each computes on one thread. All folders are checked
    before the first run starts.

    Raises:
        ValueError: a folder holds a run of another configuration, or the device or `jobs` makes no sense.
    """
    place = check_device(device)
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 0:
        raise ValueError(f"jobs is a whole number of at least 0, got {jobs!r}")
    todo = [run for run in runs if not run.is_complete]
    for name in dict.fromkeys(run.experiment for run in todo):
        if missing := experiment(name).missing():
            raise FileNotFoundError(missing)
    yield from (run for run in runs if run not in todo)
    jobs = min(jobs or (1 if place.type == "cuda" else os.cpu_count()) or 1, len(todo))
    if jobs <= 1:
        for run in todo:
            compute(run, device, progress)
            yield run
        return
    # Started anew, not forked: a fork after torch has started threads can deadlock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker) as pool:
        with _deaf_to_ctrl_c():
            futures = {pool.submit(compute, run, device, False): run for run in todo}
        try:
            bar = tqdm(as_completed(futures), total=len(todo), unit="run", disable=not progress)
            for future in bar:
                future.result()
                done = futures[future]
                bar.set_postfix_str(f"{done.experiment} {done.method} seed {done.seed}")
                yield done
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started within ignore Ctrl-C, from their first instruction on: the parent ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start_worker() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """A killed parent can't end its workers, which would go on computing beside the command that resumes."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
