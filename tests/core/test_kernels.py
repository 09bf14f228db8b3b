"""The compiled kernels against the PyTorch path that they take over from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import SEEDS, pairwise, regression_task, small_model, tiny_config, trees, weights_for
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import evomal_core as em
from evomal_core.config import SGD
from evomal_core.expression import Expression
from evomal_core.filters import minimise_predictions
from evomal_core.learners import Learner, make_learners
from evomal_core.losses import LearnedLoss
from evomal_core.population import candidates, compiled
from evomal_core.population.compiled_perceptrons import PerceptronMetaStep, PerceptronTraining
from evomal_core.population.local_search import MetaStep, meta_step_of
from evomal_core.population.networks import MLPStack, make_stacks
from evomal_core.population.optimisers import kernel_steps
from evomal_core.population.training import StackTraining, batched_minimise_predictions
from evomal_core.population.trees import Program
from evomal_core.primitives import PRIMITIVES, TERMINALS
from evomal_core.seeds import isolated_torch

pytest.importorskip("numba")
kernels = pytest.importorskip("evomal_core.population.kernels")
pytestmark = pytest.mark.usefixtures("with_kernels")

NESTEROV = SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01, batch_size=8)
MOMENTUM = SGD(lr=0.05, momentum=0.5, batch_size=8)
FULL = SGD(lr=0.05, batch_size=100)
ADAM = em.Optimizer("Adam", lr=0.01, weight_decay=0.1, betas=(0.8, 0.9), batch_size=8)
ADAMW = em.Optimizer("AdamW", lr=0.01, weight_decay=0.1, eps=1e-4, batch_size=100)
KINDS = ("regression", "binary", "multiclass")
LEARNT = ["square(sub(f, y))", "tanh(sub(f, y))", "log(add(1, square(sub(f, y))))", "div(f, y)", "mul(y, y)"]


def learners_for(
    kind: Any, base: SGD | em.Optimizer, dtype: torch.dtype = torch.float64, activation: str = "relu"
) -> list[Learner]:
    tasks = []
    for seed in range(2):
        rng = torch.Generator().manual_seed(seed)
        x = torch.randn(40, 3, generator=rng, dtype=dtype)
        y = {
            "regression": torch.randn(40, 2, generator=rng, dtype=dtype),
            "binary": (torch.rand(40, 1, generator=rng) > 0.5).to(dtype),
            "multiclass": torch.arange(40) % 4,
        }[kind]
        tasks.append(em.Task(f"{kind} {seed}", kind, (x[:20], y[:20]), (x[20:], y[20:])))

    def model() -> nn.Module:
        if activation == "relu":
            return em.models.mlp(3, [7, 5], tasks[0].outputs)
        return nn.Sequential(nn.Linear(3, 6, bias=False), nn.Tanh(), nn.Linear(6, tasks[0].outputs), nn.Tanh())

    return make_learners(tasks, model, em.SearchConfig(base=base), 0, "test")


def the_stack(learners: list[Learner]) -> MLPStack:
    (stack,) = make_stacks(learners)
    assert isinstance(stack, MLPStack)
    assert compiled.fits(stack)
    return stack


def losses_for(expressions: list[Any], kind: Any, softplus: bool = False, seed: int = 0) -> list[LearnedLoss]:
    trees = [e if isinstance(e, Expression) else Expression.parse(e) for e in expressions]
    return [LearnedLoss(e, kind, phi=weights_for(e, seed, 0.3).double(), softplus=softplus) for e in trees]


def both_meta_steps(
    losses: list[LearnedLoss], learners: list[Learner], config: em.SearchConfig
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    stack = the_stack(learners)
    program = Program([loss.expression for loss in losses], losses[0].softplus)
    phi = program.pad([loss.phi.to(stack.theta0[0].dtype) for loss in losses])
    step = meta_step_of(stack, program, config)
    assert isinstance(step, PerceptronMetaStep)
    return step(phi, 3), MetaStep(stack, program, config)(phi, 3)


def assert_agree(losses: list[LearnedLoss], learners: list[Learner], config: em.SearchConfig) -> None:
    with torch.no_grad():
        (values, gradients), (wanted_values, wanted) = both_meta_steps(losses, learners, config)
    for p, loss in enumerate(losses):
        ours, theirs = gradients[p, : loss.size], wanted[p, : loss.size]
        if not torch.isfinite(theirs).all():
            assert not torch.isfinite(ours).all() or not torch.isfinite(values[p])
            continue
        torch.testing.assert_close(values[p], wanted_values[p], rtol=1e-10, atol=0)
        error, size = torch.linalg.vector_norm(ours - theirs), torch.linalg.vector_norm(theirs)
        assert error <= 1e-10 * size + 1e-13, f"{loss}: {error:.1e} of {size:.1e}"


@given(st.lists(trees(), min_size=1, max_size=5), st.sampled_from(KINDS), st.booleans(), SEEDS)
def test_the_meta_step_agrees_with_pytorch(
    expressions: list[Expression], kind: str, softplus: bool, seed: int
) -> None:
    losses = losses_for(expressions, kind, softplus, seed)
    assert_agree(losses, learners_for(kind, NESTEROV), em.SearchConfig(base=NESTEROV))


@pairwise(kind=KINDS, activation=["relu", "tanh"], base=[NESTEROV, MOMENTUM, FULL])
def test_every_layer_and_optimiser_agrees(kind: str, activation: str, base: SGD) -> None:
    learners = learners_for(kind, base, activation=activation)
    assert_agree(losses_for(LEARNT, kind), learners, em.SearchConfig(base=base))


@pairwise(kind=KINDS, activation=["relu", "tanh"], base=[NESTEROV, MOMENTUM, FULL, ADAM, ADAMW])
def test_training_agrees_with_pytorch(kind: str, activation: str, base: SGD | em.Optimizer) -> None:
    losses = losses_for(LEARNT, kind)
    stack = the_stack(learners_for(kind, base, activation=activation))
    ours, theirs = PerceptronTraining(losses, stack, kernel_steps(base)), StackTraining(losses, stack, base)
    for steps in (0, 3, 5):
        ours.advance([base.lr] * steps)
        theirs.advance([base.lr] * steps)
        got, wanted = ours.errors(["train", "validation"]), theirs.errors(["train", "validation"])
        for part, values in wanted.items():
            torch.testing.assert_close(got[part].to(values.dtype), values, rtol=1e-9, atol=0)
    assert torch.equal(ours.finite(), theirs.finite())


@given(st.lists(trees(), min_size=1, max_size=5), st.sampled_from(KINDS), st.booleans(), SEEDS)
def test_minimised_predictions_agree_with_pytorch(
    expressions: list[Expression], kind: str, softplus: bool, seed: int
) -> None:
    config = em.SearchConfig(rejection_steps=3, rejection_lr=0.01)
    losses = losses_for(expressions, kind, softplus, seed)
    with isolated_torch(seed, "predictions"):
        y_pred = torch.randn(6, 1 if kind == "binary" else 3).double()
    y_true = torch.arange(6) % 3 if kind == "multiclass" else torch.ones_like(y_pred)
    ours = batched_minimise_predictions(losses, y_pred, y_true, config)
    for loss, found in zip(losses, ours, strict=True):
        wanted = minimise_predictions(loss, y_pred, y_true, config)
        torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9, equal_nan=True)


def test_company_and_threads_change_no_bit() -> None:
    base = SGD(lr=0.05, momentum=0.9, batch_size=8)
    stack = the_stack(learners_for("multiclass", base, torch.float32))
    config = em.SearchConfig(base=base)
    wild = LearnedLoss("square(square(square(square(log(f)))))", "multiclass", phi=[1e9] * 5)
    losses = [wild, *losses_for(LEARNT, "multiclass")]

    def results(chosen: list[LearnedLoss]) -> tuple[np.ndarray, np.ndarray]:
        program = Program([loss.expression for loss in chosen])
        phi = program.pad([loss.phi.float() for loss in chosen])
        training = PerceptronTraining(chosen, stack, kernel_steps(base))
        training.advance([base.lr] * 5)
        gradients = meta_step_of(stack, program, config)(phi, 0)[1]
        return gradients.numpy(), training.theta

    threads = torch.get_num_threads()
    together = results(losses)
    try:
        torch.set_num_threads(3)
        in_threads = results(losses)
    finally:
        torch.set_num_threads(threads)
    for ours, same in zip(together, in_threads, strict=True):
        np.testing.assert_array_equal(ours, same)
    assert not np.isfinite(together[1][0]).all()
    for p in range(1, len(losses)):
        for ours, alone in zip(together, results([losses[p]]), strict=True):
            width = alone.shape[1]
            np.testing.assert_array_equal(ours[p][:width], alone[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logarithm_and_tanh_are_accurate_to_two_and_three_units_in_the_last_place(dtype: Any) -> None:
    from numba import njit

    @njit
    def rows(x: Any, logarithm: Any, tanh: Any) -> None:
        kernels._log_row(np.abs(x), logarithm)
        kernels._tanh_row(x, tanh)

    rng = np.random.default_rng(0)
    x = np.concatenate([10 ** rng.uniform(-7, 30, 5000), 10 ** rng.uniform(-7, 2, 5000), [1, np.inf, np.nan]])
    x = np.concatenate([x, -x]).astype(dtype)
    logarithm, tanh = np.empty_like(x), np.empty_like(x)
    rows(x, logarithm, tanh)
    exact = x.astype(np.longdouble)
    unit = np.finfo(dtype).eps
    np.testing.assert_allclose(logarithm, np.log(np.abs(exact)), rtol=2 * unit, atol=0)
    np.testing.assert_allclose(tanh, np.tanh(exact), rtol=3 * unit, atol=0)


def test_the_operations_are_numbered_as_named() -> None:
    names = ("F", "Y", "ONE", "MINUS", "ADD", "SUB", "MUL", "DIV", "MIN", "MAX", "SQUARE", "ABS", "SQRT", "LOG")
    assert [getattr(kernels, name) for name in (*names, "SIGN", "TANH", "SQRT_CLAMPED", "LOG_CLAMPED")] == list(
        range(18)
    )
    assert [name.lower() for name in names[4:]] == list(kernels.OPERATIONS[4:14])
    assert set(kernels.OPERATIONS) == {*TERMINALS, *PRIMITIVES}


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_clamped_operations_agree(kind: str) -> None:
    small = "mul(sub(f, y), mul(f, sub(f, f)))"  # 0, below the clamp
    trees = [
        "clamped_log(f)",
        "clamped_sqrt(sub(f, y))",
        f"add(f, clamped_log({small}))",
        f"clamped_sqrt({small})",
    ]
    config = em.SearchConfig(base=FULL)
    assert_agree(losses_for(trees, kind), learners_for(kind, FULL), config)


def test_the_kernels_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = the_stack(learners_for("regression", FULL))
    monkeypatch.setenv("EVOMAL_KERNELS", "0")
    assert not compiled.fits(stack)


def test_without_numba_everything_works(tmp_path: Path) -> None:
    """Importing Numba fails in another process; the same search and fitness go through PyTorch."""
    (tmp_path / "numba.py").write_text("raise ImportError('no numba here')\n")
    code = """
import torch, evomal_core as em
from evomal_core.population import candidates
from evomal_core.engines import choose_engine, local_search
from evomal_core.engines import fitness
from evomal_core.learners import make_learners
task = em.Task.from_arrays(torch.randn(40, 2).numpy(), torch.randn(40).numpy(), kind="regression")
config = em.SearchConfig(meta_steps=2, fitness_steps=2)
learners = make_learners([task], lambda: em.models.mlp(2, [4], 1), config, 0, "t")
losses = [em.LearnedLoss("square(sub(f, y))")]
assert candidates.libraries() is None
assert choose_engine(learners, config) == "batched"
assert not local_search(losses, learners, config, "batched")[0].diverged
print(fitness(losses, learners, config, "batched"))
"""
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_first_search_on_a_machine_is_announced(tmp_path: Path) -> None:
    """Where a kernel that it needs was never compiled; not where they are switched off."""
    code = """
import os, torch, evomal_core as em
from pathlib import Path
from evomal_core.population.compiled import must_compile
from evomal_core.population.networks import make_stacks
from evomal_core.learners import make_learners
task = em.Task.from_arrays(torch.randn(40, 2).numpy(), torch.randn(40).numpy(), kind="regression")
config = em.SearchConfig()
stacks = make_stacks(make_learners([task], lambda: em.models.mlp(2, [4], 1), config, 0, "t"))
print(must_compile(stacks, config))
os.environ["EVOMAL_KERNELS"] = "0"
print(must_compile(stacks, config))
os.environ["EVOMAL_KERNELS"] = "1"
(folder,) = Path(os.environ["NUMBA_CACHE_DIR"]).iterdir()
(folder / "kernels.train-1.py311.nbi").touch()
print(must_compile(stacks, config))
print(must_compile(stacks, config.replace(rejection_steps=0)))
(folder / "kernels.minimise-1.py311.nbi").touch()
print(must_compile(stacks, config))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "EVOMAL_KERNELS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["True", "False", "True", "False", "False"]


def test_a_whole_search_by_the_kernels_is_the_same_twice_and_pytorchs_but_for_rounding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In float32, as searches are; where a kernel has to be compiled first, the bar says so."""

    def fitnesses(progress: bool = False) -> dict[Expression, float]:
        config = tiny_config(generations=1, meta_optimizer="sgd")
        result = em.learn_loss([regression_task()], small_model(), config=config, progress=progress, compare=False)
        assert result.engine == "batched"
        return {evaluation.loss.expression: evaluation.fitness for evaluation in result.evaluations}

    ours = fitnesses()
    assert fitnesses() == ours
    monkeypatch.setenv("EVOMAL_KERNELS", "0")
    monkeypatch.setattr("evomal_core.population.compiled.must_compile", lambda *_: True)
    assert fitnesses(progress=True) == pytest.approx(ours, rel=1e-3)
    assert "compiling the kernels" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tanh_in_place_has_the_bits_of_tanh_apart(dtype: Any) -> None:
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30]
    x = np.concatenate([np.linspace(-12, 12, 1001), special]).astype(dtype)
    apart, in_place = np.empty_like(x), x.copy()
    kernels._tanh_row(x, apart)
    kernels._tanh_in_place(in_place)
    np.testing.assert_array_equal(in_place, apart)
    np.testing.assert_allclose(apart, np.tanh(x.astype(np.float64)), rtol=8 * np.finfo(dtype).eps)


@given(st.lists(trees(), min_size=1, max_size=3), st.sampled_from(KINDS), st.booleans(), SEEDS)
def test_slopes_and_mixed_products_agree_with_the_losses_own_derivatives(
    expressions: list[Expression], kind: str, softplus: bool, seed: int
) -> None:
    losses = losses_for(expressions, kind, softplus, seed)
    rng = torch.Generator().manual_seed(seed)
    outputs = 3 if kind == "multiclass" else 2
    logits, change = torch.randn(2, 7, outputs, generator=rng, dtype=torch.float64)
    classes = torch.arange(7) % outputs
    labels = (
        nn.functional.one_hot(classes).double()
        if kind == "multiclass"
        else torch.rand(7, 2, generator=rng).double().round()
    )
    population = candidates.Population(expressions, softplus, kind)
    phi = candidates.padded_weights([loss.phi for loss in losses], torch.float64)
    chosen = np.arange(len(losses))
    found, by_phi = np.empty((len(losses), 7, outputs)), np.empty_like(phi)
    shared = (population.kind, softplus, population.trees, population.lengths, phi, logits[None].numpy())
    kernels.slopes(*shared, labels.numpy(), chosen, found)
    spread = change.expand(len(losses), -1, -1).contiguous().numpy()
    kernels.mixed_products(*shared, labels.numpy(), spread, 0.5, chosen, by_phi)
    for p, loss in enumerate(losses):
        z = logits.clone().requires_grad_()
        value = loss(z, classes if kind == "multiclass" else labels) + 0 * z.sum()  # where f is in no tree
        (slope,) = torch.autograd.grad(value, z, create_graph=True)
        product = (slope * change).sum()
        wanted = (
            torch.autograd.grad(product, loss.phi, materialize_grads=True)[0]
            if product.requires_grad
            else torch.zeros_like(loss.phi)
        )
        np.testing.assert_allclose(found[p], slope.detach().numpy(), rtol=1e-9, atol=1e-12)
        size = float(torch.linalg.vector_norm(wanted))
        error = float(np.linalg.norm(by_phi[p, : loss.size] + 0.5 * wanted.numpy()))
        assert error <= 1e-9 * size + 1e-12
