"""Packing: finished runs are taken from their working folders, or from other results folders, into the packs."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from evomal_core.locks import locked
from evomal_paper.runs.packed import Finished, read_work
from evomal_paper.runs.run import WORK, Run, complete_runs, leave_out


def lock_of(run: Run) -> Path:
    """The lock file that a process holds while it computes the run."""
    return run.work.with_name(f"{run.work.name}.lock")


def fold_in(run: Run) -> None:
    """Move a finished run, whose lock is held, from its working folder into its pack.

    A process killed within leaves the working folder, and the call is repeated.
    """
    if not run.is_complete:
        _put(run, read_work(run.work))
    shutil.rmtree(run.work)


def _put(run: Run, finished: Finished) -> None:
    lock = Path(run.results_dir, WORK, run.experiment, run.profile, "pack.lock")
    with locked(lock, f"the pack {run.pack.folder}"):
        run.pack.put({run.key: finished})


def fold_all(results_dir: Path) -> Iterator[tuple[Run, str]]:
    """Fold the finished runs of a results folder into their packs; yield the state of each working folder."""
    for folder in sorted((results_dir / WORK).glob("*/*/*/seed-*/")):
        try:
            run = Run.named(folder.relative_to(results_dir / WORK).as_posix(), results_dir)
            yield run, _fold(run)
        except (OSError, ValueError) as error:
            leave_out(folder, error)


def _fold(run: Run) -> str:
    with locked(lock_of(run), f"run {run}", wait=False) as owner:
        if owner:
            return f"under way, {owner}"
        if not run.work.exists():
            return "folded in by another process"
        if run.is_finished:
            fold_in(run)
            return "folded in"
    return f"stopped; `{run.command}` goes on with it"


def take_from(source: Path, results_dir: Path) -> Iterator[tuple[Run, str]]:
    """Copy the complete runs of another results folder; yield what was done with each."""
    for theirs in complete_runs(source):
        ours = replace(theirs, results_dir=results_dir)
        try:
            finished = theirs.finished()
            if not ours.is_complete:
                _put(ours, finished)
                yield ours, "copied"
            elif ours.finished().record["digests"] == finished.record["digests"]:
                yield ours, "there already"
            else:
                yield ours, f"not copied: {ours.pack.folder} holds the same run with other numbers"
        except (OSError, ValueError) as error:
            leave_out(theirs.pack.folder, error)
