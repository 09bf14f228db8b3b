"""Meta-gradients in float32 against float64, and the cause of each large difference.

Random populations of random trees take one meta-step with a small perceptron on random data, in both precisions
and from the same float32 numbers. The error of a candidate is ‖g32 − g64‖ / ‖g64‖. An error beyond LIMIT is put
down to the first of these causes whose test holds; the tests compare what the two precisions meet on the way:

- `range`: the gradient in float32 is not finite, or shorter than 1e-30, or the tree meets a value or slope beyond
  1e18, whose square float32 can't hold;
- `kink`: the argument of an abs, sqrt, log or sign has another sign, that of a min or max another order, or a
  ReLU is on its other side, in float32;
- `saturation`: f·(1 − f) of a sigmoid or softmax f differs by more than TELLING, relatively;
- `slope`: the slope of a log or sqrt, up to 1/ε, differs by more than TELLING, relatively;
- `cancellation`: the float64 gradient itself moves by more than LIMIT / 10 when weights, data, phi and what the
  program has computed are changed at random in the last place of float32 (stochastic arithmetic).
"""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import evomal_core as em
from evomal_core.expression import random_expression
from evomal_core.kinds import KINDS, Kind
from evomal_core.learners import make_learners
from evomal_core.losses import LearnedLoss
from evomal_core.population.local_search import MetaStep
from evomal_core.population.networks import MLPStack
from evomal_core.population.perceptrons import sequential
from evomal_core.population.rows import Rows
from evomal_core.population.steps import Stacked
from evomal_core.population.trees import Program

LIMIT, TELLING = 1e-3, 1e-4
UNIT = 2.0**-24
"""The rounding unit of float32."""
SIGNED, COMPARED, STEEP = ("abs", "sqrt", "log", "sign"), ("min", "max"), ("sqrt", "log")
CONFIG = em.SearchConfig(base=em.SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01, batch_size=32))


@dataclass
class Watched(MetaStep):
    """A meta-step that keeps what it meets: predictions, the program's tape, and hidden values.

    `moved` is applied to all that its program keeps for the mixed product.
    """

    moved: Callable[[Tensor], Tensor] = field(kw_only=True)
    f: Tensor = field(init=False)
    tape: Any = field(init=False)
    hidden: list[Tensor] = field(default_factory=list)

    def _slope(self, phi: Tensor, predictions: Tensor, rows: Rows) -> tuple[Tensor, Tensor, Any]:
        found = super()._slope(phi, predictions, rows)
        self.f, _, self.tape = found
        for block in self.tape:
            for name in ("value", "a", "b", "slope_a", "slope_b", "before", "after"):
                if (values := getattr(block, name)) is not None:
                    setattr(block, name, self.moved(values))
        return found


class WatchedStack(MLPStack):
    """Perceptrons that append their hidden values to `seen`."""

    seen: list[Tensor]

    def _forward(self, theta: Any, x: Tensor) -> Stacked:
        outputs = super()._forward(theta, x)
        self.seen += outputs[1:-1]
        return outputs


@dataclass
class Trial:
    """A population with its task, all of it in float32."""

    losses: list[LearnedLoss]
    kind: Kind
    x: Tensor
    y: Tensor
    seed: int

    def step(self, dtype: torch.dtype, noise: float = 0.0) -> tuple[Tensor, Watched]:
        """The gradients (P, E) in a precision, from numbers moved by ± noise, and what the step met."""
        rng = torch.Generator().manual_seed(self.seed)

        def moved(values: Tensor) -> Tensor:
            if not noise:
                return values.to(dtype)
            signs = 2.0 * torch.randint(0, 2, values.shape, generator=rng) - 1
            return values.to(dtype) * (1 + noise * signs.to(dtype))

        x, y = moved(self.x), moved(self.y) if self.kind == "regression" else self.y
        half = len(x) // 2
        task = em.Task("random", self.kind, (x[:half], y[:half]), (x[half:], y[half:]))
        learners = make_learners(
            [task], lambda: em.models.mlp(3, [7, 5], task.outputs), CONFIG, self.seed, "trial"
        )
        form = sequential(learners[0].network, learners[0].task.train[0], self.kind)
        assert form is not None
        stack = WatchedStack(learners, form)
        stack.theta0, stack.seen = [moved(w) for w in stack.theta0], []
        program = Program([loss.expression for loss in self.losses])
        watched = Watched(stack, program, CONFIG, moved=moved)
        with torch.no_grad():
            gradients = watched(program.pad([moved(loss.phi.detach()) for loss in self.losses]), 0)[1]
        watched.hidden = stack.seen
        return gradients, watched


def trial(seed: int, candidates: int = 10) -> Trial:
    """A random population on a task of random kind and scale; large scales saturate probabilities."""
    rng, draw = random.Random(seed), torch.Generator().manual_seed(seed)
    kind: Kind = KINDS[seed % 3]
    trees = [random_expression(rng, "tpami23", (1, 6)) for _ in range(candidates)]
    losses = [LearnedLoss(t, kind, phi=1 + 0.3 * torch.randn(t.edges, generator=draw)) for t in trees]
    x = rng.choice([1.0, 1.0, 10.0, 100.0]) * torch.randn(64, 3, generator=draw)
    labels = {
        "regression": torch.randn(64, 2, generator=draw),
        "binary": (torch.rand(64, 1, generator=draw) > 0.5).float(),
        "multiclass": torch.arange(64) % 4,
    }
    return Trial(losses, kind, x, labels[kind], seed)


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """Whether two values, the second in float64, differ by more than TELLING, relatively."""
    return (a.double() - b).abs() > TELLING * b.abs()


def _found_in_trees(low: Watched, high: Watched) -> dict[str, set[int]]:
    """The candidates whose trees meet a kink, a telling difference of slopes, or values out of range."""
    found: dict[str, set[int]] = {"kink": set(), "slope": set(), "range": set()}
    width = high.program.width
    for level, ours, exact in zip(high.program._levels, low.tape, high.tape, strict=True):
        owners = level.weights // width
        huge = ~(exact.value.abs() < 1e18).all(dim=1)
        huge[: level.inner] |= ~(exact.slope_a.abs() < 1e18).all(dim=1)
        found["range"] |= set(owners[huge].tolist())
        for name, start, stop in level.groups:
            rows = slice(start, stop)
            kinked = torch.zeros(stop - start, dtype=torch.bool)
            if name in SIGNED:
                kinked = (ours.a[rows].sign() != exact.a[rows].sign()).any(dim=1)
            elif name in COMPARED:
                order = [(b.a[rows] - b.b[rows]).sign() for b in (ours, exact)]
                kinked = (order[0] != order[1]).any(dim=1)
            found["kink"] |= set(owners[rows][kinked].tolist())
            if name in STEEP:
                steep = _apart(ours.slope_a[rows], exact.slope_a[rows]).any(dim=1)
                found["slope"] |= set(owners[rows][steep].tolist())
    return found


def _crossed(low: Watched, high: Watched) -> Tensor:
    """The candidates, (P,), for which a ReLU is on its other side."""
    candidates = len(high.program.expressions)
    crossed = torch.zeros(candidates, dtype=torch.bool)
    for a, b in zip(low.hidden, high.hidden, strict=True):
        crossed |= ((a > 0) != (b > 0)).transpose(0, 1).flatten(1).any(dim=1)
    return crossed


def errors(run: Trial) -> list[tuple[float, str]]:
    """For each candidate with a gradient, its relative error in float32 and the first cause that holds, if any."""
    (g32, low), (g64, high) = run.step(torch.float32), run.step(torch.float64)
    nudged = run.step(torch.float64, UNIT)[0]
    trees, crossed = _found_in_trees(low, high), _crossed(low, high)
    saturated = run.kind != "regression" and bool(_apart(low.f * (1 - low.f), high.f * (1 - high.f)).any())
    results = []
    for p, loss in enumerate(run.losses):
        exact, ours = g64[p, : loss.size], g32[p, : loss.size].double()
        size = float(torch.linalg.vector_norm(exact))
        if size == 0 and not ours.any():
            continue
        error = float(torch.linalg.vector_norm(ours - exact)) / size if size else float("inf")
        moves = float(torch.linalg.vector_norm(nudged[p, : loss.size] - exact))
        tests = {
            "range": not torch.isfinite(ours).all() or not size > 1e-30 or p in trees["range"],
            "kink": p in trees["kink"] or bool(crossed[p]),
            "saturation": saturated,
            "slope": p in trees["slope"],
            "cancellation": not moves <= LIMIT / 10 * size,
        }
        results.append((error, next((cause for cause, holds in tests.items() if holds), "")))
    return results


def study(populations: int = 300) -> dict[str, Any]:
    """The median error over all candidates of random populations, and the number of outliers of each cause.

    How often a cause is found without an outlier says how much its finding means.
    """
    found = [pair for seed in range(populations) for pair in errors(trial(seed))]
    outliers = [cause or "unexplained" for error, cause in found if not error <= LIMIT]
    others = [cause for error, cause in found if error <= LIMIT]
    return {
        "populations": populations,
        "candidates": len(found),
        "median": statistics.median(error for error, _ in found),
        "outliers": len(outliers),
        "causes": dict(Counter(outliers).most_common()),
        "share_of_others_with_a_cause": sum(cause != "" for cause in others) / len(others),
    }
