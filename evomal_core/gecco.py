"""GECCO'23's experiments: Sine, and the tasks made of MNIST, CIFAR-10 and Surname (section 4.1)."""

from __future__ import annotations

from functools import partial

from evomal_core.config import SGD, SearchConfig
from evomal_core.models import mlp
from evomal_core.profiles import TINY, Experiment, Problem, Profile
from evomal_core.tasks import sine_tasks


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
            "smoke": paper.replace(search=search.replace(**TINY), test_steps=5, seeds=1),
            "quick": paper.replace(search=quick, seeds=5),
            "paper": paper,
        },
        {"smoke": 0.1, "quick": 3, "paper": 90},
        _sine_problem,
    )


GECCO: tuple[Experiment, ...] = (_sine(),)
