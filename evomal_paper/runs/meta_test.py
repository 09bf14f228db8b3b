"""Meta-testing: training new base networks with a learned loss."""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from evomal_core.checkpoints import Snapshot, digest_of
from evomal_core.config import SGD, Optimizer
from evomal_core.devices import check_device, repeatable
from evomal_core.engines import train_all
from evomal_core.learners import Learner, make_learners
from evomal_core.losses import Loss
from evomal_core.training import Training, train
from evomal_paper.experiments.profiles import Problem, Profile

GROUPS = ("in-sample", "out-of-sample")
"""The tasks that a loss was learned on, and new ones."""

STARTS = ("new", "search")
"""Where meta-testing starts: from new initial weights and batches, or from those that the search saw."""


def formula_of(loss: Loss) -> str:
    """The expression of a symbolic loss, the class of any other."""
    return str(getattr(loss, "expression", type(loss).__name__))


@repeatable()
def meta_test(
    loss: Loss,
    problem: Problem,
    sizes: Profile,
    seed: int,
    device: str,
    folder: Path | None = None,
    progress: bool = False,
    starts: Sequence[str] = STARTS,
) -> list[dict[str, Any]]:
    """Train base networks with a loss; one row per start, group, task, step and split with its error.

    Each task is trained on from both STARTS, or some of them, which are the same for every method at a seed. Long
    trainings keep snapshots `meta-test-*.pt` in `folder`, from which a killed one goes on.
    """
    rows = []
    subject = f"{formula_of(loss)} {digest_of([*loss.parameters(), *loss.buffers()])}"
    total = sizes.test_steps * len([*problem.train, *problem.test]) * len(starts)
    with tqdm(total=total, desc="meta-testing", unit="step", leave=False, disable=not progress) as bar:
        for start, group in product(starts, GROUPS):
            learners = _base_learners(problem, sizes, seed, group, device, start)
            names = [f"meta-test-{start}-{group}-{number}.pt" for number in range(len(learners))]
            snapshots = [] if folder is None else [Snapshot(folder / name, subject) for name in names]
            curves = train_all(loss, learners, *_test_length(sizes), snapshots, bar.update)
            for number, (learner, curve) in enumerate(zip(learners, curves, strict=True)):
                for point in curve:
                    place = {"start": start, "group": group, "task": number, "step": int(point["step"])}
                    rows += [{**place, "split": name, "error": point[name]} for name in learner.task.parts()]
    return rows


def base_trainings(
    loss: Loss, problem: Problem, sizes: Profile, seed: int, group: str, device: str = "cpu"
) -> Iterator[tuple[Learner, Training]]:
    """The base networks that meta-testing trains with a loss on each task of a group, one after the other."""
    base, steps, record, milestones = _test_length(sizes)
    for learner in _base_learners(problem, sizes, seed, group, device):
        with repeatable():
            trained = train(loss, learner, base, steps, record, milestones=milestones)
        yield learner, trained


def _base_learners(
    problem: Problem, sizes: Profile, seed: int, group: str, device: str, start: str = "new"
) -> list[Learner]:
    place = check_device(device)
    tasks = [task.to(place) for task in {"in-sample": problem.train, "out-of-sample": problem.test}[group]]
    purpose = "meta-train" if start == "search" else f"meta-test {group}"
    return make_learners(tasks, problem.model, sizes.search, seed, purpose)


def _test_length(sizes: Profile) -> tuple[SGD | Optimizer, int, range, tuple[int, ...]]:
    """Optimiser, steps, recorded steps and milestones of meta-testing."""
    return sizes.search.base, sizes.test_steps, sizes.recorded_steps(), sizes.test_milestones
