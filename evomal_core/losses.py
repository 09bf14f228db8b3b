"""Losses as `nn.Module`s, called as `loss(y_pred, y_true)` in any PyTorch training loop.

A loss has a *kind*, which says what `y_pred` holds: predictions (`"regression"`), or logits that the
loss turns into probabilities itself (`"binary"`, `"multiclass"`), as `nn.CrossEntropyLoss` does. Shapes, missing
labels and weights are the subject of `evomal_core.labels`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from evomal_core import symbolic
from evomal_core.checks import refuse_unknown
from evomal_core.expression import Expression
from evomal_core.files import write_json
from evomal_core.hugging_face import logits_and_labels
from evomal_core.kinds import IGNORED, Kind, check_kind, link
from evomal_core.labels import (
    ClassWeight,
    Reduction,
    as_rows,
    check_class_weight,
    check_shapes,
    read_labels,
    reduce,
    row_shape,
)
from evomal_core.lazy import LazyModule
from evomal_core.primitives import PRIMITIVES, own_operations
from evomal_core.seeds import torch_rng

if TYPE_CHECKING:
    import sympy
else:
    sympy = LazyModule("sympy")

FORMAT = "evomal-loss"
VERSION = 1
LARGEST = torch.finfo(torch.float32).max
"""The largest weight that a saved loss may have."""
LARGEST_INDEX = torch.iinfo(torch.int64).max


class Options(TypedDict, total=False):
    """Options of a loss's use, which are no part of its formula.

    Attributes:
        reduction: "mean" over rows (with weights w, Σ w·loss / Σ w), "sum" over them, or "none".
        ignore_index: the class index of labels that are left out; in any kind NaN labels are left out too.
        class_weight: a number for each class (two for "binary"), or "balanced", by the classes of each batch.
    """

    reduction: Reduction
    ignore_index: int
    class_weight: ClassWeight | None


class Loss(nn.Module):
    """A loss applied to each output, summed over outputs and averaged over the rows (GECCO Eq. 2).

    M(y, f) = 1/B Σ_b Σ_i M_i(y_bi, f_bi). Subclasses define `elementwise`. Shapes are those of
    `evomal_core.labels`: a position of a sequence or an image counts as a row.

    Args:
        kind: what predictions the loss gets, see the module's docstring.
        options: see `Options`.
    """

    def __init__(self, kind: Kind = "regression", **options: Unpack[Options]) -> None:
        super().__init__()
        check_kind(kind)
        self.kind: Kind = kind
        self._set(options)

    def _set(self, options: Options) -> None:
        for name in options:
            refuse_unknown("option of a loss", name, list(Options.__annotations__))
        self.reduction: Reduction = options.get("reduction", "mean")
        refuse_unknown("reduction", self.reduction, get_args(Reduction))
        self.ignore_index = options.get("ignore_index", IGNORED)
        if type(self.ignore_index) is not int or abs(self.ignore_index) > LARGEST_INDEX:
            raise ValueError(f"ignore_index is a whole number such as {IGNORED}, got {self.ignore_index!r:.40}")
        self.class_weight = options.get("class_weight")
        if self.class_weight is not None:
            check_class_weight(self.class_weight, self.kind)

    def tree(self) -> Loss:
        """The same loss as an expression with weights if it has such a form, or else the loss itself."""
        return self

    @property
    def options(self) -> Options:
        """The options of its use that are not the usual ones."""
        options: Options = {}
        if self.reduction != "mean":
            options["reduction"] = self.reduction
        if self.ignore_index != IGNORED:
            options["ignore_index"] = self.ignore_index
        if self.class_weight is not None:
            options["class_weight"] = self.class_weight
        return options

    def replace(self, **options: Unpack[Options]) -> Self:
        """A copy with other options, for example `loss.replace(reduction="none")`."""
        other = copy.deepcopy(self)
        other._set(self.options | options)
        return other

    def elementwise(self, f: Tensor, y: Tensor) -> Tensor:
        """Values of the loss for each pair of prediction `f` and label `y`, in their common shape."""
        raise NotImplementedError

    def of_logits(self, logits: Tensor, y: Tensor) -> Tensor:
        """Values of the loss for predictions or logits and labels as numbers, both (rows, outputs)."""
        return self.elementwise(link(logits, self.kind), y)

    def forward(
        self,
        y_pred: Tensor,
        y_true: Tensor,
        weight: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The loss of a batch: a scalar, with `reduction="none"` one number a row.

        Half precision, as from autocast, becomes float32, as in PyTorch's own losses: a square overflows float16
        beyond 255.

        Args:
            y_pred: predictions or logits; also what a Hugging Face model returns.
            y_true: labels; those that are missing are left out, see `evomal_core.labels`.
            weight: of each row, (N,); of each position or label, in the shape of the labels.
            num_items_in_batch: the number of labels of all batches whose gradients are accumulated, from a Hugging
                Face Trainer; this batch's sum is divided by it, whatever the reduction.

        Raises:
            ValueError: the shapes do not fit each other or the kind, a class index or a probability is out of
                range, or a weight is negative or not finite. On a GPU, values are not looked at.
        """
        y_pred, y_true = logits_and_labels(y_pred, y_true)
        check_shapes(y_pred, y_true, self.kind)
        with _without_autocast(y_pred):
            logits = as_rows(y_pred.to(torch.promote_types(y_pred.dtype, torch.float32)), self.kind)
            labels = read_labels(
                y_true, self.kind, logits.shape[1], logits.dtype, weight=weight,
                ignore_index=self.ignore_index, class_weight=self.class_weight,
            )  # fmt: skip
            values = self.of_logits(labels.hide(logits), labels.y)
            if num_items_in_batch is None:
                return reduce(values, labels, self.reduction, row_shape(y_pred, self.kind))
            columns = 1 if self.kind == "multiclass" else values.shape[1]
            return reduce(values, labels, "sum", ()) * columns / num_items_in_batch

    @property
    def size(self) -> int:
        """Number of trainable weights phi."""
        return sum(weights.numel() for weights in self.parameters())

    @property
    def identity(self) -> str:
        """The text that tells this loss from those whose weights mean something else."""
        return repr(self)

    def get_extra_state(self) -> Tensor:
        """The identity, as bytes in a tensor, so that it fits into any file of tensors."""
        return torch.tensor(list(self.identity.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing: `_load_from_state_dict` has compared it."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        saved = state_dict.get(f"{prefix}_extra_state")
        if isinstance(saved, Tensor) and (found := bytes(saved.tolist()).decode()) != self.identity:
            rest[-1].append(
                f"the weights are those of {found}, and this is {self.identity}; make that loss, or save and load "
                "losses by loss.save(path) and evomal_core.load_loss(path)"
            )
            return
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def save(self, path: Path | str) -> None:
        """Write the loss as JSON, atomically; `load_loss` reads it back, exactly if its weights are float32."""
        write_json(path, self.record())

    def record(self) -> dict[str, Any]:
        """The loss as JSON-ready data: its family, structure, weights (exact decimal floats) and options.

        Raises:
            TypeError: it is no loss of evomal_core.
            ValueError: its weights are not finite float32 numbers.
        """
        structure = self._structure()
        weights = [value for weight in self.parameters() for value in weight.detach().flatten().tolist()]
        if not all(abs(weight) <= LARGEST for weight in weights):
            raise ValueError(
                "a loss with NaN, infinite or larger than float32 weights can't be saved; it has diverged"
            )
        options: dict[str, Any] = {**self.options}
        if "class_weight" in options and not isinstance(options["class_weight"], str):
            options["class_weight"] = [float(weight) for weight in options["class_weight"]]
        own = {"options": options} if options else {}
        return {"format": FORMAT, "version": VERSION, "kind": self.kind} | structure | {"weights": weights} | own

    def _structure(self) -> dict[str, Any]:
        """The family of the loss and everything but its weights that makes it."""
        raise TypeError(f"a {type(self).__name__} can't be saved; known are the losses of evomal_core")

    def sympy(self) -> sympy.Expr:
        """The loss of one output as a sympy expression in the real symbols f and y."""
        raise TypeError(f"a {type(self).__name__} has no closed formula")

    def latex(self) -> str:
        """The loss of one output in LaTeX."""
        return symbolic.to_latex(self.sympy())

    def python_source(self, name: str = "learned_loss") -> str:
        """A stand-alone PyTorch function `name(y_pred, y_true)`, equal to this module.

        Raises:
            TypeError: the loss is no short formula.
            ValueError: `name` can't name a function, or the loss has options that the function would lack.
        """
        lines, summary = self._source()
        if self.options:
            raise ValueError(
                "the function takes the mean, without class weights; write loss.replace(reduction='mean', "
                f"ignore_index={IGNORED}, class_weight=None).python_source()"
            )
        return symbolic.wrap_source(lines, self.kind, name, summary)

    def _source(self) -> tuple[Sequence[str], str]:
        """Lines that compute `value` from f and y, and the function's docstring."""
        raise TypeError(f"a {type(self).__name__} can't be written as a short function; save it as JSON instead")

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle \\mathcal{{M}}(y, f) = {self.latex()}$"

    def extra_repr(self) -> str:
        """The kind, for `print(loss)`."""
        return f"kind={self.kind!r}"


def _without_autocast(y_pred: Tensor) -> AbstractContextManager[Any]:
    kind = y_pred.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


class LearnedLoss(Loss):
    """The meta-loss network of an expression: its transposed tree with one weight per edge.

    Each node's output is multiplied by the weight of the edge to its parent; the root has none. An
    optional softplus ln(1 + eˣ) makes the loss non-negative (GECCO sections 3.1.3 and 3.2).

    Args:
        expression: an `Expression` or its text, e.g. `"square(sub(y, f))"`.
        kind: what predictions the loss gets, see the module's docstring.
        phi: edge weights in prefix order of the nodes below the root; all 1 if not given.
        softplus: whether the output passes through a softplus.
        options: see `Options`.

    Raises:
        ValueError: the expression is malformed, or phi has not one finite weight per edge.
    """

    def __init__(
        self,
        expression: Expression | str,
        kind: Kind = "regression",
        *,
        phi: Tensor | list[float] | None = None,
        softplus: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(kind, **options)
        self.expression = expression if isinstance(expression, Expression) else Expression.parse(expression)
        self.softplus = softplus
        edges = self.expression.edges
        weights = torch.ones(edges) if phi is None else torch.as_tensor(phi).detach().clone()
        if weights.shape != (edges,) or not torch.isfinite(weights).all():
            raise ValueError(
                f"{self.expression} has {edges} edges, so phi needs {edges} finite weights, got {phi!r:.100}"
            )
        self.phi = nn.Parameter(weights if weights.is_floating_point() else weights.float())

    def elementwise(self, f: Tensor, y: Tensor) -> Tensor:
        """Values of the loss for each pair of prediction `f` and label `y`, in their common shape."""
        phi = self.phi.unbind()
        constants = {"1": torch.ones_like(f), "-1": -torch.ones_like(f), "f": f, "y": y}

        def node(position: int, name: str, children: Sequence[Tensor]) -> Tensor:
            return weighted(position, PRIMITIVES[name].torch(*children))

        def weighted(position: int, value: Tensor) -> Tensor:
            return value if position == 0 else phi[position - 1] * value

        value = self.expression.fold(lambda i, name: weighted(i, constants[name]), node)
        return functional.softplus(value) if self.softplus else value

    def sympy(self) -> sympy.Expr:
        """The loss of one output in the real symbols f and y: simplified, and checked to be equal."""
        return symbolic.loss_formula(self.expression, self.phi.detach().double().tolist(), self.softplus)

    def _source(self) -> tuple[Sequence[str], str]:
        lines = symbolic.source_lines(self.expression, self.phi.detach().tolist(), self.softplus)
        return lines, f"Learned loss: {self.expression}."

    def _structure(self) -> dict[str, Any]:
        own = sorted({name for name in self.expression.nodes if name in own_operations()})
        needed = {"operations": own} if own else {}
        return {"family": "symbolic", "expression": str(self.expression), "softplus": self.softplus, **needed}

    def extra_repr(self) -> str:
        """The expression and the kind, for `print(loss)`."""
        return f"{self.expression}, kind={self.kind!r}" + (", softplus=True" if self.softplus else "")


def initial_phi(expression: Expression, seed: int) -> Tensor:
    """Edge weights near the unit form, phi ~ N(1, 0.001²) (GECCO section 3.2).

    They depend on the seed and the expression alone, never on what was evaluated before.
    """
    rng = torch_rng(seed, "phi", str(expression))
    return 1 + 1e-3 * torch.randn(expression.edges, generator=rng)


class TaskLoss(Loss):
    """The baseline and meta-objective: squared error or cross-entropy.

    Regression: 1/B Σ_b Σ_i (y − f)². Binary and multiclass: the cross-entropy of logits, computed stably and
    summed over the columns of binary labels.
    """

    def _structure(self) -> dict[str, Any]:
        return {"family": "task"}

    def elementwise(self, f: Tensor, y: Tensor) -> Tensor:
        """The squared error, or −y ln f (for one output also −(1 − y) ln(1 − f))."""
        if self.kind == "regression":
            return torch.square(f - y)
        tiny = torch.finfo(f.dtype).tiny
        value = -y * torch.log(f + tiny)
        return value - (1 - y) * torch.log(1 - f + tiny) if self.kind == "binary" else value

    def of_logits(self, logits: Tensor, y: Tensor) -> Tensor:
        """Values of the loss for predictions or logits and labels as numbers, both (rows, outputs)."""
        if self.kind == "binary":
            return functional.binary_cross_entropy_with_logits(logits, y, reduction="none")
        if self.kind == "multiclass":
            return -y * torch.log_softmax(logits, dim=1).masked_fill(y == 0, 0.0)
        return super().of_logits(logits, y)

    def sympy(self) -> sympy.Expr:
        """The loss of one output in the real symbols f and y."""
        f, y = symbolic.variables()
        if self.kind == "regression":
            return (f - y) ** 2
        positive = -y * sympy.log(f)
        return positive - (1 - y) * sympy.log(1 - f) if self.kind == "binary" else positive


class NegativeProbability(Loss):
    """Minus the probability of the true class, a meta-objective of an early version of the authors' code.

    Raises:
        ValueError: the task is a regression.
    """

    def __init__(self, kind: Kind = "multiclass") -> None:
        super().__init__(kind)
        if kind == "regression":
            raise ValueError("a regression has no probabilities; write meta_objective='task loss'")

    def elementwise(self, f: Tensor, y: Tensor) -> Tensor:
        """−y·f (for one output also −(1 − y)(1 − f))."""
        return -y * f - (1 - y) * (1 - f) if self.kind == "binary" else -y * f
