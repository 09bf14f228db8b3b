"""The authors' algorithm as a plain loop on torch and higher, against every engine, on Diabetes."""

from __future__ import annotations

import copy
import math

import higher
import pytest
import torch
from torch import nn

import evomal_core as em
from evomal_core.engines import fitness, local_search, promises, train_all
from evomal_core.filters import is_rejected, sample_predictions
from evomal_core.learners import make_learners
from evomal_core.losses import initial_phi
from evomal_paper.experiments.protocols import TPAMI23
from evomal_paper.experiments.tabular import tabular_task

META_STEPS, REJECTION_STEPS, FITNESS_STEPS, TEST_STEPS = 20, 25, 50, 60
LOSSES = [
    "square(sub(f, y))", "abs(sub(y, f))", "mul(f, y)", "clamped_log(add(1, square(sub(f, y))))",
    "add(square(sub(f, y)), abs(f))",
    "div(sub(f, y), add(1, y))", "max(sub(f, y), sub(y, f))", "sub(y, f)", "clamped_sqrt(square(sub(f, y)))",
    "tanh(square(sub(f, min(y, 1))))",
]  # fmt: skip
OPERATIONS = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "div": lambda a, b: a / (1 + b**2) ** 0.5, "min": torch.minimum, "max": torch.maximum,
    "square": lambda a: a**2, "abs": torch.abs, "tanh": torch.tanh,
    "clamped_log": lambda a: a.abs().clamp(min=1e-7).log(),
    "clamped_sqrt": lambda a: a.abs().clamp(min=1e-7).sqrt(),
}  # fmt: skip


def meta_loss(nodes, phi, f, y):
    """The mean of a prefix expression, each node but the root times the weight of its edge."""
    names, edges = iter(nodes), iter([1.0, *phi])

    def value():
        name, edge = next(names), next(edges)
        if name in OPERATIONS:
            arguments = [value() for _ in range(2 if name in ("add", "sub", "mul", "div", "min", "max") else 1)]
            return edge * OPERATIONS[name](*arguments)
        return edge * {"f": f, "y": y, "1": torch.ones_like(f)}[name]

    return value().mean()


def tuned(nodes, phi, learner, base):
    phi = phi.clone().requires_grad_()
    adam = torch.optim.Adam([phi], lr=1e-3)
    for step in range(META_STEPS):
        network = copy.deepcopy(learner.network)
        network.load_state_dict(learner.initial(step))  # new initial weights
        (x, y), (x_validation, y_validation) = learner.batch(step), learner.batch(step, "validation")
        with higher.innerloop_ctx(network, sgd(network, base)) as (functional, optimiser):
            optimiser.step(meta_loss(nodes, phi, functional(x), y))
            adam.zero_grad()
            ((functional(x_validation) - y_validation) ** 2).mean().backward()
        adam.step()
    return phi.detach()


def rejected(nodes, phi, y_pred, y):
    best = y_pred.clone().requires_grad_()
    adam = torch.optim.Adam([best], lr=0.01)
    for _ in range(REJECTION_STEPS):
        adam.zero_grad()
        meta_loss(nodes, phi, best, y).backward()
        adam.step()
    return not ((y_pred - y) ** 2).mean() > ((best - y) ** 2).mean()


def trained_errors(nodes, phi, learner, base, steps):
    network = copy.deepcopy(learner.network)
    optimiser = sgd(network, base)
    for step in range(steps):
        x, y = learner.batch(step)
        optimiser.zero_grad()
        meta_loss(nodes, phi, network(x), y).backward()
        optimiser.step()
    with torch.no_grad():
        errors = {name: ((network(x) - y) ** 2).mean().item() for name, (x, y) in learner.task.parts().items()}
    return {name: error if math.isfinite(error) else math.inf for name, error in errors.items()}


def sgd(network, base):
    return torch.optim.SGD(
        network.parameters(), base.lr, base.momentum, nesterov=base.nesterov, weight_decay=base.weight_decay
    )


@pytest.fixture(scope="module")
def problem():
    config = TPAMI23.replace(
        base=TPAMI23.base.replace(batch_size=32), meta_steps=META_STEPS, rejection_steps=REJECTION_STEPS,
        fitness_steps=FITNESS_STEPS,
    )  # fmt: skip
    task = tabular_task("diabetes", "leaking").to(dtype=torch.float64)
    (learner,) = make_learners([task], lambda: em.models.mlp(10, [12, 8], 1), config, 0, "meta-train")
    expressions = [em.Expression.parse(text) for text in LOSSES]
    start = [initial_phi(expression, 0).double() for expression in expressions]
    ((y_pred, y),) = sample_predictions([learner], config)
    phi = [tuned(e.nodes, w, learner, config.base) for e, w in zip(expressions, start, strict=True)]
    pairs = list(zip([e.nodes for e in expressions], phi, strict=True))
    wanted = {
        "phi": phi,
        "rejected": [rejected(*pair, y_pred, y) for pair in pairs],
        "fitness": [trained_errors(*pair, learner, config.base, FITNESS_STEPS)["validation"] for pair in pairs],
        "tested": [trained_errors(*pair, learner, config.base, TEST_STEPS)["test"] for pair in pairs],
    }
    return config, learner, expressions, start, wanted


@pytest.mark.parametrize("engine", ["higher", "autograd", "jvp", "batched", "batched without kernels"])
def test_every_engine_does_as_the_authors_algorithm(engine, problem, monkeypatch):
    monkeypatch.setenv("EVOMAL_KERNELS", "0" if "without" in engine else "1")
    name = engine.split()[0]
    config, learner, expressions, start, wanted = problem
    losses = [em.LearnedLoss(e, phi=w) for e, w in zip(expressions, start, strict=True)]
    found = [each.loss for each in local_search(losses, [learner], config, name)]
    for loss, phi, before in zip(found, wanted["phi"], start, strict=True):
        torch.testing.assert_close(loss.phi.detach(), phi, rtol=0, atol=1e-7 * (phi - before).norm().item() + 1e-9)
    samples = sample_predictions([learner], config)
    decisions = [is_rejected(g) for g in promises(found, samples, config, "regression", name)]
    assert decisions == wanted["rejected"]
    assert len({*decisions}) == 2, "all decided alike would test nothing"
    assert fitness(found, [learner], config, name) == pytest.approx(wanted["fitness"], rel=1e-6)
    for loss, error in zip(found, wanted["tested"], strict=True):
        ((*_, last),) = train_all(loss, [learner], config.base, TEST_STEPS)
        assert last["test"] == pytest.approx(error, rel=1e-6)


def test_known_numbers_of_the_problem(problem):
    config, learner, *_ = problem
    assert (config.meta_optimizer, config.theta0, config.batches) == ("adam", "redrawn", "fresh")
    assert nn.utils.parameters_to_vector(learner.network.parameters()).dtype == torch.float64
