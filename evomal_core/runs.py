"""Computing runs: search, meta-test, and write a folder that is complete or resumable, never half right."""

from __future__ import annotations

import logging
import multiprocessing
import os
import platform
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from evomal_core.batched.training import train_all
from evomal_core.checkpoint import digest_of, first_difference
from evomal_core.config import SGD, Optimizer
from evomal_core.cuda import repeatable
from evomal_core.experiment import EXPERIMENTS, PROFILES, Problem, Profile, experiment
from evomal_core.files import digest, read_json, write_atomic, write_json
from evomal_core.learners import Learner, make_learners
from evomal_core.losses import Loss
from evomal_core.result import SearchResult
from evomal_core.search import METHODS, check_device, learn_loss, refuse_unknown
from evomal_core.seeds import check_seed
from evomal_core.snapshot import Snapshot
from evomal_core.threads import one_thread
from evomal_core.training import Training, train

log = logging.getLogger("evomal")

FILES = ("history.csv", "test.csv", "front.csv", "loss.json")
"""A complete run's files beside `run.json`; one that lacks any is computed again."""

GROUPS = ("in-sample", "out-of-sample")
"""The tasks that a loss was learned on, and new ones."""


@dataclass(frozen=True)
class Run:
    """One run and its folder, `results/<experiment>/<profile>/<method>/seed-<k>`.

    Raises:
        ValueError: the experiment, profile, method or seed is unknown.
    """

    experiment: str
    profile: str
    method: str
    seed: int
    results_dir: Path = Path("results")

    def __post_init__(self) -> None:
        experiment(self.experiment).profile(self.profile)
        refuse_unknown("method", self.method, list(METHODS))
        check_seed(self.seed)

    @property
    def folder(self) -> Path:
        """Where the run's files lie."""
        return Path(self.results_dir, self.experiment, self.profile, self.method, f"seed-{self.seed}")

    @property
    def sizes(self) -> Profile:
        """The profile's configuration."""
        return experiment(self.experiment).profile(self.profile)

    def configuration(self) -> dict[str, Any]:
        """What the run's results are a function of, beside the code."""
        sizes = self.sizes.model_dump(mode="json")
        sizes["search"].pop("engine")  # engines differ by rounding only
        sizes.pop("seeds")
        names = {name: getattr(self, name) for name in ("experiment", "profile", "method", "seed")}
        return names | sizes

    def record(self) -> dict[str, Any] | None:
        """The content of `run.json`, or None if the run was never started.

        Raises:
            ValueError: the folder belongs to a run of another configuration, or the file is damaged.
        """
        path = self.folder / "run.json"
        if not path.exists():
            return None
        try:
            record = read_json(path)
        except ValueError as error:
            raise ValueError(f"{error}; delete it, or move it away") from None
        if not isinstance(record, dict) or "configuration" not in record or "status" not in record:
            raise ValueError(f"{path} is not the record of a run; move it away")
        if difference := first_difference(self._completed(record["configuration"]), self.configuration()):
            raise ValueError(
                f"{self.folder} holds a run of another configuration: {difference}; "
                "choose another --results-dir, or delete that folder"
            )
        return record

    def _completed(self, found: Any) -> Any:
        """A recorded configuration with the settings that did not exist when it was written, at their defaults."""
        try:
            sizes = {name: found[name] for name in Profile.model_fields if name in found}
            whole = Profile.model_validate(sizes | {"seeds": self.sizes.seeds}).model_dump(mode="json")
        except (TypeError, ValueError):
            return found  # a difference will be named, or nothing is wrong
        whole["search"].pop("engine")
        whole.pop("seeds")
        return found | whole

    @property
    def is_complete(self) -> bool:
        """Whether the run is finished and its files can be read."""
        record = self.record()
        if record is None or record["status"] != "complete":
            return False
        return all((self.folder / name).exists() for name in FILES)


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


def _formula(loss: Loss) -> str:
    return str(getattr(loss, "expression", type(loss).__name__))


def _tasks(problem: Problem) -> dict[str, Any]:
    """Which tasks they were: the papers do not say, for example, which classes form which task."""
    return {
        "tasks": dict(
            zip(GROUPS, ([task.name for task in part] for part in (problem.train, problem.test)), strict=True)
        )
    }


@repeatable()
def meta_test(
    loss: Loss,
    problem: Problem,
    sizes: Profile,
    seed: int,
    device: str,
    folder: Path | None = None,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Train new base networks with a loss; one row per group, task, step and split with its error.

    The initial weights differ from those of the search and are the same for every method at a seed. Long trainings
    keep snapshots `meta-test-*.pt` in `folder`, from which a killed one goes on.
    """
    rows = []
    subject = f"{_formula(loss)} {digest_of(loss.state_dict().values())}"
    total = sizes.test_steps * len([*problem.train, *problem.test])
    with tqdm(total=total, desc="meta-testing", unit="step", leave=False, disable=not progress) as bar:
        for group in GROUPS:
            learners = _base_learners(problem, sizes, seed, group, device)
            snapshots = [] if folder is None else _snapshots(folder, group, len(learners), subject)
            curves = train_all(loss, learners, *_test_length(sizes), snapshots, bar.update)
            for number, (learner, curve) in enumerate(zip(learners, curves, strict=True)):
                for point in curve:
                    place_in = {"group": group, "task": number, "step": int(point["step"])}
                    rows += [{**place_in, "split": name, "error": point[name]} for name in learner.task.parts()]
    return rows


def _snapshots(folder: Path, group: str, learners: int, subject: str) -> list[Snapshot]:
    return [Snapshot(folder / f"meta-test-{group}-{number}.pt", subject) for number in range(learners)]


def base_trainings(
    loss: Loss, problem: Problem, sizes: Profile, seed: int, group: str, device: str = "cpu"
) -> Iterator[tuple[Learner, Training]]:
    """The base networks that meta-testing trains with a loss on each task of a group, one after the other."""
    base, steps, record, milestones = _test_length(sizes)
    for learner in _base_learners(problem, sizes, seed, group, device):
        with repeatable():
            trained = train(loss, learner, base, steps, record, milestones=milestones)
        yield learner, trained


def _base_learners(problem: Problem, sizes: Profile, seed: int, group: str, device: str) -> list[Learner]:
    place = check_device(device)
    tasks = [task.to(place) for task in {"in-sample": problem.train, "out-of-sample": problem.test}[group]]
    return make_learners(tasks, problem.model, sizes.search, seed, f"meta-test {group}")


def _test_length(sizes: Profile) -> tuple[SGD | Optimizer, int, range, tuple[int, ...]]:
    """Optimiser, steps, recorded steps and milestones of meta-testing."""
    return sizes.search.base, sizes.test_steps, sizes.recorded_steps(), sizes.test_milestones


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    import pandas as pd

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


def hardware(device: str = "cpu") -> dict[str, Any]:
    """The machine: processor, cores, and the GPU's name where one is used."""
    record = {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform(terse=True)}
    if torch.device(device).type == "cuda":
        record["gpu"] = torch.cuda.get_device_name(device)
    return record


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions() -> dict[str, str]:
    """Versions of Python, of what computes, and the commit of this project where it is a checkout."""
    found = {name: version(name) for name in ("evomal", "torch", "numpy", "deap", "cmaes")}
    found["python"] = platform.python_version()
    if commit := _commit():
        found["commit"] = commit
    return found


def _commit() -> str | None:
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _place(run: Run) -> tuple[int, int, str, int, int]:
    profile, _, changes = run.profile.partition("@")
    order = (list(EXPERIMENTS), list(PROFILES), list(METHODS))
    places = [names.index(name) for names, name in zip(order, (run.experiment, profile, run.method), strict=True)]
    return places[0], places[1], changes, places[2], run.seed


def complete_runs(results_dir: Path | str = "results") -> list[Run]:
    """The complete runs of a results folder, in the order of experiments, profiles, methods and seeds.

    What is no run of this version, or is damaged, is left out, and a warning names it and the remedy.
    """
    runs = []
    for path in sorted(Path(results_dir).glob("*/*/*/seed-*/run.json")):
        name, profile, method, seed = path.parent.relative_to(results_dir).parts
        try:
            run = Run(name, profile, method, _seed(path.parent, seed), Path(results_dir))
            if run.is_complete:
                runs.append(run)
            elif (run.record() or {}).get("status") == "complete":
                command = f"evomal run {name} --profile {profile} --method {method} --seeds {run.seed}"
                raise ValueError(f"{run.folder} lacks a file; delete it, or compute it again with `{command}`")
        except (OSError, ValueError) as error:
            leave_out(path.parent, error)
    return sorted(runs, key=_place)


def _seed(folder: Path, name: str) -> int:
    number = name.removeprefix("seed-")
    if not number.isdecimal() or str(int(number)) != number:
        raise ValueError(f"{folder} is not named seed-<k>; move it away")
    return int(number)


def leave_out(place: Path, error: Exception) -> None:
    """Warn that a folder or file is not used: which, why, and what to do."""
    text = " ".join(str(error).split())
    where = "" if str(place) in text else f"{place}: "
    remedy = "" if "delete" in text or "move" in text else "; delete it, or move it away"
    log.warning("left out: %s%s%s", where, text, remedy)
