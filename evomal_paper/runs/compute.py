"""Computing runs: search, meta-test, and put the run into its pack; a stopped one goes on where it was."""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial

import pandas as pd
import torch
from tqdm.auto import tqdm

from evomal_core.devices import check_device, one_thread
from evomal_core.files import write_json
from evomal_core.locks import locked
from evomal_core.search import learn_loss
from evomal_core.workers import called
from evomal_paper.experiments.catalogue import experiment
from evomal_paper.runs.cluster import check_cluster, executor_of, scheduler
from evomal_paper.runs.machine import hardware, versions
from evomal_paper.runs.meta_test import GROUPS, formula_of, meta_test
from evomal_paper.runs.packed import Finished, write_work
from evomal_paper.runs.packing import fold_in, lock_of
from evomal_paper.runs.run import Run

log = logging.getLogger("evomal")


def compute(
    run: Run, device: str = "cpu", progress: bool = True, wait: bool = True, scheduler_address: str = ""
) -> str:
    """Compute a run into its pack, from its last generation if it was stopped; a complete one is left alone.

    Args:
        run, device, progress: see `computed`.
        wait: wait for another process that computes the run, or leave it to that.
        scheduler_address: of Dask, whose workers evaluate the candidates and meta-test; none for this process.

    Returns:
        "" if the run is complete, else the process that computes it.

    Raises:
        ValueError: the run on disk is of another configuration, or the device is not there.
    """
    check_device(device)
    if run.is_complete:
        return ""
    with locked(lock_of(run), f"run {run}", wait) as owner:
        if owner:
            return owner
        if not run.is_finished:
            with one_thread(), executor_of(scheduler_address) as executor:
                write_work(run.work, _search_and_test(run, device, progress, executor))
        if run.work.exists():
            fold_in(run)
    return ""


def _search_and_test(run: Run, device: str, progress: bool, executor: Executor | None) -> Finished:
    begin = time.perf_counter()
    write_json(run.work / "run.json", {"status": "running", "configuration": run.configuration()})
    problem = experiment(run.experiment).problem(run.sizes, run.seed)
    result = learn_loss(
        problem.train,
        problem.model,
        run.method,
        config=run.sizes.search,
        seed=run.seed,
        checkpoint=run.work,
        device=device,
        progress=progress,
        compare=False,  # the baseline is a method of its own
        executor=executor,
    )
    if result.stopped:
        raise KeyboardInterrupt  # half a search is no run
    searched = time.perf_counter()
    # Where no candidate trains, the least bad one is tested all the same: its errors are the run's result.
    loss = result.best_evaluation.loss
    if executor is None:
        rows = meta_test(loss, problem, run.sizes, run.seed, device, run.work, progress)
    else:
        rows = called(executor, meta_test, loss, problem, run.sizes, run.seed, device)
    tested = time.perf_counter()
    tables = {"history": pd.DataFrame(result.generations), "test": pd.DataFrame(rows), "front": result.table()}
    texts = {name: table.to_csv(index=False) for name, table in tables.items()}
    seconds = result.seconds | {"meta-test": tested - searched, "last session": tested - begin}
    parts = zip(GROUPS, (problem.train, problem.test), strict=True)
    record = {
        "configuration": run.configuration(),
        "fitness": result.fitness,
        "outcome": result.best_evaluation.status,
        "loss": formula_of(loss),
        "parameters": loss.size,
        "evaluations": len(result.evaluations),
        "engine": result.engine,
        "device": device,
        "seconds": {phase: round(value, 3) for phase, value in seconds.items()},
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(device),
        "versions": versions(),
        # The papers do not say, for example, which classes form which task.
        "tasks": {group: [task.name for task in part] for group, part in parts},
    }
    return Finished.of(record, texts, loss.record())


def computed(
    runs: Sequence[Run], device: str = "cpu", jobs: int = 1, progress: bool = True, cluster: str = ""
) -> Iterator[Run]:
    """Each run as soon as it is complete: first those that are, then the others, computed `jobs` at a time.

    With 0 jobs there is one for each core, on CUDA one; each computes on one thread. All runs are checked
    before the first one starts. Runs that another process computes come last. With a cluster, see
    `cluster.scheduler`, its workers evaluate the candidates and meta-test.

    Raises:
        ValueError: a run on disk is of another configuration, or the device, `jobs` or `cluster` makes no sense.
        OSError: the cluster's scheduler does not answer.
    """
    place = check_device(device)
    check_cluster(cluster)
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 0:
        raise ValueError(f"jobs is a whole number of at least 0, got {jobs!r}")
    todo = [run for run in runs if not run.is_complete]
    for name in dict.fromkeys(run.experiment for run in todo):
        if missing := experiment(name).missing():
            raise FileNotFoundError(missing)
    yield from (run for run in runs if run not in todo)
    jobs = min(jobs or (1 if place.type == "cuda" else os.cpu_count()) or 1, len(todo))
    if not todo:
        return
    elsewhere = []
    with ExitStack() as stack:
        with _children_ignore_sigint():
            address = stack.enter_context(scheduler(cluster))
        attempted = partial(_attempted, device=device, jobs=jobs, progress=progress, address=address)
        for run, owner in attempted(todo, wait=False):
            if owner:
                elsewhere.append(run)
                log.warning("run %s is in use by %s; it is left for last", run, owner)
            else:
                yield run
        yield from (run for run, _ in attempted(elsewhere, wait=True))


def _attempted(
    runs: Sequence[Run], *, device: str, jobs: int, progress: bool, address: str, wait: bool
) -> Iterator[tuple[Run, str]]:
    """Each run with the answer of `compute`, as soon as it is given."""
    if min(jobs, len(runs)) <= 1:
        yield from ((run, compute(run, device, progress, wait, address)) for run in runs)
        return
    # Started anew, not forked: a fork after torch has started threads can deadlock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker) as pool:
        with _children_ignore_sigint():
            futures = {pool.submit(compute, run, device, False, wait, address): run for run in runs}
        try:
            bar = tqdm(as_completed(futures), total=len(futures), unit="run", disable=not progress)
            for future in bar:
                run = futures[future]
                bar.set_postfix_str(f"{run.experiment} {run.method} seed {run.seed}")
                yield run, future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


@contextmanager
def _children_ignore_sigint() -> Iterator[None]:
    """Context manager: processes started within ignore Ctrl-C, as the parent ends them."""
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
