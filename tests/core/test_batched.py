"""The engine `batched` against the engines and trainings that take one candidate at a time."""

from __future__ import annotations

import copy
import logging
from functools import partial
from typing import Any

import pytest
import torch
from helpers import SEEDS, pairwise, trees, weights_for
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import evomal_core as em
from evomal_core.config import SGD
from evomal_core.engines import choose_engine, fitness, local_search, train_all
from evomal_core.expression import Expression
from evomal_core.filters import minimise_predictions
from evomal_core.learners import Learner, make_learners
from evomal_core.losses import LearnedLoss, Loss
from evomal_core.parametric import NeuralLoss, TaylorLoss
from evomal_core.population import batches
from evomal_core.population import training as batched_training
from evomal_core.population.local_search import MetaStep, batched_local_search
from evomal_core.population.networks import MLPStack, NetworkStack, NotBatchable, make_stacks
from evomal_core.population.steps import Factors
from evomal_core.population.training import batched_fitness, batched_minimise_predictions, train_stack
from evomal_core.population.trees import Program
from evomal_core.seeds import isolated_torch
from evomal_core.training import train
from evomal_core.unroll import meta_gradient

KINDS = ("regression", "binary", "multiclass")
PLAIN = SGD(lr=0.1, batch_size=8)
ALL_ROWS = SGD(lr=0.05, momentum=0.5, batch_size=100)
NESTEROV = SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01, batch_size=8)
SMOOTH = ["square(sub(f, y))", "mul(y, tanh(f))", "div(sub(y, f), f)", "f", "square(1)", "mul(y, add(y, 1))"]
LEARNT = ["square(sub(f, y))", "tanh(sub(f, y))", "log(add(1, square(sub(f, y))))", "div(f, y)"]


def task(kind: str, rows: int = 40, shape: tuple[int, ...] = (3,), seed: int = 0, scale: float = 1.0) -> em.Task:
    rng = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(rows, *shape, generator=rng, dtype=torch.float64)
    y = {
        "regression": torch.randn(rows, 2, generator=rng, dtype=torch.float64),
        "binary": (torch.rand(rows, 1, generator=rng) > 0.5).double(),
        "multiclass": torch.arange(rows) % 4,
    }[kind]
    half = rows // 2
    return em.Task(f"{kind} {seed}", kind, (x[:half], y[:half]), (x[half:], y[half:]))  # type: ignore[arg-type]


def convolutional(outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(12, outputs),
    )


def learners_for(kind: str, config: em.SearchConfig, network: str = "mlp", scale: float = 1.0) -> list[Learner]:
    shape = (3,) if network == "mlp" else (1, 6, 6)
    tasks = [task(kind, shape=shape, seed=seed, scale=scale) for seed in range(2)]
    outputs = tasks[0].outputs
    if network == "mlp":
        return make_learners(tasks, lambda: em.models.mlp(3, [7, 5], outputs), config, 0, "test")
    return make_learners(tasks, lambda: convolutional(outputs), config, 0, "test")


def losses_for(expressions: list[Any], kind: Any, seed: int = 0, spread: float = 0.3) -> list[LearnedLoss]:
    trees = [e if isinstance(e, Expression) else Expression.parse(e) for e in expressions]
    return [LearnedLoss(e, kind, phi=weights_for(e, seed, spread).double()) for e in trees]


def batched_meta_gradient(
    losses: list[LearnedLoss],
    learners: list[Learner],
    config: em.SearchConfig,
    step: int,
    vectorised: bool = False,
) -> tuple[Tensor, Tensor]:
    program = Program([loss.expression for loss in losses], losses[0].softplus)
    phi = program.pad([loss.phi for loss in losses])
    parts = []
    for stack in make_stacks(learners):
        if isinstance(stack, NetworkStack):
            stack.vectorised = vectorised
        with torch.no_grad():
            parts.append(MetaStep(stack, program, config)(phi, step))
    return sum(p[0] for p in parts), sum(p[1] for p in parts)  # type: ignore[return-value]


def assert_meta_gradients_agree(
    losses: list[LearnedLoss], learners: list[Learner], config: em.SearchConfig, vectorised: bool = False
) -> None:
    values, gradients = batched_meta_gradient(losses, learners, config, 3, vectorised)
    for loss, value, gradient in zip(losses, values, gradients, strict=True):
        parts = [meta_gradient(loss, learner, 3, config, "autograd") for learner in learners]
        wanted = sum(gradient for _, (gradient,) in parts)
        assert isinstance(wanted, Tensor)
        if not torch.isfinite(wanted).all():
            continue
        torch.testing.assert_close(value, sum(v for v, _ in parts), rtol=1e-10, atol=0)
        error = torch.linalg.vector_norm(gradient[: loss.size] - wanted)
        size = torch.linalg.vector_norm(wanted)
        assert error <= 1e-10 * size + 1e-13, f"{loss}: {error:.1e} of {size:.1e}"


# ---- meta-gradients -------------------------------------------------------------------------------


@given(st.lists(trees(), min_size=1, max_size=5), st.sampled_from(KINDS), st.booleans(), SEEDS)
def test_one_step_agrees_with_double_backward(
    expressions: list[Expression], kind: str, nesterov: bool, seed: int
) -> None:
    config = em.SearchConfig(base=NESTEROV if nesterov else PLAIN, task_loss_on="validation")
    assert_meta_gradients_agree(losses_for(expressions, kind, seed), learners_for(kind, config), config)


@pytest.mark.parametrize("where", ["same", "other", "validation"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_task_loss_may_be_on_any_batch(kind: str, where: Any) -> None:
    config = em.SearchConfig(base=NESTEROV, task_loss_on=where)
    assert_meta_gradients_agree(losses_for(SMOOTH, kind), learners_for(kind, config), config)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_saturated_probabilities_agree(kind: str) -> None:
    config = em.SearchConfig(base=PLAIN)
    learners = learners_for(kind, config, scale=100.0)
    assert_meta_gradients_agree(losses_for([*SMOOTH, "log(f)", "sqrt(f)"], kind), learners, config)


@pairwise(network=["mlp", "conv"], kind=KINDS, base=[PLAIN, NESTEROV, ALL_ROWS])
def test_three_unrolled_steps_agree(network: str, kind: str, base: SGD) -> None:
    config = em.SearchConfig(base=base, unroll_steps=3)
    assert_meta_gradients_agree(losses_for(SMOOTH, kind), learners_for(kind, config, network), config)


@pytest.mark.parametrize("vectorised", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_convolutions_batch_norm_and_dropout_agree(vectorised: bool, steps: int) -> None:
    config = em.SearchConfig(base=NESTEROV, unroll_steps=steps)
    learners = learners_for("multiclass", config, "conv")
    assert_meta_gradients_agree(losses_for(SMOOTH, "multiclass"), learners, config, vectorised)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_other_perceptrons_take_the_fast_path(activation: type[nn.Module]) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 6, bias=False), activation(), nn.Linear(6, 2), activation())

    config = em.SearchConfig(base=NESTEROV)
    learners = make_learners([task("regression")], model, config, 0, "test")
    assert isinstance(make_stacks(learners)[0], MLPStack)
    assert_meta_gradients_agree(losses_for(SMOOTH, "regression"), learners, config)


class Body(nn.Module):
    """A perceptron as people write it; with `doubled`, one that does something else in evaluation mode."""

    def __init__(self, doubled: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 2, bias=False)
        self.doubled = doubled

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(nn.functional.relu(self.first(x)))
        return y if self.training or not self.doubled else 2 * y


@pytest.mark.parametrize(
    ("model", "fast"),
    [
        (Body, True),
        (lambda: nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Identity(), nn.Linear(4, 2)), True),
        (partial(Body, doubled=True), False),
        (lambda: nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Tanh()), nn.Linear(4, 2)), False),
    ],
    ids=["class", "nested", "other in evaluation", "two activations"],
)
def test_perceptrons_are_recognised_however_they_are_written(model: Any, fast: bool) -> None:
    config = em.SearchConfig(base=NESTEROV, fitness_steps=3)
    learners = make_learners([task("regression")], model, config, 0, "test")
    (stack,) = make_stacks(learners)
    assert isinstance(stack, MLPStack) == fast
    assert_meta_gradients_agree(losses_for(SMOOTH, "regression"), learners, config)
    x = learners[0].task.train[0][:4]
    with torch.no_grad():
        found = stack.evaluate(stack.start(1), stack.features(x.unsqueeze(0)), 0)[0, 0]
        network = copy.deepcopy(learners[0].network).eval()
        for weights, given in zip(network.parameters(), learners[0].theta.values(), strict=True):
            weights.copy_(given)
        torch.testing.assert_close(found, network(x))


def test_images_flattened_by_a_class_take_the_fast_path() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x.view(x.shape[0], -1))

    x = torch.randn(20, 1, 3, 4, dtype=torch.float64)
    y = x.flatten(1).sum(dim=1, keepdim=True)
    images = em.Task("images", "regression", (x[:14], y[:14]), (x[14:], y[14:]))
    config = em.SearchConfig(base=NESTEROV)
    learners = make_learners([images], Flat, config, 0, "test")
    assert isinstance(make_stacks(learners)[0], MLPStack)
    assert_meta_gradients_agree(losses_for(SMOOTH, "regression"), learners, config)


# ---- local search ---------------------------------------------------------------------------------


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_local_search_agrees_with_one_candidate_at_a_time(optimiser: Any) -> None:
    config = em.SearchConfig(base=NESTEROV, meta_steps=5, meta_optimizer=optimiser, meta_lr=0.01)
    learners = learners_for("regression", config)
    losses = losses_for(LEARNT, "regression")
    together = local_search(losses, learners, config, "batched")
    alone = local_search(losses, learners, config, "autograd")
    for ours, theirs in zip(together, alone, strict=True):
        assert not ours.diverged
        torch.testing.assert_close(ours.loss.state_dict(), theirs.loss.state_dict(), rtol=1e-8, atol=0)


@pytest.mark.parametrize("compiled", ["0", "1"])
@pytest.mark.parametrize("batch_size", [8, 100])
def test_weights_without_a_meta_gradient_stay_and_the_others_move(
    batch_size: int, compiled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOMAL_KERNELS", compiled)
    config = em.SearchConfig(base=NESTEROV.replace(batch_size=batch_size), meta_steps=5, meta_lr=0.01)
    learners = learners_for("regression", config)
    losses = losses_for(["sign(mul(f, y))", LEARNT[0], "square(y)", "f", LEARNT[1]], "regression")
    ticks: list[None] = []
    together = local_search(losses, learners, config, "batched", lambda: ticks.append(None))
    alone = local_search(losses, learners, config, "autograd")
    assert len(ticks) == 5 * len(losses)
    for before, ours, theirs in zip(losses, together, alone, strict=True):
        torch.testing.assert_close(ours.loss.state_dict(), theirs.loss.state_dict(), rtol=1e-8, atol=0)
        assert torch.equal(ours.loss.phi, before.phi) == (before not in (losses[1], losses[4]))


def test_a_diverging_candidate_leaves_its_neighbours_alone() -> None:
    config = em.SearchConfig(base=PLAIN, meta_steps=4)
    learners = learners_for("regression", config)
    harmless = losses_for(["tanh(sub(f, y))", *LEARNT[:2]], "regression")
    explodes = losses_for(["tanh(sub(f, y))"], "regression")
    wild = losses_for(["square(square(square(square(square(square(square(mul(f, f))))))))"], "regression")
    wild[0].phi.data.fill_(1e3)
    calm = local_search(explodes + harmless, learners, config, "batched")
    stormy = local_search(wild + harmless, learners, config, "batched")
    assert stormy[0].diverged
    torch.testing.assert_close(stormy[0].loss.phi, wild[0].phi, rtol=0, atol=0)
    for ours, theirs in zip(stormy[1:], calm[1:], strict=True):
        assert not ours.diverged
        torch.testing.assert_close(ours.loss.phi, theirs.loss.phi, rtol=0, atol=0)


def test_losses_without_weights_stay_as_they_are_and_softplus_may_differ() -> None:
    config = em.SearchConfig(base=PLAIN, meta_steps=2)
    learners = learners_for("regression", config)
    losses = [LearnedLoss("f"), LearnedLoss("sub(f, y)", softplus=True), LearnedLoss("square(sub(f, y))")]
    tuned = local_search(losses, learners, config, "batched")
    assert [t.diverged for t in tuned] == [False] * 3
    assert tuned[1].loss.softplus
    assert not torch.equal(tuned[2].loss.phi, losses[2].phi)
    assert torch.equal(losses[2].phi, torch.ones(3))


def test_memory_running_out_halves_the_chunk(caplog: pytest.LogCaptureFixture) -> None:
    sizes = []

    def work(chunk: list[int]) -> list[int]:
        sizes.append(len(chunk))
        if len(chunk) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [10 * number for number in chunk]

    with caplog.at_level(logging.WARNING, "evomal"):
        assert batches.in_chunks([1, 2, 3, 4, 5], work) == [10, 20, 30, 40, 50]
    assert sizes == [5, 3, 2, 2, 1]
    assert "2 candidates at a time" in caplog.text


def test_chunks_are_about_equally_large() -> None:
    sizes: list[int] = []

    def work(chunk: list[int]) -> list[int]:
        sizes.append(len(chunk))
        return chunk

    for size, wanted in ((None, [25]), (16, [13, 12]), (8, [7, 7, 7, 4]), (100, [25]), (1, [1] * 25)):
        sizes.clear()
        assert batches.in_chunks(list(range(25)), work, size) == list(range(25))
        assert sizes == wanted
    assert batches.in_chunks([], work, 3) == []


# ---- choice of the engine -------------------------------------------------------------------------


def test_the_automatic_choice_is_batched() -> None:
    config = em.SearchConfig(base=PLAIN)
    for network in ("mlp", "conv"):
        assert choose_engine(learners_for("binary", config, network), config) == "batched"
    assert choose_engine(learners_for("regression", config), config, NeuralLoss().double()) != "batched"


class ReverseOnly(torch.autograd.Function):
    """An operation that `torch.func` can't take."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sinh()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return ReverseOnly.apply(self.linear(x))  # type: ignore[no-untyped-call]


def test_a_network_that_cannot_be_stacked_falls_to_another_engine(caplog: pytest.LogCaptureFixture) -> None:
    config = em.SearchConfig(base=PLAIN, meta_steps=1)
    learners = make_learners([task("regression")], Odd, config, 0, "test")
    with caplog.at_level(logging.WARNING, "evomal"):
        assert choose_engine(learners, config) == "autograd"
    assert "engine batched can't take this network (" in caplog.text
    with pytest.raises(NotBatchable):
        batched_local_search(losses_for(LEARNT, "regression"), learners, config)


def test_frozen_layers_stay_frozen() -> None:
    def model() -> nn.Module:
        network = em.models.mlp(3, [4], 2)
        network[1].weight.requires_grad_(False)  # type: ignore[union-attr]
        return network

    config = em.SearchConfig(base=NESTEROV, fitness_steps=4)
    learners = make_learners([task("regression")], model, config, 0, "test")
    assert isinstance(make_stacks(learners)[0], NetworkStack)
    losses = losses_for(SMOOTH, "regression")
    assert_meta_gradients_agree(losses, learners, config)
    assert batched_fitness(losses, learners, config) == pytest.approx(fitness(losses, learners, config), rel=1e-9)


def wide_task(outputs: int) -> em.Task:
    """Batches of fewer rows than a layer of 30 by 40 has inputs and outputs."""
    return em.Task.from_arrays(
        torch.randn(30, 3, generator=torch.Generator().manual_seed(0)).numpy(),
        torch.randn(30, outputs, generator=torch.Generator().manual_seed(1)).numpy(),
        kind="regression",
    ).to(dtype=torch.float64)


@pytest.mark.parametrize("outputs", [1, 2])
def test_wide_layers_are_kept_as_factors(outputs: int) -> None:
    config = em.SearchConfig(base=NESTEROV)
    problem = wide_task(outputs)
    learners = make_learners([problem], lambda: em.models.mlp(3, [30, 40], outputs), config, 0, "test")
    (stack,) = make_stacks(learners)
    rows = stack.features(problem.train[0][None, :8])
    gradients = stack.linearise(stack.theta0, rows, 0, factored=True)[1](torch.ones(1, 2, 8, outputs).double())
    assert [isinstance(g, Factors) for g in gradients] == [False, False, True, False, False, False]
    assert_meta_gradients_agree(losses_for(SMOOTH, "regression"), learners, config)


def test_other_losses_are_not_tuned_at_once() -> None:
    config = em.SearchConfig(base=PLAIN, meta_steps=1)
    with pytest.raises(NotBatchable, match="LearnedLoss"):
        batched_local_search([NeuralLoss()], learners_for("regression", config), config)


# ---- training -------------------------------------------------------------------------------------


@pairwise(network=["mlp", "conv"], kind=KINDS, base=[PLAIN, NESTEROV, ALL_ROWS])
def test_stacks_train_as_single_networks_do(network: str, kind: str, base: SGD) -> None:
    config = em.SearchConfig(base=base)
    learners = learners_for(kind, config, network)
    losses = losses_for([*LEARNT, "mul(y, y)"], kind)
    stacks = train_stack(losses, learners, base, 6, record=[0, 3])
    for loss, row in zip(losses, stacks, strict=True):
        for learner, ours in zip(learners, row, strict=True):
            theirs = train(loss, learner, base, 6, record=[0, 3])
            assert ours.diverged == theirs.diverged
            for mine, other in zip(ours.curve, theirs.curve, strict=True):
                assert mine == pytest.approx(other, rel=1e-8)


@pytest.mark.parametrize("base", [PLAIN, NESTEROV, SGD(lr=0.05, momentum=0.5, weight_decay=0.02, batch_size=8)])
@pytest.mark.parametrize("outputs", [1, 2])
def test_wide_layers_train_by_factors_as_single_networks_do(outputs: int, base: SGD) -> None:
    learners = make_learners(
        [wide_task(outputs)], lambda: em.models.mlp(3, [30, 40], outputs), em.SearchConfig(base=base), 0, "test"
    )
    losses = losses_for([*LEARNT, "mul(y, y)"], "regression")
    for loss, (ours,) in zip(losses, train_stack(losses, learners, base, 9, record=[4]), strict=True):
        theirs = train(loss, learners[0], base, 9, record=[4])
        for mine, other in zip(ours.curve, theirs.curve, strict=True):
            assert mine == pytest.approx(other, rel=1e-8)


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_networks_that_diverge_leave_the_stack_and_do_not_disturb_the_others(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batched_training, "LOOK", 3)
    learners = learners_for("regression", em.SearchConfig(base=NESTEROV), network)[:1]
    texts = ["square(sub(f, y))", "mul(square(square(f)), square(square(f)))", "abs(sub(f, y))"]
    losses = losses_for(texts, "regression")
    losses[1].phi.data.fill_(40)
    rows = train_stack(losses, learners, NESTEROV, 40, record=[20])
    assert [row[0].diverged for row in rows] == [False, True, False]
    assert rows[1][0].final == dict.fromkeys(rows[1][0].final, float("inf")) | {"step": 40}
    for loss, (ours,) in zip(losses, rows, strict=True):
        theirs = train(loss, learners[0], NESTEROV, 40, record=[20])
        assert ours.diverged == theirs.diverged
        for mine, other in zip(ours.curve, theirs.curve, strict=True):
            assert mine == pytest.approx(other, rel=1e-8)


@pytest.mark.parametrize("compiled", ["0", "1"])
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_all_tasks_of_a_group_train_as_one_after_another(
    network: str, compiled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOMAL_KERNELS", compiled)
    learners = learners_for("multiclass", em.SearchConfig(base=NESTEROV), network)
    for loss in (*losses_for(LEARNT, "multiclass"), em.TaskLoss("multiclass"), NeuralLoss("multiclass").double()):
        together = train_all(loss, learners, NESTEROV, 9, record=[0, 5], milestones=[3, 5])
        for learner, ours in zip(learners, together, strict=True):
            theirs = train(loss, learner, NESTEROV, 9, record=[0, 5], milestones=[3, 5]).curve
            assert [row["step"] for row in ours] == [0, 5, 9]
            for mine, other in zip(ours, theirs, strict=True):
                assert mine == pytest.approx(other, rel=1e-8)


@pytest.mark.parametrize("compiled", ["0", "1"])
def test_milestones_multiply_the_learning_rate_by_a_tenth(compiled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOMAL_KERNELS", compiled)
    learners = learners_for("regression", em.SearchConfig(base=NESTEROV))
    (loss,) = losses_for(["square(sub(f, y))"], "regression")
    curves = [train_all(loss, learners, NESTEROV, 9, milestones=m) for m in ((), (9,), (3, 6))]
    theirs = [train(loss, learner, NESTEROV, 9, milestones=(3, 6)).curve[-1] for learner in learners]
    assert curves[0] == curves[1]
    assert [curve[-1] for curve in curves[2]] == [pytest.approx(row, rel=1e-10) for row in theirs]
    assert curves[2][0][-1]["train"] != pytest.approx(curves[0][0][-1]["train"], rel=1e-6)


def test_stacks_by_vmap_train_as_single_networks_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def vectorised(self: NetworkStack, learners: list[Learner], init: Any = NetworkStack.__init__) -> None:
        init(self, learners)
        self.vectorised = True

    monkeypatch.setattr(NetworkStack, "__init__", vectorised)
    config = em.SearchConfig(base=NESTEROV, fitness_steps=5)
    learners = learners_for("regression", config, "conv")
    losses = losses_for(LEARNT, "regression")
    assert batched_fitness(losses, learners, config) == pytest.approx(fitness(losses, learners, config), rel=1e-8)


def test_fitness_of_diverging_and_of_taylor_losses() -> None:
    config = em.SearchConfig(base=PLAIN, fitness_steps=30)
    learners = learners_for("regression", config)
    losses: list[Loss] = [
        LearnedLoss("square(square(square(f)))", phi=[1e3] * 3),
        LearnedLoss("square(sub(f, y))"),
    ]
    got = fitness(losses, learners, config, "batched")
    assert got[0] == float("inf")
    assert got == pytest.approx(fitness(losses, learners, config), rel=1e-6)
    with isolated_torch(0, "taylor"):
        taylors = [TaylorLoss(theta=0.1 * torch.randn(8)) for _ in range(3)]
    assert batched_fitness(taylors, learners, config) == pytest.approx(
        fitness(taylors, learners, config), rel=1e-6
    )


def test_fitness_of_other_losses_is_evaluated_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    config = em.SearchConfig(base=PLAIN, fitness_steps=2)
    learners = learners_for("regression", config)
    with caplog.at_level(logging.WARNING, "evomal"):
        got = fitness([NeuralLoss().double()], learners, config, "batched")
    assert got == fitness([NeuralLoss().double()], learners, config)
    assert "one network at a time" in caplog.text


@pytest.mark.parametrize("kernels", ["0", "1"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_rejection_protocol_agrees(kind: str, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOMAL_KERNELS", kernels)
    config = em.SearchConfig(rejection_steps=20, rejection_lr=0.01)
    x, y_true = task(kind).train
    outputs = 4 if kind == "multiclass" else y_true.shape[1]
    y_pred = x[:, :1].expand(-1, outputs) + torch.arange(outputs)
    losses = losses_for([*LEARNT, "mul(y, y)"], kind)
    together = batched_minimise_predictions(losses, y_pred, y_true, config)
    for loss, ours in zip(losses, together, strict=True):
        torch.testing.assert_close(ours, minimise_predictions(loss, y_pred, y_true, config), rtol=1e-8, atol=1e-10)
