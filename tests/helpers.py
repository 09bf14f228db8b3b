"""What several test modules share: random trees for hypothesis, small problems, and untouched generators."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations, count, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import nn

import evomal_core as em
from evomal_core.expression import Expression
from evomal_core.population.networks import Stack
from evomal_core.primitives import FUNCTION_SETS, PRIMITIVES, TERMINALS

# Fixed examples: a suite that passes today passes tomorrow. Deadlines mean nothing on shared cores.
settings.register_profile("evomal", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("evomal")

SEEDS = st.integers(0, 2**32 - 1)


def pairwise(**values: Sequence[Any]) -> pytest.MarkDecorator:
    """Parametrise a test by few combinations, in which any two values of different names meet at least once."""
    rows = list(product(*(range(len(each)) for each in values.values())))
    pairs = {row: set(combinations(enumerate(row), 2)) for row in rows}
    left = set().union(*pairs.values())
    chosen = []
    while left:
        chosen.append(max(rows, key=lambda row: len(pairs[row] & left)))
        left -= pairs[chosen[-1]]
    every = list(values.values())
    return pytest.mark.parametrize(list(values), [[every[n][i] for n, i in enumerate(row)] for row in chosen])


def trees(function_set: str = "tpami23", max_leaves: int = 10) -> st.SearchStrategy[Expression]:
    """Any expression of a function set, whether or not it uses both f and y."""
    names = FUNCTION_SETS[function_set]
    unary = st.sampled_from([name for name in names if PRIMITIVES[name].arity == 1])
    binary = st.sampled_from([name for name in names if PRIMITIVES[name].arity == 2])

    def grown(inner: st.SearchStrategy[tuple[str, ...]]) -> st.SearchStrategy[tuple[str, ...]]:
        one = st.builds(lambda name, a: (name, *a), unary, inner)
        two = st.builds(lambda name, a, b: (name, *a, *b), binary, inner, inner)
        return st.one_of(two, one)

    leaves = st.sampled_from(TERMINALS).map(lambda name: (name,))
    return st.recursive(leaves, grown, max_leaves=max_leaves).map(Expression)


def weights_for(expression: Expression, seed: int, spread: float = 0.5) -> torch.Tensor:
    """Edge weights around 1, far enough from it that a weight in the wrong place is seen."""
    rng = torch.Generator().manual_seed(seed)
    return 1 + spread * torch.randn(expression.edges, generator=rng)


def regression_task(rows: int = 40, features: int = 3, outputs: int = 1, seed: int = 0) -> em.Task:
    """A noisy linear relation with training, validation and test rows."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features))
    y = x @ rng.normal(size=(features, outputs)) + 0.1 * rng.normal(size=(rows, outputs))
    return em.Task.from_arrays(x, y, kind="regression", name="linear")


def class_task(classes: int, rows: int = 60, features: int = 3, seed: int = 0) -> em.Task:
    """Classes of one feature's quantiles: binary for two, multiclass for more."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features))
    y = np.digitize(x[:, 0], np.quantile(x[:, 0], np.arange(1, classes) / classes))
    return em.Task.from_arrays(x, y, kind="binary" if classes == 2 else "multiclass")


def small_model(features: int = 3, outputs: int = 1) -> Callable[[], nn.Module]:
    """A factory of the smallest network with a hidden layer."""
    return lambda: em.models.mlp(features, [4], outputs)


def tiny_config(**changes: object) -> em.SearchConfig:
    """A search of seconds, with every part switched on."""
    sizes = {
        "population": 6,
        "generations": 3,
        "initial_heights": (1, 3),
        "meta_steps": 2,
        "fitness_steps": 4,
        "rejection_steps": 4,
        "base": em.SGD(lr=0.01, momentum=0.9, nesterov=True, batch_size=8),
    }
    return em.SearchConfig(**sizes | changes)


class Centred(nn.Module):
    """Subtracts a running mean that it keeps itself."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.out = nn.Linear(3, 4), nn.Linear(4, 1)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        h = self.dense(x)
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * h.detach().mean(0))
        return self.out(torch.tanh(h - self.mean))


@contextmanager
def global_generators_untouched() -> Iterator[None]:
    """Fail if the code within draws from, or seeds, Python's, NumPy's or PyTorch's global generator."""

    def states() -> tuple[object, ...]:
        kind, key, *rest = np.random.get_state()  # noqa: NPY002 - the global state is what is watched
        return random.getstate(), (kind, key.tobytes(), *rest), torch.get_rng_state().numpy().tobytes()

    before = states()
    yield
    for name, then, now in zip(("random", "numpy.random", "torch"), before, states(), strict=True):
        assert then == now, f"the global generator of {name} was touched"


def faulty(
    fault: Callable[[], None], folder: Path, first: int = 1, last: int | None = None
) -> Callable[..., float]:
    """A metric that has a fault in other processes than this one, at their first to last call in all.

    Calls are counted by files, so that it is sure when the fault comes, however busy the machine is.
    """
    caller = os.getpid()

    def absolute(y_pred: Any, y_true: Any) -> float:
        if os.getpid() != caller and first <= number() <= (last or first):
            fault()
        return float(np.abs(y_pred - y_true).mean())

    def number() -> int:
        for found in count(1):
            with contextlib.suppress(FileExistsError):
                os.close(os.open(folder / f"call-{found}", os.O_CREAT | os.O_EXCL))
                break
        return found

    return absolute


def assert_same_derivatives(
    ours: Stack, theirs: Stack, candidates: int, shared: bool, seed: int, zero: int | None = None
) -> None:
    """Two stacks agree on predictions, pullback and pushforward, at weights that candidates share or have drawn.

    Args:
        ours, theirs: the stacks, of one learner.
        candidates: their number.
        shared: whether all have the initial weights.
        seed: of the draws.
        zero: a row of the first weights in which the direction is zero, if any.
    """
    draws = torch.Generator().manual_seed(seed)

    def like(parts: Sequence[torch.Tensor], number: int) -> list[torch.Tensor]:
        return [torch.randn(1, number, *w.shape[2:], generator=draws, dtype=w.dtype) for w in parts]

    theta = ours.theta0 if shared else like(ours.theta0, candidates)
    x = ours.learners[0].task.train[0].unsqueeze(0)
    out, pullback, pushforward = ours.linearise(theta, x, 0)
    wanted, pull, push = theirs.linearise(theta, x, 0)
    torch.testing.assert_close(out, wanted, rtol=1e-10, atol=1e-12)
    (cotangents,) = like([wanted[:, :1]], candidates)
    for found, right in zip(pullback(cotangents), pull(cotangents), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-10)
    direction = like(ours.theta0, candidates)
    if zero is not None:
        direction[0][:, :, zero] = 0
    torch.testing.assert_close(pushforward(direction), push(direction), rtol=1e-9, atol=1e-10)
