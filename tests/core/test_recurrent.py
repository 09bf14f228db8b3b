"""Recurrent networks by the compiled kernels: what is recognised, and agreement with PyTorch's own derivatives."""

from __future__ import annotations

import copy
import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import SEEDS, assert_same_derivatives, trees, weights_for
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import evomal_core as em
from evomal_core.config import SGD
from evomal_core.engines import choose_engine, train_all
from evomal_core.expression import Expression
from evomal_core.learners import Learner, make_learners
from evomal_core.losses import LearnedLoss
from evomal_core.models import lstm_state
from evomal_core.population import compiled
from evomal_core.population.local_search import meta_step_of
from evomal_core.population.networks import NetworkStack, RecurrentStack, make_stacks
from evomal_core.population.recurrent import form_of
from evomal_core.population.training import StackTraining, train_stack
from evomal_core.population.trees import Program
from evomal_core.training import train
from evomal_core.unroll import meta_gradient

pytest.importorskip("numba")
pytestmark = pytest.mark.usefixtures("with_kernels")

PLAIN = SGD(lr=0.1, batch_size=6)
ADAM = em.Optimizer("Adam", lr=0.01, schedule="cosine", batch_size=4)
MOMENTUM = SGD(lr=0.1, momentum=0.5, batch_size=6)
NESTEROV = SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, batch_size=6)
LOSSES = ["square(sub(f, y))", "mul(y, log(f))", "tanh(sub(f, y))", "div(f, y)", "mul(y, y)"]


class Net(nn.Module):
    """An embedding, nn.LSTM and dense layers, with the sizes and in the order of axes asked for."""

    def __init__(
        self, outputs: int, symbols: int = 7, width: int = 3, units: int = 2, dense: int = 4, **options: Any
    ) -> None:
        super().__init__()
        self.first = options.pop("batch_first", True)
        self.embedding = nn.Embedding(symbols, width, padding_idx=options.pop("padding_idx", None))
        self.lstm = nn.LSTM(width, units, batch_first=self.first, **options)
        self.head = nn.Sequential(nn.Linear(units, dense), nn.Tanh(), nn.Identity(), nn.Linear(dense, outputs))

    def forward(self, x: Tensor) -> Tensor:
        embedded = self.embedding(x)
        _, (h, _) = self.lstm(embedded if self.first else embedded.transpose(0, 1))
        return self.head(h[-1])


class LastOutput(Net):
    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.lstm(self.embedding(x))
        return self.head(outputs[:, -1, :])


class LettersFirst(Net):
    def __init__(self, outputs: int) -> None:
        super().__init__(outputs, batch_first=False, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(x.t()))[0][-1])


class GivenState(Net):
    def forward(self, x: Tensor) -> Tensor:
        zeros = torch.zeros(1, x.size(0), 2, dtype=torch.float64).to(x.device)
        _, (h, _) = self.lstm(self.embedding(x.long()), (zeros, zeros))
        return self.head(h.squeeze(0))


class Elementary(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.embedding, self.inputs = nn.Embedding(7, 3), nn.Linear(3, 8)
        self.recurrent, self.output = nn.Linear(2, 8, bias=False), nn.Linear(2, outputs)

    def forward(self, x: Tensor) -> Tensor:
        gates = nn.functional.embedding(x, self.inputs(self.embedding.weight))
        return self.output(lstm_state(gates, self.recurrent.weight))


class Mean(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(x))[0].mean(dim=1))


class Residual(Net):
    def forward(self, x: Tensor) -> Tensor:
        embedded = self.embedding(x)
        return self.head(self.lstm(embedded)[0][:, -1] + embedded[:, -1, :2])


class Loop(Elementary):
    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 2, dtype=torch.float64)
        for letter in self.inputs(self.embedding(x)).unbind(dim=1):
            h = torch.tanh((letter + self.recurrent(h))[:, :2])
        return self.output(h)


class Gru(Net):
    def __init__(self, outputs: int) -> None:
        super().__init__(outputs)
        self.lstm = nn.GRU(3, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(x))[1][-1])


class Unused(Net):
    def __init__(self, outputs: int) -> None:
        super().__init__(outputs)
        self.spare = nn.Linear(2, 2)


def frozen(network: nn.Module) -> nn.Module:
    network.embedding.weight.requires_grad_(False)
    return network


KNOWN = {
    "last state": Net,
    "padding": lambda outputs: Net(outputs, padding_idx=0),
    "letters first": lambda outputs: Net(outputs, batch_first=False),
    "last output": LastOutput,
    "letters first, no biases": LettersFirst,
    "given state": GivenState,
    "elementary": Elementary,
}
UNKNOWN = {
    "two layers": lambda outputs: Net(outputs, num_layers=2),
    "projection": lambda outputs: Net(outputs, units=4, proj_size=2),
    "mean of the outputs": Mean,
    "residual": Residual,
    "loop": Loop,
    "GRU": Gru,
    "unused weights": Unused,
    "frozen weights": lambda outputs: frozen(Net(outputs)),
    "no embedding": lambda outputs: nn.Sequential(nn.Flatten(), nn.Linear(4, outputs)),
}


def learner_for(
    model: Any,
    kind: Any,
    base: SGD | em.Optimizer,
    rows: int = 15,
    letters: int = 4,
    dtype: torch.dtype = torch.float64,
) -> Learner:
    rng = torch.Generator().manual_seed(rows)
    x = torch.randint(0, 7, (rows, letters), generator=rng)
    y = {
        "regression": torch.randn(rows, 2, generator=rng, dtype=dtype),
        "binary": (torch.rand(rows, 1, generator=rng) > 0.5).to(dtype),
        "multiclass": torch.arange(rows) % 3,
    }[kind]
    task = em.Task(kind, kind, (x, y), (x[:10], y[:10]))
    (learner,) = make_learners(
        [task], lambda: model(task.outputs).to(dtype), em.SearchConfig(base=base), 0, "test"
    )
    return learner


def losses_for(expressions: list[Any], kind: Any, seed: int = 0) -> list[LearnedLoss]:
    chosen = [e if isinstance(e, Expression) else Expression.parse(e) for e in expressions]
    return [LearnedLoss(e, kind, phi=weights_for(e, seed, 0.3).double()) for e in chosen]


def meta_gradients(losses: list[LearnedLoss], learner: Learner, base: SGD) -> tuple[Tensor, Tensor]:
    (stack,) = make_stacks([learner])
    assert isinstance(stack, RecurrentStack)
    assert compiled.fits(stack)
    program = Program([loss.expression for loss in losses])
    phi = program.pad([loss.phi for loss in losses]).to(stack.theta0[0].dtype)
    with torch.no_grad():
        return meta_step_of(stack, program, em.SearchConfig(base=base))(phi, 2)


def relative_errors(losses: list[LearnedLoss], learner: Learner, base: SGD, exact: Learner) -> list[float]:
    """Norm-wise errors of the meta-gradients against double backward, where that is finite."""
    values, gradients = meta_gradients(losses, learner, base)
    found = []
    for p, loss in enumerate(losses):
        if not loss.size:
            continue
        value, (wanted,) = meta_gradient(loss, exact, 2, em.SearchConfig(base=base), "autograd")
        if not torch.isfinite(wanted).all():
            assert not torch.isfinite(gradients[p]).all() or not torch.isfinite(values[p])
            continue
        error = torch.linalg.vector_norm(gradients[p, : loss.size].double() - wanted)
        size = torch.linalg.vector_norm(wanted)
        found.append(float(error / size) if size > 1e-9 else float(error))
        assert abs(values[p] - value) <= 1e-4 * abs(value)
    return found


@pytest.mark.parametrize("name", KNOWN)
def test_the_usual_ways_of_writing_are_recognised(name: str) -> None:
    learner = learner_for(KNOWN[name], "multiclass", PLAIN)
    assert max(relative_errors(losses_for(LOSSES, "multiclass"), learner, PLAIN, learner)) < 1e-10
    assert choose_engine([learner], em.SearchConfig(base=PLAIN)) == "batched"


@pytest.mark.parametrize("name", UNKNOWN)
def test_other_networks_are_left_to_the_general_engines(name: str) -> None:
    assert form_of(UNKNOWN[name](3).double(), torch.zeros(2, 4, dtype=torch.int64)) is None


def test_hooks_and_tied_weights_are_left_to_the_general_engines() -> None:
    hooked, tied = Net(3), Net(3, symbols=8, width=2, units=2, dense=2)
    hooked.head.register_forward_hook(lambda *_: None)
    tied.lstm.weight_hh_l0 = tied.embedding.weight
    x = torch.zeros(2, 4, dtype=torch.int64)
    assert form_of(hooked, x) is None
    assert form_of(tied, x) is None


@settings(max_examples=25)
@given(
    st.lists(trees(), min_size=1, max_size=4),
    st.sampled_from(["regression", "binary", "multiclass"]),
    st.sampled_from([PLAIN, MOMENTUM, NESTEROV]),
    st.tuples(*[st.integers(1, 5)] * 5),
    SEEDS,
)
def test_the_meta_gradient_is_that_of_double_backward(
    expressions: list[Expression], kind: str, base: SGD, sizes: tuple[int, ...], seed: int
) -> None:
    width, units, dense, letters, rows = sizes
    learner = learner_for(
        lambda outputs: Net(outputs, width=width, units=units, dense=dense), kind, base, 10 + rows, letters
    )
    assert all(
        error < 1e-10 for error in relative_errors(losses_for(expressions, kind, seed), learner, base, learner)
    )


@pytest.mark.parametrize("base", [PLAIN, MOMENTUM, NESTEROV, ADAM])
@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_training_is_pytorchs(kind: str, base: SGD | em.Optimizer) -> None:
    learner, losses = learner_for(KNOWN["padding"], kind, base), losses_for(LOSSES, kind)
    rows = train_stack(losses, [learner], base, 7, record=[0, 3])
    for loss, (ours,) in zip(losses, rows, strict=True):
        wanted = train(loss, learner, base, 7, record=[0, 3])
        assert ours.diverged == wanted.diverged
        for got, expected in zip(ours.curve, wanted.curve, strict=True):
            assert got == pytest.approx(expected, rel=1e-9)
    assert train_all(losses[0], [learner], base, 7, record=[0, 3])[0] == rows[0][0].curve


def test_company_and_threads_change_no_bit() -> None:
    learner = learner_for(KNOWN["last state"], "multiclass", NESTEROV, dtype=torch.float32)
    wild = LearnedLoss("square(square(square(square(log(f)))))", "multiclass", phi=[1e9] * 5)
    losses = [wild, *losses_for(LOSSES, "multiclass")]

    def results(chosen: list[LearnedLoss]) -> tuple[np.ndarray, list[Any]]:
        gradients = meta_gradients(chosen, learner, NESTEROV)[1].numpy()
        return gradients, [row[0].curve for row in train_stack(chosen, [learner], NESTEROV, 5)]

    together = results(losses)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        in_threads = results(losses)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(together[0], in_threads[0])
    assert together[1] == in_threads[1]
    assert not np.isfinite(together[0][0]).all()
    for p in range(1, len(losses)):
        gradient, curves = results([losses[p]])
        np.testing.assert_array_equal(together[0][p][: gradient.shape[1]], gradient[0])
        assert together[1][p] == curves[0]


def test_float32_is_exact_to_its_rounding() -> None:
    learner = learner_for(KNOWN["last state"], "multiclass", PLAIN, dtype=torch.float32)
    exact = replace(learner, network=copy.deepcopy(learner.network).double())
    losses = losses_for(LOSSES[:4], "multiclass")
    assert statistics.median(relative_errors(losses, learner, PLAIN, exact)) < 3e-6


def test_a_network_that_diverges_shows_it() -> None:
    base = SGD(lr=1e6, batch_size=6)
    learner = learner_for(KNOWN["last state"], "regression", base)
    ((ours,),) = train_stack([LearnedLoss("square(sub(f, y))", "regression")], [learner], base, 30)
    assert ours.diverged


@settings(max_examples=60)
@given(st.sampled_from(sorted(KNOWN)), st.integers(1, 4), st.booleans(), SEEDS)
def test_derivatives_by_hand_agree_with_autograd(name: str, candidates: int, shared: bool, seed: int) -> None:
    kinds = ["regression", "binary", "multiclass"]
    learner = learner_for(KNOWN[name], kinds[seed % 3], PLAIN)
    ours, theirs = make_stacks([learner])[0], NetworkStack([learner])
    padded = name == "padding"  # whose row is in no direction that gradients of this network have
    assert_same_derivatives(ours, theirs, candidates, shared, seed, zero=0 if padded else None)


def test_the_padding_row_is_no_direction_by_hand() -> None:
    (stack,) = make_stacks([learner_for(KNOWN["padding"], "multiclass", PLAIN)])
    out, _, pushforward = stack.linearise(stack.theta0, torch.zeros(1, 6, 4, dtype=torch.int64), 0)
    direction = [torch.zeros_like(w) for w in stack.theta0]
    direction[0][:, :, 0] = 1
    assert not pushforward(direction).any()
    assert out.any()


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_training_by_hand_agrees_with_pytorch(kind: str) -> None:
    losses, learner = losses_for(LOSSES, kind), learner_for(KNOWN["padding"], kind, NESTEROV)
    ours, theirs = (
        StackTraining(losses, s, NESTEROV) for s in (make_stacks([learner])[0], NetworkStack([learner]))
    )
    for steps in (0, 1, 3):
        ours.advance([NESTEROV.lr] * steps)
        theirs.advance([NESTEROV.lr] * steps)
        got, wanted = ours.errors(["validation"]), theirs.errors(["validation"])
        torch.testing.assert_close(got["validation"], wanted["validation"], rtol=1e-9, atol=0)
