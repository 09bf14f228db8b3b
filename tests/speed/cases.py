"""What is measured: each case returns rows (what, against what, ratio, goal, …) of the table."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

import evomal_core as em
from evomal_core.config import SearchConfig
from evomal_core.engines import fitness, local_search, promises
from evomal_core.expression import random_expression, repair
from evomal_core.filters import is_irrelevant, sample_predictions
from evomal_core.learners import Learner, make_learners
from evomal_core.losses import LearnedLoss, initial_phi
from evomal_core.population.local_search import MetaStep
from evomal_core.population.networks import make_stacks
from evomal_core.population.trees import Program
from evomal_paper.experiments.catalogue import experiment
from evomal_paper.experiments.gecco import sine_tasks
from tests.speed import reference
from tests.speed.measure import flops, interleaved, peak_flops, ratio
from tests.speed.precision import study

Row = dict[str, Any]

SINE = experiment("sine").profile("paper").search.replace(meta_steps=1)
TABULAR = SearchConfig(meta_steps=1, task_loss_on="same")


def population(size: int, kind: Any, function_set: str = "gecco23", seed: int = 0) -> list[LearnedLoss]:
    """A first generation of random trees; those whose weights can't matter stay among them."""
    rng = random.Random(seed)
    trees = [repair(rng, random_expression(rng, function_set, (2, 4)), function_set) for _ in range(size)]
    return [LearnedLoss(tree, kind, phi=initial_phi(tree, seed)) for tree in trees]


def sine_learners(config: SearchConfig = SINE) -> list[Learner]:
    """GECCO's five sine waves with an MLP 1-40-40-1."""
    tasks = sine_tasks(0, 5, -2, 2, purpose="meta-train")
    return make_learners(tasks, lambda: em.models.mlp(1, [40, 40], 1), config, 0, "benchmark")


@contextmanager
def kernels(wanted: bool) -> Iterator[None]:
    """Within it, the compiled kernels are on or off."""
    with patch.dict("os.environ", {"EVOMAL_KERNELS": "1" if wanted else "0"}):
        yield


def searching(
    losses: Sequence[LearnedLoss], learners: Sequence[Learner], config: SearchConfig, engine: str, compiled: bool
) -> Callable[[], object]:
    """A local search of `config.meta_steps` steps."""

    def work() -> object:
        with kernels(compiled):
            return local_search(losses, learners, config, engine)

    return work


def _steps(losses: Sequence[LearnedLoss], learners: Sequence[Learner], config: SearchConfig) -> list[Any]:
    """One meta-step of each stack of learners, by PyTorch, ready to be called."""
    program = Program([loss.expression for loss in losses])
    phi = program.pad([loss.phi for loss in losses])
    return [partial(torch.no_grad()(MetaStep(stack, program, config)), phi, 0) for stack in make_stacks(learners)]


def meta_step_flops(losses: Sequence[LearnedLoss], learners: Sequence[Learner], config: SearchConfig) -> int:
    """Operations of the matrix products of one meta-step, as the engine `batched` arranges them."""
    return sum(flops(step) for step in _steps(losses, learners, config))


def zero_gradients(losses: Sequence[LearnedLoss], learners: Sequence[Learner], config: SearchConfig) -> int:
    """The number of candidates whose meta-gradient is exactly zero; all the same they are computed."""
    gradient = sum(step()[1] for step in _steps(losses, learners, config))
    return int((gradient == 0).all(dim=1).sum())


def row(what: str, against: str, found: float, goal: str, **more: Any) -> Row:
    """A row of the table."""
    return {"what": what, "against": against, "ratio": float(f"{found:.4g}"), "goal": goal, **more}


def effort(operations: int, seconds: Sequence[float], steps: int = 1) -> Row:
    """Operations, seconds, and the share of the machine's peak that they amount to."""
    peak, median = peak_flops(), statistics.median(seconds) / steps
    share = operations / median / peak
    return {"ms": 1e3 * median, "gflop": operations / 1e9, "peak_gflops": peak / 1e9, "share_of_peak": share}


def sine_search(rounds: int) -> list[Row]:
    """Local search on Sine, 25 candidates × 5 tasks, per meta-step."""
    losses, learners, steps = population(25, "regression"), sine_learners(), 50
    config = SINE.replace(meta_steps=steps)
    fixed = config.replace(theta0="fixed")
    seconds = interleaved(
        {
            "higher, fresh loader": lambda: reference.meta_step(losses, learners, config.base),
            "higher": lambda: reference.meta_step(losses, learners, config.base, loaders=False),
            "autograd": searching(losses, learners, SINE, "autograd", False),
            "compiled": searching(losses, learners, config, "batched", True),
            "one start": searching(losses, sine_learners(fixed), fixed, "batched", True),
            "torch": searching(losses, learners, config, "batched", False),
        },
        rounds,
    )
    loop, operations = seconds["higher, fresh loader"], meta_step_flops(losses, learners, SINE)
    zero = zero_gradients(losses, learners, SINE)
    rows = [
        row(
            f"Sine local search, {name}",
            "higher loop, fresh loader a step",
            steps * ratio(loop, seconds[name]),
            goal,
            **effort(operations, seconds[name], steps),
            reference_ms=1e3 * statistics.median(loop),
            zero_gradients=zero,
        )
        for name, goal in (("compiled", "≥ 110, aim 200"), ("torch", ""))
    ]
    for name in ("higher", "autograd"):
        more = {"ms": 1e3 * statistics.median(seconds[name])}
        rows.append(row(f"Sine local search, {name}", "the same", ratio(loop, seconds[name]), "", **more))
    share = ratio(seconds["one start"], seconds["compiled"])
    rows.append(row("Sine local search, compiled", "with theta0 drawn once", share, "≥ 0.77"))
    return rows


def sine_fitness(rounds: int) -> list[Row]:
    """Fitness on Sine: 125 networks × 100 steps; the loops are timed on every fifth candidate."""
    goals = {"compiled": {"loop, fresh loader": "≥ 58, aim 70", "loop": "≥ 33, aim 40"}, "torch": {}}
    return _sine_fitness("Sine fitness", SINE, goals, rounds)


def adamw_fitness(rounds: int) -> list[Row]:
    """The same, trained by AdamW."""
    config = SINE.replace(base=em.Optimizer("AdamW", lr=1e-3, batch_size=SINE.base.batch_size))
    goals = {"compiled": {"loop": "≥ 40"}, "torch": {"loop": "≥ 15"}}
    return _sine_fitness("Sine fitness by AdamW", config, goals, rounds)


def _sine_fitness(title: str, config: SearchConfig, goals: dict[str, dict[str, str]], rounds: int) -> list[Row]:
    losses, learners = population(25, "regression"), sine_learners()
    some, steps = losses[::5], config.fitness_steps

    def batched(wanted: bool) -> Callable[[], object]:
        def work() -> object:
            with kernels(wanted):
                return fitness(losses, learners, config, "batched")

        return work

    seconds = interleaved(
        {
            "loop, fresh loader": lambda: reference.training(some, learners, config.base, steps),
            "loop": lambda: reference.training(some, learners, config.base, steps, loaders=False),
            "compiled": batched(True),
            "torch": batched(False),
        },
        rounds,
    )
    rows = []
    for name, of_loop in goals.items():
        for loop in ("loop, fresh loader", "loop"):
            found = 5 * ratio(seconds[loop], seconds[name])
            ms = 1e3 * statistics.median(seconds[name])
            what = f"{title}, {name}"
            goal = of_loop.get(loop, "")
            rows.append(row(what, loop, found, goal, ms=ms, reference_ms=5e3 * statistics.median(seconds[loop])))
    return rows


def population_250(rounds: int) -> list[Row]:
    """Time per candidate with ten times as many of them."""
    many, learners = population(250, "regression"), sine_learners()
    few, config = many[::10], SINE.replace(meta_steps=10)
    rows = []
    for name, wanted in (("compiled", True), ("torch", False)):
        variants = {
            "few": searching(few, learners, config, "batched", wanted),
            "many": searching(many, learners, config, "batched", wanted),
        }
        seconds = interleaved(variants, rounds)
        found = ratio(seconds["many"], seconds["few"]) / 10
        rows.append(row(f"250 candidates, time per candidate, {name}", "25 candidates", found, "≤ 1.0, aim 0.9"))
    return rows


def diabetes_learners() -> list[Learner]:
    """Diabetes with an MLP 2 × 1000."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    task = em.Task.from_arrays(x, y, kind="regression", name="diabetes")
    return make_learners([task], lambda: em.models.mlp(10, [1000, 1000], 1), TABULAR, 0, "benchmark")


def diabetes_search(rounds: int) -> list[Row]:
    """Local search on Diabetes; the loop is timed on every fifth candidate."""
    learners = diabetes_learners()
    losses = population(25, "regression", "tpami23")
    relevant = [loss for loss in losses if not is_irrelevant(loss.expression)]
    config = TABULAR.replace(meta_steps=4)
    seconds = interleaved(
        {
            "higher": lambda: reference.meta_step(losses[::5], learners, TABULAR.base),
            "all": searching(losses, learners, config, "batched", True),
            "skipping": searching(relevant, learners, config, "batched", True),
        },
        rounds,
    )
    what, against = "Diabetes local search, MLP 2 × 1000", "higher loop, fresh loader a step"
    more = effort(meta_step_flops(losses, learners, TABULAR), seconds["all"], 4)
    zero = zero_gradients(losses, learners, TABULAR)
    found = {name: 4 * 5 * ratio(seconds["higher"], seconds[name]) for name in ("all", "skipping")}
    left_out = f"{what}, {len(losses) - len(relevant)} irrelevant of 25 skipped"
    ms = 1e3 * statistics.median(seconds["skipping"]) / 4
    return [
        row(what, against, found["all"], "≥ 5, aim 8", **more, zero_gradients=zero),
        row(left_out, against, found["skipping"], "", ms=ms),
    ]


def rejection(rounds: int) -> list[Row]:
    """The rejection protocol on Diabetes, 1,000 steps of Adam; autograd is timed on every fifth candidate."""
    losses = population(25, "regression", "tpami23")
    samples = sample_predictions(diabetes_learners(), TABULAR)

    def protocol(losses: Sequence[LearnedLoss], engine: str, compiled: bool) -> Callable[[], object]:
        def work() -> object:
            with kernels(compiled):
                return promises(losses, samples, TABULAR, "regression", engine)

        return work

    seconds = interleaved(
        {
            "autograd": protocol(losses[::5], "autograd", False),
            "compiled": protocol(losses, "batched", True),
            "torch": protocol(losses, "batched", False),
        },
        rounds,
    )
    loop = 5e3 * statistics.median(seconds["autograd"])
    return [
        row(
            f"Rejection protocol on Diabetes, {name}",
            "one candidate at a time",
            5 * ratio(seconds["autograd"], seconds[name]),
            goal,
            ms=1e3 * statistics.median(seconds[name]),
            reference_ms=loop,
        )
        for name, goal in (("compiled", "≥ 100"), ("torch", ""))
    ]


def import_time(rounds: int) -> list[Row]:
    """CPU seconds of `import evomal_core` beyond those of `import torch`, each in a process of its own."""
    code = (
        "import time, torch; start = time.process_time(); import evomal_core; print(time.process_time() - start)"
    )
    command = [sys.executable, "-c", code]
    seconds = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(rounds)
    ]
    return [row("import evomal_core, seconds", "after import torch", statistics.median(seconds), "≤ 0.5, aim 0.2")]


def precision(rounds: int) -> list[Row]:
    """Meta-gradients in float32 against float64, and the causes of the outliers; the same in every round."""
    found = study()
    causes = {"outliers": found["outliers"], "causes": found["causes"], "candidates": found["candidates"]}
    rate = found["outliers"] / found["candidates"]
    return [
        row("Meta-gradient in float32, median relative error", "float64", found["median"], "about 1e-6"),
        row(
            "Meta-gradients in float32 that are off by 1e-3", "all candidates", rate, "each has a cause", **causes
        ),
    ]


CASES: dict[str, Callable[[int], list[Row]]] = {
    "sine-search": sine_search,
    "sine-fitness": sine_fitness,
    "adamw-fitness": adamw_fitness,
    "population-250": population_250,
    "diabetes-search": diabetes_search,
    "rejection": rejection,
    "import-time": import_time,
    "precision": precision,
}
