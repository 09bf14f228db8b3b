"""The papers' experiments and their profiles; one run is (experiment, profile, method, seed)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from evomal_core.config import SGD, Config, Positive, SearchConfig
from evomal_core.datasets import DATASETS, DataSet
from evomal_core.learners import ModelFactory
from evomal_core.models import mlp
from evomal_core.search import METHODS, refuse_unknown
from evomal_core.tasks import Task, sine_tasks

PROFILES = {
    "smoke": "seconds, for tests: everything runs, nothing is learned",
    "quick": "minutes: smaller searches and fewer seeds, honest but not the paper's",
    "paper": "every hyper-parameter as published",
}


class Profile(Config):
    """The sizes of an experiment: its search, its final training, and how many seeds."""

    search: SearchConfig
    test_steps: Positive
    """Gradient steps of meta-testing."""
    seeds: Positive
    hidden: tuple[Positive, ...] = ()
    """Widths of the base network's hidden layers, where the experiment leaves them open."""

    def recorded_steps(self, points: int = 50) -> range:
        """The meta-testing steps at which errors are measured: about `points` of them, from 0."""
        return range(0, self.test_steps + 1, max(1, self.test_steps // points))


@dataclass(frozen=True)
class Problem:
    """What a run works on: tasks to learn a loss from, new tasks to test it on, and the base network.

    Meta-training tasks are tested as "in-sample", test tasks as "out-of-sample".
    """

    train: list[Task]
    test: list[Task]
    model: ModelFactory


@dataclass(frozen=True)
class Experiment:
    """One experiment of the papers."""

    name: str
    title: str
    source: str
    table: str
    """The papers' table of its final errors, a key of `paper.TABLES`."""
    notebook: str
    profiles: dict[str, Profile]
    minutes: dict[str, float]
    """Rough minutes of all methods and seeds on two cores; those of tabular `paper` profiles are guesses."""
    problem: Callable[[Profile, int], Problem]
    dataset: DataSet | None = None

    def profile(self, name: str) -> Profile:
        """The profile of a name.

        Raises:
            ValueError: the experiment has no such profile.
        """
        refuse_unknown("profile", name, list(self.profiles))
        return self.profiles[name]

    def missing(self) -> str | None:
        """Why the experiment can't run here, or None if its data is at hand."""
        if self.dataset is None:
            return None
        try:
            self.dataset.load()
        except (FileNotFoundError, ValueError) as error:
            return str(error)
        return None


def experiment(name: str) -> Experiment:
    """The experiment of a name.

    Raises:
        ValueError: there is none.
    """
    refuse_unknown("experiment", name, list(EXPERIMENTS))
    return EXPERIMENTS[name]


def check_methods(methods: list[str] | None) -> list[str]:
    """The methods asked for, in the order of METHODS; all if None.

    Raises:
        ValueError: one is unknown, or none is named.
    """
    if methods is None:
        return list(METHODS)
    if isinstance(methods, str) or not methods:
        raise ValueError(f"methods is a list of one or more of {', '.join(METHODS)}, got {methods!r}")
    for method in methods:
        refuse_unknown("method", method, list(METHODS))
    return [method for method in METHODS if method in methods]


_TINY = {"population": 4, "generations": 2, "meta_steps": 2, "fitness_steps": 3, "initial_heights": (1, 2)}


def _sine_problem(profile: Profile, seed: int) -> Problem:
    return Problem(
        train=sine_tasks(seed, 5, -2.0, 2.0, purpose="meta-train"),
        test=sine_tasks(seed, 5, -5.0, 5.0, purpose="meta-test"),
        model=partial(mlp, 1, list(profile.hidden), 1),
    )


def _sine() -> Experiment:
    search = SearchConfig(
        function_set="gecco23",
        meta_steps=500,
        meta_optimizer="sgd",
        task_loss_on="same",
        base=SGD(lr=1e-3, batch_size=100),
        fitness_steps=100,
        fitness_on="train",
        initialisation="glorot",
        rejection_steps=0,
        gradient_equivalence=False,
    )
    paper = Profile(search=search, test_steps=100, seeds=10, hidden=(40, 40))
    quick = search.replace(generations=20, meta_steps=250)
    return Experiment(
        "sine",
        "Sine regression",
        "GECCO'23 section 4.1, Tables 2 and 3, Figures 5 and 6",
        "2",
        "02_sine",
        {
            "smoke": paper.replace(search=search.replace(**_TINY), test_steps=5, seeds=1),
            "quick": paper.replace(search=quick, seeds=5),
            "paper": paper,
        },
        {"smoke": 0.1, "quick": 3, "paper": 90},
        _sine_problem,
    )


def _tabular_problem(name: str, profile: Profile, seed: int) -> Problem:
    x, y = DATASETS[name].load()
    # One split for all seeds: the published standard deviations (0.0065 on 88 test rows) allow no other.
    task = Task.from_arrays(x, y, "regression", name=name, split=(0.6, 0.2, 0.2), seed=0)
    return Problem([task], [], partial(mlp, x.shape[1], list(profile.hidden), 1))


def _tabular(name: str, title: str, minutes: dict[str, float]) -> Experiment:
    search = SearchConfig()
    paper = Profile(search=search, test_steps=10_000, seeds=5, hidden=(1000, 1000))
    tiny = search.replace(**_TINY, rejection_steps=20)
    quick = search.replace(generations=10, meta_steps=100, fitness_steps=200, rejection_steps=300)
    return Experiment(
        name,
        title,
        "TPAMI'23 section IV-B, Table III",
        "III",
        "03_tabular",
        {
            "smoke": Profile(search=tiny, test_steps=5, seeds=1, hidden=(8,)),
            "quick": Profile(search=quick, test_steps=1000, seeds=3, hidden=(100, 100)),
            "paper": paper,
        },
        minutes,
        partial(_tabular_problem, name),
        DATASETS[name],
    )


EXPERIMENTS: dict[str, Experiment] = {
    entry.name: entry
    for entry in (
        _sine(),
        _tabular("diabetes", "Diabetes regression", {"smoke": 0.1, "quick": 3, "paper": 600}),
        _tabular("boston", "Boston Housing regression", {"smoke": 0.1, "quick": 3, "paper": 600}),
        _tabular("california", "California Housing regression", {"smoke": 0.1, "quick": 3, "paper": 600}),
    )
}
