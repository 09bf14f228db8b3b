"""The known losses of each kind of task, as expressions with their weights: rivals, and where a search starts."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from evomal_core.expression import Expression, in_form_of
from evomal_core.kinds import Kind, check_kind
from evomal_core.losses import LearnedLoss
from evomal_core.primitives import TERMINALS, FunctionSet, function_names
from evomal_core.tasks import Task

SMOOTHING = 0.1
"""The share of the label that label smoothing gives to all classes alike (Szegedy et al. 2016)."""
TOKEN = re.compile(r"(?:(-?\d+(?:\.\d+)?(?:e-?\d+)?)\*)?(-?1\b|[a-z]+)")


@dataclass(frozen=True)
class Known:
    """A row of the tables below.

    Attributes:
        name: shown in tables.
        text: the expression, a weight other than 1 before the node that it multiplies: `mul(2*y, f)`. In braces
            stand a task's numbers: `{smooth}` and `{sharp}`, label smoothing's shares of the other classes
            and of the true one; `{common}`, the weight rows/(2·rows of the class) of a binary task's class 0, and
            `{extra}`, by how much that of class 1 exceeds it; `{odds}`, the ratio of their rows less 1.
            No two rows differ in their weights alone, because a search keeps one candidate an expression.
        source: where it is from.
    """

    name: str
    text: str
    source: str = ""


_P = "sub(1, abs(sub(y, f)))"  # the probability of a binary task's true class
_E = "abs(sub(y, f))"
_LOGIT = "sub(log(f), log(sub(1, f)))"
_WEIGHT = "add({common}*1, {extra}*y)"

_BINARY = (
    Known("cross-entropy", "mul(-1, add(mul(y, log(f)), mul(sub(1, y), log(sub(1, f)))))"),
    Known("Brier", "square(sub(y, f))", "Brier 1950"),
    Known("absolute error", _E, "Ghosh et al. 2017"),
    Known("GCE 0.25", f"sub(4*1, 4*sqrt(sqrt({_P})))", "Zhang & Sabuncu 2018"),
    Known("GCE 0.5", f"sub(2*1, 2*sqrt({_P}))", "Zhang & Sabuncu 2018"),
    Known(
        "GCE 0.75",
        f"sub(1.3333333333333333*1, 1.3333333333333333*mul(sqrt({_P}), sqrt(sqrt({_P}))))",
        "Zhang & Sabuncu 2018",
    ),
    Known("focal 1", f"mul(-1, mul({_E}, log({_P})))", "Lin et al. 2017"),
    Known("focal 2", f"mul(-1, mul(square({_E}), log({_P})))", "Lin et al. 2017"),
    Known("Taylor cross-entropy 2", f"add({_E}, 0.5*square({_E}))", "Feng et al. 2020"),
    Known("label smoothing", f"sub({{smooth}}*mul(-1, log({_E})), {{sharp}}*log({_P}))", "Szegedy et al. 2016"),
    Known("symmetric cross-entropy", f"sub(4*{_E}, 0.1*log({_P}))", "Wang et al. 2019"),
    Known("log-cosh of the logit", f"mul(-0.5*1, log(sub(1, square(tanh(sub({_LOGIT}, sub(2*y, 1)))))))"),
    Known("balanced cross-entropy", f"mul({_WEIGHT}, mul(-1, log({_P})))", "King & Zeng 2001"),
    Known("balanced Brier", f"mul({_WEIGHT}, square(sub(y, f)))"),
    Known("balanced absolute error", f"mul({_WEIGHT}, {_E})"),
    Known("balanced focal 2", f"mul({_WEIGHT}, mul(-1, mul(square({_E}), log({_P}))))", "Lin et al. 2017"),
    Known("logit-adjusted cross-entropy", f"sub(log(add(1, {{odds}}*f)), log({_P}))", "Menon et al. 2021"),
)
_MULTICLASS = (
    Known("cross-entropy", "mul(-1, mul(y, log(f)))"),
    Known("Brier", "square(sub(y, f))", "Brier 1950"),
    Known("absolute error", _E, "Ghosh et al. 2017"),
    Known("GCE 0.25", "mul(4*y, sub(1, sqrt(sqrt(f))))", "Zhang & Sabuncu 2018"),
    Known("GCE 0.5", "mul(2*y, sub(1, sqrt(f)))", "Zhang & Sabuncu 2018"),
    Known("GCE 0.75", "mul(1.3333333333333333*y, sub(1, mul(sqrt(f), sqrt(sqrt(f)))))", "Zhang & Sabuncu 2018"),
    Known("focal 1", "mul(-1, mul(y, mul(sub(1, f), log(f))))", "Lin et al. 2017"),
    Known("focal 2", "mul(-1, mul(y, mul(square(sub(1, f)), log(f))))", "Lin et al. 2017"),
    Known("Taylor cross-entropy 2", "mul(y, add(sub(1, f), 0.5*square(sub(1, f))))", "Feng et al. 2020"),
    Known("label smoothing", "mul(-1, mul(add({sharp}*y, {smooth}*1), log(f)))", "Szegedy et al. 2016"),
    Known("symmetric cross-entropy", "sub(mul(4*f, sub(1, y)), 0.1*mul(y, log(f)))", "Wang et al. 2019"),
    Known("Brier + absolute error", f"add(square(sub(y, f)), {_E})"),
)
_R = "sub(y, f)"
_REGRESSION = (
    Known("squared error", f"square({_R})"),
    Known("absolute error", f"abs({_R})"),
    Known("log-cosh", f"mul(-0.5*1, log(sub(1, square(tanh({_R})))))"),
    Known("r tanh r", f"mul({_R}, tanh({_R}))"),
    Known("Huber", f"mul(min(1, abs({_R})), sub(abs({_R}), 0.5*min(1, abs({_R}))))", "Huber 1964"),
    Known("Huber 0.2", f"mul(min(abs({_R}), 0.2*1), sub(abs({_R}), min(0.5*abs({_R}), 0.1*1)))", "Huber 1964"),
    Known("pseudo-Huber", f"sub(sqrt(add(1, square({_R}))), 1)", "Charbonnier et al. 1997"),
    Known("Cauchy", f"log(add(1, square({_R})))", "Black & Anandan 1996"),
    Known("Cauchy 0.2", f"log(add(square(5*{_R}), 1))", "Black & Anandan 1996"),
    Known("Geman–McClure", f"square(div({_R}, {_R}))", "Geman & McClure 1985"),
    Known("Welsch-like", f"tanh(square({_R}))"),
    Known("truncated squared error", f"min(1, square({_R}))"),
    Known("truncated absolute error", f"min(1, abs({_R}))"),
    Known("square root of the error", f"sqrt({_R})"),
    Known("quantile 0.1", "max(0.9*sub(f, y), -0.1*sub(f, y))", "Koenker & Bassett 1978"),
    Known("quantile 0.25", f"sub(0.5*abs({_R}), 0.25*{_R})", "Koenker & Bassett 1978"),
    Known("quantile 0.75", f"add(0.5*abs({_R}), 0.25*{_R})", "Koenker & Bassett 1978"),
    Known("quantile 0.9", f"max(0.9*{_R}, -0.1*{_R})", "Koenker & Bassett 1978"),
)
KNOWN: dict[Kind, tuple[Known, ...]] = {"regression": _REGRESSION, "binary": _BINARY, "multiclass": _MULTICLASS}


def known_losses(
    kind: Kind, task: Task | None = None, function_set: FunctionSet = "tpami23"
) -> dict[str, LearnedLoss]:
    """The known losses of a kind by name, the task loss first: `known_losses("regression")["Cauchy"]`.

    A search may start from them: `learn_loss(..., initial=known_losses(kind))`.

    Args:
        kind: the kind of task.
        task: gives the number of classes, 10 without a task, and how rare the classes of a binary task are: the
            losses that weight classes are left out without it. (A symbolic loss treats all outputs alike, so for
            several classes such losses are `nn.Module`s, see `compare`.)
        function_set: losses with an operation that it lacks are left out.

    Raises:
        ValueError: the kind or the function set is unknown.
    """
    check_kind(kind)
    names, numbers = {*function_names(function_set), *TERMINALS}, _numbers(kind, task)
    losses = {}
    for row in KNOWN[kind]:
        if not set(re.findall(r"{(\w+)}", row.text)) <= set(numbers):
            continue
        loss = read(row.text.format(**numbers), kind)
        loss = LearnedLoss(in_form_of(function_set, loss.expression), kind, phi=loss.phi)
        if names.issuperset(loss.expression.nodes):
            losses[row.name] = loss
    return losses


def _numbers(kind: Kind, task: Task | None) -> dict[str, float]:
    """Numbers for the braces of the rows."""
    classes = 2 if kind == "binary" else 10 if task is None else task.outputs
    smooth = SMOOTHING / classes
    numbers = {"smooth": smooth, "sharp": 1 - (smooth if kind == "binary" else SMOOTHING)}
    if kind == "binary" and task is not None:
        labels = task.labels("train", torch.float64)
        counts = torch.ones_like(labels.y) if labels.weight is None else labels.weight
        share = float((counts * labels.y).sum() / counts.sum())
        if 0 < share < 1:
            common = 0.5 / (1 - share)
            numbers |= {"common": common, "extra": 0.5 / share - common, "odds": share / (1 - share) - 1}
    return numbers


def read(text: str, kind: Kind) -> LearnedLoss:
    """The loss of an expression whose weights other than 1 stand before their nodes: `mul(2*y, f)`."""
    weights = [float(weight or 1) for weight, _ in TOKEN.findall(text)]
    expression = Expression.parse(TOKEN.sub(lambda match: match[2], text))
    return LearnedLoss(expression, kind, phi=torch.tensor(weights[1:]))


def write(loss: LearnedLoss) -> str:
    """The text from which `read` makes the same loss: weights other than 1 before their nodes."""
    weights = [1.0, *loss.phi.detach().double().tolist()]

    def weighted(position: int, text: str) -> str:
        return text if weights[position] == 1 else f"{weights[position]!r}*{text}"

    return loss.expression.fold(
        weighted, lambda position, name, children: weighted(position, f"{name}({', '.join(children)})")
    )
