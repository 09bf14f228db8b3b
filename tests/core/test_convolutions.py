"""Plain convolutional networks: recognised, and by the compiled kernels as by autograd."""

from __future__ import annotations

import copy
import random
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import SEEDS, assert_same_derivatives, pairwise, trees, weights_for
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import evomal_core as em
from evomal_core.checkpoints import Snapshot
from evomal_core.config import SGD
from evomal_core.engines import train_all
from evomal_core.expression import Expression
from evomal_core.learners import Learner, make_learners
from evomal_core.losses import LearnedLoss
from evomal_core.population import compiled
from evomal_core.population import training as training_module
from evomal_core.population.convolutions import layers_of
from evomal_core.population.local_search import batched_local_search, meta_step_of
from evomal_core.population.networks import ConvolutionStack, NetworkStack, make_stacks
from evomal_core.population.optimisers import kernel_steps
from evomal_core.population.tracing import NotPlain
from evomal_core.population.training import StackTraining
from evomal_core.population.trees import Program
from evomal_core.training import train
from evomal_core.unroll import meta_gradient

pytest.importorskip("numba")
convolution_network = pytest.importorskip("evomal_core.population.convolution_network")
compiled_convolutions = pytest.importorskip("evomal_core.population.compiled_convolutions")
pytestmark = pytest.mark.usefixtures("with_kernels")

KINDS = ("regression", "binary", "multiclass")
LEARNT = ["square(sub(f, y))", "tanh(sub(f, y))", "log(add(1, square(sub(f, y))))", "div(f, y)", "mul(y, y)"]
NESTEROV = SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01, batch_size=6)
MOMENTUM = SGD(lr=0.05, momentum=0.5, batch_size=6)
PLAIN = SGD(lr=0.05, batch_size=6)
ADAMW = em.Optimizer("AdamW", lr=0.01, weight_decay=0.1, batch_size=6)


def random_network(rng: random.Random, outputs: int) -> tuple[Callable[[], nn.Module], tuple[int, int, int]]:
    """A plain network with one to three convolutions, and the shape of its rows."""
    shape = [rng.choice([1, 2, 9]), rng.randint(8, 13), rng.randint(8, 13)]
    given_shape, specs = tuple(shape), []
    for _ in range(rng.randint(1, 3)):
        kernel = rng.choice([(1, 1), (2, 3), (3, 3), (3, 5), (5, 5), (4, 2)])
        stride, padding = rng.choice([1, 1, 2]), (rng.randint(0, 2), rng.randint(0, 2))
        channels, sizes = rng.choice([2, 3, 4]), []
        for size, k, p in zip(shape[1:], kernel, padding, strict=True):
            sizes.append((size + 2 * p - k) // stride + 1 if size + 2 * p >= k else 0)
        if min(sizes) < 1:
            continue
        specs.append((nn.Conv2d, (shape[0], channels, kernel, stride, padding), {"bias": rng.random() < 0.7}))
        shape = [channels, *sizes]
        after = [(rng.choice([nn.Tanh, nn.ReLU]), (), {})]
        if rng.random() < 0.4:
            after.append((nn.BatchNorm2d, (channels,), {}))
        if min(sizes) >= 2 and rng.random() < 0.7:
            after.append((rng.choice([nn.AvgPool2d, nn.MaxPool2d]), (2,), {}))
            shape = [channels, *(size // 2 for size in sizes)]
        rng.shuffle(after)
        specs += after
    features = shape[0] * shape[1] * shape[2]
    specs.append((nn.Flatten, (), {}))
    if rng.random() < 0.5:
        specs += [(nn.Linear, (features, 5), {"bias": rng.random() < 0.7}), (nn.Tanh, (), {})]
        features = 5
    specs.append((nn.Linear, (features, outputs), {}))
    return lambda: nn.Sequential(*(make(*given, **named) for make, given, named in specs)), given_shape


def learners_for(
    kind: Any,
    model: Callable[[int], nn.Module],
    shape: tuple[int, ...],
    base: SGD | em.Optimizer,
    dtype: torch.dtype = torch.float64,
) -> list[Learner]:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(24, *shape, generator=rng, dtype=torch.float64).to(dtype)
    y = {
        "regression": torch.randn(24, 2, generator=rng, dtype=torch.float64).to(dtype),
        "binary": (torch.rand(24, 1, generator=rng) > 0.5).to(dtype),
        "multiclass": torch.arange(24) % 3,
    }[kind]
    task = em.Task(kind, kind, (x[:14], y[:14]), (x[14:], y[14:]))
    return make_learners([task], lambda: model(task.outputs), em.SearchConfig(base=base), 0, "test")


def losses_for(expressions: list[Any], kind: Any, softplus: bool = False, seed: int = 0) -> list[LearnedLoss]:
    trees = [e if isinstance(e, Expression) else Expression.parse(e) for e in expressions]
    return [LearnedLoss(e, kind, phi=weights_for(e, seed, 0.3).double(), softplus=softplus) for e in trees]


def the_stack(learners: list[Learner]) -> ConvolutionStack:
    (stack,) = make_stacks(learners)
    assert isinstance(stack, ConvolutionStack)
    assert compiled.fits(stack)
    return stack


@torch.no_grad()
def meta_step(losses: list[LearnedLoss], learners: list[Learner], base: SGD) -> tuple[Tensor, Tensor]:
    stack = the_stack(learners)
    program = Program([loss.expression for loss in losses], losses[0].softplus)
    phi = program.pad([loss.phi.to(stack.theta0[0].dtype) for loss in losses])
    config = em.SearchConfig(base=base)
    step = meta_step_of(stack, program, config)
    assert isinstance(step, compiled_convolutions.ConvolutionMetaStep)
    return step(phi, 3)


@settings(max_examples=40)
@given(st.lists(trees(), min_size=1, max_size=4), st.sampled_from(KINDS), st.booleans(), SEEDS)
def test_the_meta_step_of_a_random_network_agrees_with_autograd(
    expressions: list[Expression], kind: str, softplus: bool, seed: int
) -> None:
    rng = random.Random(seed)
    losses, shape = losses_for(expressions, kind, softplus, seed), ()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution_network, "BLOCK_BYTES", 2 ** rng.randint(10, 16))  # several blocks of rows
        patch.setattr(compiled_convolutions, "TABLE_BYTES", rng.choice([0, 2**24]))
        outputs = {"regression": 2, "binary": 1, "multiclass": 3}[kind]
        model, shape = random_network(rng, outputs)
        learners = learners_for(kind, lambda _: model(), shape, NESTEROV)
        values, gradients = meta_step(losses, learners, NESTEROV)
    config = em.SearchConfig(base=NESTEROV)
    for p, loss in enumerate(losses):
        value, (wanted,) = meta_gradient(loss, learners[0], 3, config, "autograd")
        if not torch.isfinite(wanted).all():
            assert not torch.isfinite(gradients[p, : loss.size]).all() or not torch.isfinite(values[p])
            continue
        torch.testing.assert_close(values[p], torch.as_tensor(value, dtype=torch.float64), rtol=1e-10, atol=0)
        error, size = (
            torch.linalg.vector_norm(gradients[p, : loss.size] - wanted),
            torch.linalg.vector_norm(wanted),
        )
        assert error <= 1e-10 * size + 1e-13, f"{loss} of {learners[0].network}: {error:.1e} of {size:.1e}"


def small_lenet(outputs: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, outputs)),
    )


def normed(outputs: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 5), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(4)),
        *(nn.Conv2d(4, 10, 3, padding=1), nn.BatchNorm2d(10), nn.Tanh(), nn.Conv2d(10, 3, 3, stride=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(12, outputs)),
    )


@pairwise(kind=KINDS, model=[small_lenet, normed], base=[NESTEROV, MOMENTUM, PLAIN, ADAMW])
def test_training_agrees_with_pytorch(
    kind: str, model: Callable[[int], nn.Module], base: SGD | em.Optimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution_network, "BLOCK_BYTES", 2**13)
    losses, stack = losses_for(LEARNT, kind), the_stack(learners_for(kind, model, (1, 16, 16), base))
    ours = compiled_convolutions.ConvolutionTraining(losses, stack, kernel_steps(base))
    theirs = StackTraining(losses, NetworkStack(stack.learners), base)
    for steps in (0, 1, 3):
        ours.advance([base.lr] * steps)
        theirs.advance([base.lr] * steps)
        got, wanted = ours.errors(["train", "validation"]), theirs.errors(["train", "validation"])
        for part, values in wanted.items():
            torch.testing.assert_close(got[part].to(values.dtype), values, rtol=1e-9, atol=0)
    assert torch.equal(ours.finite(), theirs.finite())
    for p, theta in enumerate(ours.theta[:, 0]):
        wanted_theta = torch.cat([w[0, p].flatten() for w in theirs.theta])
        torch.testing.assert_close(torch.from_numpy(theta), wanted_theta, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
@pytest.mark.parametrize("model", [small_lenet, normed])
def test_company_order_and_threads_change_no_bit(model: Callable[[int], nn.Module], kind: str) -> None:
    learners = learners_for(kind, model, (1, 16, 16), PLAIN, torch.float32)
    losses = losses_for([*LEARNT, "sub(f, y)", "mul(y, log(f))", "abs(f)", "mul(f, y)", "add(f, tanh(y))"], kind)
    losses = [LearnedLoss(loss.expression, kind, phi=loss.phi.detach().float()) for loss in losses]
    values, gradients = meta_step(losses, learners, PLAIN)
    order = [7, 3, 9, 0, 5, 1, 2, 8, 6, 4]
    for some in ([0], [6], [1, 2, 3], order[:8], order):
        try:
            torch.set_num_threads(2 if len(some) == 10 else 1)
            fewer, slopes = meta_step([losses[p] for p in some], learners, PLAIN)
        finally:
            torch.set_num_threads(1)
        assert torch.equal(fewer, values[some])
        for place, p in enumerate(some):
            size = losses[p].size
            assert torch.equal(slopes[place, :size], gradients[p, :size])


def test_float32_differs_by_rounding_only() -> None:
    errors = []
    rng = random.Random(0)
    for kind in KINDS:
        losses = losses_for(LEARNT[:4], kind)
        for _ in range(4):
            model, shape = random_network(rng, {"regression": 2, "binary": 1, "multiclass": 3}[kind])
            low = learners_for(kind, lambda _, model=model: model(), shape, NESTEROV, torch.float32)
            high = [_in_double(learner) for learner in low]
            single = [LearnedLoss(loss.expression, kind, phi=loss.phi.detach().float()) for loss in losses]
            double = [LearnedLoss(loss.expression, kind, phi=loss.phi.detach().double()) for loss in single]
            ours, exact = meta_step(single, low, NESTEROV)[1].double(), meta_step(double, high, NESTEROV)[1]
            sizes = torch.linalg.vector_norm(exact, dim=1)
            differences = torch.linalg.vector_norm(ours - exact, dim=1)
            errors += [float(d / s) for d, s in zip(differences, sizes, strict=True) if s > 0]
    assert statistics.median(errors) < 3e-6


def _in_double(learner: Learner) -> Learner:
    task = learner.task.to("cpu", torch.float64)
    return replace(learner, task=task, network=copy.deepcopy(learner.network).double())


def test_a_diverging_candidate_is_seen_and_disturbs_no_other() -> None:
    learners = learners_for("regression", small_lenet, (1, 16, 16), SGD(lr=1e3, batch_size=6))
    losses = losses_for(["mul(f, square(f))", "tanh(sub(f, y))"], "regression")
    calm = meta_step(losses[1:], learners, PLAIN)[1]
    assert torch.equal(meta_step(losses, learners, PLAIN)[1][1, : losses[1].size], calm[0, : losses[1].size])
    stack = the_stack(learners)
    training = compiled_convolutions.ConvolutionTraining(losses, stack, kernel_steps(SGD(batch_size=6)))
    training.advance([1e3] * 60)
    assert training.finite().tolist() == [[False, True]]
    assert training.errors(["train"])["train"][0, 0] == torch.inf


def test_nan_passes_through_every_layer() -> None:
    for activation in (nn.Tanh(), nn.ReLU()):
        for pooling in (nn.AvgPool2d(2), nn.MaxPool2d(2)):

            def model(outputs: int, layers: Any = (activation, pooling)) -> nn.Module:
                return nn.Sequential(nn.Conv2d(1, 2, 3), *layers, nn.Flatten(), nn.Linear(2 * 49, outputs))

            learners = learners_for("regression", model, (1, 16, 16), PLAIN)
            learners[0].task.train[0][:, 0, 5, 5] = torch.nan
            values, gradients = meta_step(losses_for(["square(sub(f, y))"], "regression"), learners, PLAIN)
            assert values.isnan().all()
            assert gradients[:, 0].isnan().all()


class Nested(nn.Module):
    """LeNet-5 as most code has it."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.classifier = nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.avg_pool2d(torch.tanh(self.conv2(x)), (2, 2))
        return self.classifier(x.view(x.size(0), -1))


class Wrapped(nn.Module):
    """A sequence in an attribute."""

    def __init__(self, outputs: int, flatten: Callable[[Tensor], Tensor] = lambda x: x.flatten(1)) -> None:
        super().__init__()
        self.flatten = flatten
        self.network = nn.Sequential(nn.Conv2d(1, 2, 3, padding="same"), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.head = nn.Linear(2 * 8 * 8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flatten(self.network(x)))


@pytest.mark.parametrize(
    "model",
    [
        Nested,
        Wrapped,
        lambda outputs: Wrapped(outputs, lambda x: torch.flatten(x, 1)),
        lambda outputs: Wrapped(outputs, lambda x: x.reshape(-1, 128)),
        lambda outputs: Wrapped(outputs, lambda x: x.view(x.shape[0], x.shape[1] * 64)),
        lambda outputs: Wrapped(outputs, lambda x: x.reshape(x.size(0), -1).relu()),
    ],
)
def test_nested_modules_are_recognised_and_agree(model: Callable[[int], nn.Module]) -> None:
    learners, losses = (
        learners_for("multiclass", model, (1, 16, 16), NESTEROV),
        losses_for(LEARNT[:2], "multiclass"),
    )
    values, gradients = meta_step(losses, learners, NESTEROV)
    for p, loss in enumerate(losses):
        value, (wanted,) = meta_gradient(loss, learners[0], 3, em.SearchConfig(base=NESTEROV), "autograd")
        torch.testing.assert_close(values[p], torch.as_tensor(value, dtype=torch.float64), rtol=1e-10, atol=0)
        torch.testing.assert_close(gradients[p, : loss.size], wanted, rtol=1e-9, atol=1e-12)


class Residual(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flatten(self.network(x) + x[:, :, ::2, ::2]))


class Scaled(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Branching(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.mean() > 0 else super().forward(-x)


def _frozen() -> nn.Module:
    network = Wrapped(2)
    network.network[0].weight.requires_grad_(False)
    return network


def _hooked() -> nn.Module:
    network = Wrapped(2)
    network.head.register_forward_hook(lambda module, given, output: 2 * output)
    return network


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(), nn.Flatten(), nn.Linear(392, 2)), "Dropout"),
        (nn.Sequential(nn.Conv2d(1, 2, 3, dilation=2), nn.Flatten(), nn.Linear(288, 2)), "Conv2d|network|0"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(3), nn.Flatten(), nn.Linear(32, 2)), "none of the layers"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU(), nn.Flatten(), nn.Linear(392, 2)), "GELU"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2).eval(), nn.Flatten(), nn.Linear(392, 2)), "none of"),
        (Wrapped(2, lambda x: x.flatten(0)), "flatten"),
        (Wrapped(2, lambda x: x.reshape(-1, 64)), "reshape"),
        (Residual(2), "chain|none of the layers"),
        (Scaled(2), "mul"),
        (Branching(2), "traced|none of the layers"),
        (_frozen(), "frozen"),
        (_hooked(), "hooks"),
    ],
)
def test_other_networks_are_refused_with_the_reason(network: nn.Module, reason: str) -> None:
    with pytest.raises(NotPlain, match=reason):
        layers_of(network, (1, 16, 16))


def test_local_search_of_a_refused_network_goes_through_pytorch() -> None:
    learners = learners_for("multiclass", Scaled, (1, 16, 16), PLAIN)
    (stack,) = make_stacks(learners)
    assert type(stack) is NetworkStack
    losses = losses_for(LEARNT[:1], "multiclass")
    (tuned,) = batched_local_search(losses, learners, em.SearchConfig(base=PLAIN, meta_steps=1))
    assert not tuned.diverged


@pytest.mark.parametrize("model", [small_lenet, normed])
def test_an_interrupted_training_goes_on_from_its_snapshot(
    model: Callable[[int], nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_module, "STRIDE", 3)
    monkeypatch.setattr(Snapshot, "SECONDS", 0.0)
    learners, (loss,) = (
        learners_for("multiclass", model, (1, 16, 16), NESTEROV),
        losses_for(LEARNT[:1], "multiclass"),
    )
    ticks: list[int] = []

    def trained(snapshots: list[Snapshot], most: int = 1000) -> list[Any]:
        def tick(steps: int) -> None:
            ticks.append(steps)
            if sum(ticks) > most:
                raise KeyboardInterrupt

        return train_all(loss, learners, NESTEROV, 16, [0, 4, 9], [5, 10], snapshots, tick)

    whole = trained([])
    assert sum(ticks) == 16
    assert [row["step"] for row in whole[0]] == [0, 4, 9, 16]
    ticks.clear()
    with pytest.raises(KeyboardInterrupt):
        trained([Snapshot(tmp_path / "one", "it")], 11)
    ticks.clear()
    assert trained([Snapshot(tmp_path / "one", "it")]) == whole
    assert sum(ticks) == 16
    assert ticks[0] > 3
    wanted = train(loss, learners[0], NESTEROV, 16, [0, 4, 9], milestones=[5, 10]).curve
    assert [pytest.approx(row) for row in wanted] == whole[0]


def by_hand(learners: list[Learner]) -> ConvolutionStack:
    """The stack as a GPU has it: derivatives by hand in PyTorch, not by the kernels."""
    stack = the_stack(learners)
    stack.by_hand = True
    return stack


@settings(max_examples=60)
@given(st.sampled_from(KINDS), st.integers(1, 4), st.booleans(), SEEDS)
def test_derivatives_by_hand_agree_with_autograd(kind: str, candidates: int, shared: bool, seed: int) -> None:
    model, shape = random_network(random.Random(seed), {"regression": 2, "binary": 1, "multiclass": 3}[kind])
    learners = learners_for(kind, lambda _: model(), shape, PLAIN)
    assert_same_derivatives(by_hand(learners), NetworkStack(learners), candidates, shared, seed)


@pytest.mark.parametrize("model", [small_lenet, normed])
@pytest.mark.parametrize("kind", KINDS)
def test_training_by_hand_agrees_with_pytorch(kind: str, model: Callable[[int], nn.Module]) -> None:
    losses, learners = losses_for(LEARNT, kind), learners_for(kind, model, (1, 16, 16), NESTEROV)
    stack = by_hand(learners)
    ours, theirs = (StackTraining(losses, s, NESTEROV) for s in (stack, NetworkStack(learners)))
    for steps in (0, 1, 3):
        ours.advance([NESTEROV.lr] * steps)
        theirs.advance([NESTEROV.lr] * steps)
        got, wanted = ours.errors(["validation"]), theirs.errors(["validation"])
        torch.testing.assert_close(got["validation"], wanted["validation"], rtol=1e-9, atol=0)
