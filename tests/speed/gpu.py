"""One command for a machine with a GPU: checks, the benchmark table, and paper-scale runs until a time limit.

    python -m tests.speed.gpu --limit 400 --out gpu

It writes small files into the folder `--out`: checks.json (the tests that need a GPU, and each network's
meta-gradient against float64 on the CPU), speed.json (the table), and the runs, packed. Called again with the same
folder it goes on where it stopped.
`--device cpu --tiny` tries all of it without a GPU, at sizes that say nothing about speed.
"""

from __future__ import annotations

import argparse
import copy
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import evomal_core as em
from evomal_core.config import SearchConfig
from evomal_core.engines import fitness
from evomal_core.files import write_atomic
from evomal_core.learners import Learner, make_learners
from evomal_core.losses import LearnedLoss
from evomal_core.population.local_search import batched_local_search, batched_meta_gradients
from evomal_core.unroll import meta_gradient
from evomal_paper.experiments.catalogue import experiment
from evomal_paper.networks import LetterLSTM, gecco_cnn, lenet5
from tests.speed.cases import TABULAR, meta_step_flops, population, sine_learners
from tests.speed.networks import LETTERS, LONGEST

RUNS = ("sine/paper/evomal/seed-0", "mnist/paper/evomal/seed-0", "surname/paper/evomal/seed-0")
"""The runs of paper scale, in order, as `evomal show` names them."""
ROOT = Path(__file__).parents[2]
TESTS = ("tests/paper/test_cuda.py", "tests/speed/test_gpu.py")
"""Where the tests are that need a GPU."""
STOPPING = 20
"""Seconds that a run has for its checkpoint when the time is up."""
FITNESS_STEPS = 100


@dataclass(frozen=True)
class Case:
    """Learners and a population for the table, as GECCO's experiments have them."""

    name: str
    learners: Callable[[], list[Learner]]
    kind: Any
    config: SearchConfig
    candidates: int = 25


def _learners(
    x: torch.Tensor, classes: int, model: Callable[[], nn.Module], config: SearchConfig
) -> list[Learner]:
    """A task of rows x with labels in turn."""
    y = torch.arange(len(x)) % classes
    cut = 3 * len(x) // 4
    kind: Any = "multiclass"
    if classes == 2:
        kind, y = "binary", y[:, None].float()
    task = em.Task("random", kind, (x[:cut], y[:cut]), (x[cut:], y[cut:]))
    return make_learners([task], model, config, 0, "benchmark")


def _search(name: str) -> SearchConfig:
    return experiment(name).profile("paper").search


def cases(tiny: bool = False) -> list[Case]:
    """The rows of the table; `tiny` shrinks networks and data."""
    side, wide, rows = (16, 8, 16) if tiny else (28, 1000, 512)
    coloured = 16 if tiny else 32
    cifar10, surname = _search("cifar10"), _search("surname")

    def images(channels: int, size: int) -> torch.Tensor:
        return torch.randn(rows, channels, size, size, generator=torch.Generator().manual_seed(0))

    def letters() -> torch.Tensor:
        return torch.randint(0, LETTERS, (rows, LONGEST), generator=torch.Generator().manual_seed(0))

    def lenet(outputs: int) -> list[Learner]:
        return _learners(images(1, side), max(outputs, 2), partial(lenet5, outputs, side), TABULAR)

    def mlp() -> list[Learner]:
        model = partial(em.models.mlp, side**2, [wide, wide], 9)
        return _learners(images(1, side), 9, model, TABULAR)

    def cnn() -> list[Learner]:
        return _learners(images(3, coloured), 5, partial(gecco_cnn, 5, coloured), cifar10)

    def lstm() -> list[Learner]:
        return _learners(letters(), 9, partial(LetterLSTM, 9, LETTERS), surname)

    found = [
        Case("Sine, 5 × MLP 1-40-40-1", sine_learners, "regression", _search("sine")),
        Case("MLP 2 × 1000", mlp, "multiclass", TABULAR),
        Case("LeNet-5, 1 output", partial(lenet, 1), "binary", TABULAR),
        Case("LeNet-5, 10 outputs", partial(lenet, 10), "multiclass", TABULAR),
        Case("GECCO's CIFAR-10 network", cnn, "multiclass", cifar10),
        Case("Surname's LSTM", lstm, "multiclass", surname),
    ]
    return [replace(case, candidates=2) for case in found] if tiny else found


def on(device: str, learners: Sequence[Learner], dtype: torch.dtype = torch.float32) -> list[Learner]:
    """The learners with task and network on a device."""
    return [
        replace(e, task=e.task.to(device, dtype), network=copy.deepcopy(e.network).to(device, dtype))
        for e in learners
    ]


def check(case: Case, device: str, dtype: torch.dtype = torch.float32) -> float:
    """The median norm-wise error of a device's meta-gradients against double backward in float64."""
    losses, learners = population(4, case.kind), case.learners()[:1]
    moved = [copy.deepcopy(loss).to(device) for loss in losses]
    _, found = batched_meta_gradients(moved, on(device, learners, dtype), case.config, 0)
    (exact,) = on("cpu", learners, torch.float64)
    errors = []
    for loss, ours in zip(losses, found, strict=True):
        double = LearnedLoss(loss.expression, case.kind, phi=loss.phi.detach().double())
        _, (wanted,) = meta_gradient(double, exact, 0, case.config, "autograd")
        error = torch.linalg.vector_norm(ours[: loss.size].cpu().double() - wanted)
        errors.append(float(error / torch.linalg.vector_norm(wanted).clamp_min(1e-12)))
    return statistics.median(errors)


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: str, rounds: int = 3) -> float:
    """The median of the seconds that pass, after one call that is not counted."""
    found = []
    for _ in range(rounds + 1):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def peak_flops(device: str, size: int = 4096) -> float:
    """Floating-point operations per second of a large product in full float32."""
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    return 2 * size**3 / seconds(lambda: a @ b, device)


def speed(case: Case, device: str, peak: float, steps: int = 20) -> dict[str, Any]:
    """A row of the table: milliseconds of a meta-step and of a training step of the whole population."""
    learners = case.learners()
    config = case.config.replace(meta_steps=1)
    operations = meta_step_flops(population(case.candidates, case.kind), learners, config)
    losses = [loss.to(device) for loss in population(case.candidates, case.kind)]
    moved = on(device, learners)
    many = config.replace(meta_steps=steps, fitness_steps=FITNESS_STEPS if steps > 2 else 2, fitness_on="train")
    one = seconds(lambda: batched_local_search(losses, moved, config), device)
    # the first step of a search captures the graph and is left out
    step = (seconds(lambda: batched_local_search(losses, moved, many), device) - one) / (steps - 1)
    training = seconds(lambda: fitness(losses, moved, many, "batched"), device) / many.fitness_steps
    return {
        "candidates": case.candidates,
        "ms_a_meta_step": 1e3 * step,
        "ms_a_training_step": 1e3 * training,
        "ms_of_the_first_meta_step": 1e3 * one,
        "gflop_a_meta_step": operations / 1e9,
        "share_of_peak": operations / step / peak,
    }


class Notes:
    """A JSON file of named results, written after each; what it holds already is not computed again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def note(self, name: str, make: Callable[[], Any], deadline: float) -> None:
        """Compute, write and print one result, or what kept it from being one."""
        if name in self.held or time.monotonic() > deadline:
            return
        try:
            self.held[name] = make()
        except Exception as error:  # the other results are still wanted
            self.held[name] = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        write_atomic(self.path, json.dumps(self.held, indent=1, ensure_ascii=False) + "\n")
        print(f"{self.path.stem}: {name}: {self.held[name]}", flush=True)


def tests_of_a_gpu(deadline: float) -> str:
    """The last line of pytest on the tests that need a GPU, which also run without one, and are skipped."""
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-o", "addopts=", "-p", "no:cacheprovider", *TESTS]
    left = max(deadline - time.monotonic(), 1.0)
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=left, check=False)
    return (found.stdout.strip() or found.stderr.strip()).splitlines()[-1]


def run_on(name: str, device: str, results: Path, deadline: float) -> bool:
    """Compute a run, or go on with it, until the deadline; whether it was completed."""
    experiment_name, profile, method, seed = name.split("/")
    left = deadline - time.monotonic() - STOPPING
    if left <= 0:
        return False
    command = [sys.executable, "-m", "evomal_paper.cli", "run", experiment_name, "--profile", profile, "--method"]
    command += [
        method,
        "--seeds",
        seed.removeprefix("seed-"),
        "--device",
        device,
        "--results",
        str(results),
        "--quiet",
    ]
    process = subprocess.Popen(command)
    try:
        return process.wait(left) == 0
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # a checkpoint stands after each generation
        try:
            process.wait(STOPPING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return False


def main(arguments: Sequence[str] | None = None) -> None:
    """Checks, table and runs, as far as the time goes."""
    parser = argparse.ArgumentParser(prog="python -m tests.speed.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda (default) or cpu")
    parser.add_argument("--limit", type=float, default=400, metavar="SECONDS", help="default: 400")
    parser.add_argument("--out", type=Path, default=Path("gpu"), metavar="FOLDER", help="default: gpu")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the command itself")
    parser.add_argument("--runs", nargs="*", default=list(RUNS), metavar="RUN", help=f"default: {' '.join(RUNS)}")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + options.limit
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error(
            f"PyTorch {torch.__version__} finds no {options.device!r} here; --device cpu tries the command"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    checks, table = Notes(options.out / "checks.json"), Notes(options.out / "speed.json")
    checks.note("tests", partial(tests_of_a_gpu, deadline), deadline)
    for case in cases(options.tiny):
        checks.note(case.name, partial(check, case, options.device), deadline)
        checks.note(f"{case.name}, float64", partial(check, case, options.device, torch.float64), deadline)
    card = torch.cuda.get_device_name() if options.device != "cpu" else "cpu"
    size = 64 if options.tiny else 4096
    table.note("device", lambda: {"name": card, "torch": torch.__version__}, deadline)
    table.note("peak", lambda: {"gflops": peak_flops(options.device, size) / 1e9, "product": size}, deadline)
    peak = 1e9 * table.held.get("peak", {}).get("gflops", float("nan"))
    for case in cases(options.tiny):
        table.note(case.name, partial(speed, case, options.device, peak, 2 if options.tiny else 20), deadline)
    for name in options.runs:
        start = time.monotonic()
        done = run_on(name, options.device, options.out / "results", deadline)
        print(
            f"{name}: {'complete' if done else 'not complete'} after {time.monotonic() - start:.0f} s", flush=True
        )


if __name__ == "__main__":
    main()
