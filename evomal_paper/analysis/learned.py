"""Tables of learned losses: the papers' examples, this project's own, their families, and TPAMI's claims."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evomal_core import symbolic
from evomal_core.evaluation import Evaluation
from evomal_core.losses import LearnedLoss, Loss
from evomal_core.primitives import EPSILON
from evomal_core.search import METHODS
from evomal_core.seeds import numpy_rng
from evomal_core.symbolic import callable_formula
from evomal_paper.analysis.curves import value_and_slope
from evomal_paper.analysis.examples import EXAMPLES
from evomal_paper.analysis.families import FAMILIES, describe
from evomal_paper.experiments.catalogue import EXPERIMENTS
from evomal_paper.experiments.gecco import PARTITIONS
from evomal_paper.published.tables import LABELS
from evomal_paper.runs.run import complete_runs
from evomal_paper.runs.tables import Results, load_readable
from evomal_paper.statistics import LEVEL

SYMBOLIC = ("random", "gp-lfl", "evomal")
"""The methods whose losses are expressions."""
PERMUTATIONS = 10_000
KEYS = ["experiment", "method", "seed"]
BEST = [*KEYS, "kind", "family", "asymmetric", "complexity", "fitness", "error", "relative error"]
TRAINS = "median error / baseline's"
Key = tuple[str, str, int]
"""Experiment, method and seed."""


def classes_of(experiment: str) -> int:
    """The number of classes that each of an experiment's tasks tells apart, 0 for a regression."""
    if experiment in PARTITIONS:
        return len(PARTITIONS[experiment][0])
    dataset = EXPERIMENTS[experiment].dataset
    return 0 if dataset is None else len(dataset.classes)


def table_vi() -> pd.DataFrame:
    """TPAMI's Table VI with what V-C says of each example and what `families.describe` finds (10 classes).

    Columns: formula as printed and as it was read; the family as printed without the outermost bars, with
    weights of 1, and with other weights where the example has such; and which of the last two agrees with V-C.
    """
    rows = []
    for example in EXAMPLES.values():
        loss = example.loss()
        unit = describe(loss).family
        bare = describe(example.bare()).family if example.bare().expression != loss.expression else unit
        other = example.loss(weighted=True)
        weighted = describe(other).family
        agrees = "disagrees" if weighted not in example.said else "agrees with other weights"
        rows.append(
            {
                "loss": example.name,
                "printed": f"${example.printed}$",
                "read as": f"${example.read}$",
                "kind": example.kind,
                "V-C": example.quoted,
                "V-C's family": " or ".join(example.said),
                "without bars": bare,
                "weights 1": unit,
                "other weights": _weights_in_words(example.weights),
                "with them": weighted if example.weights else "",
                "formula with them": f"${other.latex()}$" if example.weights else "",
                "agreement": "agrees" if unit in example.said else agrees,
            }
        )
    return pd.DataFrame(rows)


def _weights_in_words(weights: Mapping[int, float]) -> str:
    """`one weight of 2, two weights of −1`."""
    numbers = ("no weight", "one weight", "two weights")
    counts = pd.Series(list(weights.values()), dtype=float).value_counts(sort=False)
    return ", ".join(f"{numbers[count]} of {value:g}" for value, count in counts.items()).replace("-", "−")


def best_losses(results_dir: Path | str, profile: str) -> tuple[pd.DataFrame, dict[Key, Loss]]:
    """The best loss of every complete run of a profile, with its family; an empty table if there is none.

    Columns: see BEST. `complexity` is the number of nodes of an expression, else of weights; `error` the
    held-out error of meta-testing on the tasks that were learned from, inf where a training diverged;
    `relative error` that over the baseline's at the same seed, NaN where that has not been run.
    """
    results = load_readable([run for run in complete_runs(results_dir) if run.profile == profile])
    if results is None:
        return pd.DataFrame(columns=BEST), {}
    table = results.runs[[*KEYS, "fitness"]].merge(_held_out(results), how="left")
    rows = []
    for row in table.to_dict("records"):
        loss = results.losses[row["experiment"], row["method"], row["seed"]]
        shape = describe(loss, classes_of(row["experiment"]))
        row |= {"kind": loss.kind, "family": shape.family, "asymmetric": shape.asymmetric}
        rows.append(row | {"complexity": Evaluation(loss, row["fitness"]).complexity})
    return pd.DataFrame(rows)[BEST], results.losses


def _held_out(results: Results) -> pd.DataFrame:
    final = results.final().query("group == 'in-sample' and split == 'test'")
    errors = final[[*KEYS, "error"]]
    baseline = errors[errors["method"] == "baseline"].drop(columns="method")
    both = errors.merge(baseline, on=["experiment", "seed"], how="left", suffixes=("", " of the baseline"))
    relative = np.where(np.isposinf(both["error"]), np.inf, both["error"] / both["error of the baseline"])
    return both.assign(**{"relative error": relative})[[*KEYS, "error", "relative error"]]


def family_counts(best: pd.DataFrame) -> pd.DataFrame:
    """Number of best losses of each family, per kind of task and method, and how they train.

    Columns: kind, method, family, losses, n (losses of that kind and method), experiments, asymmetric, and the
    median of their held-out error over the baseline's, with a diverged training as infinite.
    """
    kinds = best["kind"].where(best["kind"] == "regression", "classification")
    shown = best.assign(kind=kinds)[best["method"] != "baseline"]
    groups = shown.groupby(["kind", "method", "family"], sort=False)
    names = groups["experiment"].agg(lambda experiments: ", ".join(experiments.unique()))
    table = groups.agg(losses=("seed", "size"), asymmetric=("asymmetric", "sum"))
    table = table.assign(experiments=names, **{TRAINS: groups["relative error"].median()}).reset_index()
    table["n"] = table.groupby(["kind", "method"])["losses"].transform("sum")
    columns = ["kind", "method", "family", "losses", "n", "experiments", "asymmetric", TRAINS]
    order = [*FAMILIES, *METHODS, *(family for families in FAMILIES.values() for family in families)]
    by_place = {"key": lambda column: column.map(order.index), "ignore_index": True}
    return table.sort_values(columns[:3], **by_place)[columns]


def complexity_and_error(best: pd.DataFrame) -> pd.DataFrame:
    """Whether complex losses perform worse (TPAMI V-C.3): rank correlations of complexity with outcomes.

    The best losses are ranked among those of the same experiment and method, so that neither a hard data set
    nor a poor method counts as an effect of complexity; ρ is the correlation of these ranks over all groups
    of at least two (Spearman's, stratified), and p that of 10,000 permutations within groups, two-sided.
    Positive means that complex losses are worse. Diverged runs rank last.

    The fronts of the runs can't answer it: a complex loss is on a front only if it is fitter than all simpler
    ones, which makes the correlation −1 whatever the truth is. Fitnesses of the other evaluations are not kept.

    A row for each outcome, for EvoMAL alone and for all symbolic methods: outcome, methods (those found), rho, p,
    n (losses), groups, verdict.
    """
    rows = []
    for methods in (("evomal",), SYMBOLIC):
        for outcome in ("fitness", "error"):
            part = best[best["method"].isin(methods)]
            groups = [group for _, group in part.groupby(["experiment", "method"], sort=False) if len(group) > 1]
            ranks = [_centred_ranks(group["complexity"]) for group in groups]
            others = [_centred_ranks(group[outcome]) for group in groups]
            rho, p = _stratified(ranks, others, outcome, *methods)
            names = ", ".join(LABELS[name] for name in methods if (part["method"] == name).any())
            shown = "fitness" if outcome == "fitness" else "held-out error"
            verdict = "undecided" if p >= LEVEL else "agrees" if rho > 0 else "disagrees"
            verdict = "not testable" if np.isnan(rho) else verdict
            rows.append((shown, names, rho, p, sum(map(len, groups)), len(groups), verdict))
    return pd.DataFrame(rows, columns=["outcome", "methods", "rho", "p", "n", "groups", "verdict"])


def _centred_ranks(values: pd.Series) -> np.ndarray:
    ranks = values.astype(float).rank().to_numpy()
    return (ranks - ranks.mean()) / len(ranks)


def _stratified(ranks: list[np.ndarray], others: list[np.ndarray], *purpose: str) -> tuple[float, float]:
    """The correlation of centred ranks, and the p of permutations within groups; NaN without any spread."""
    spread = np.sqrt(sum((r**2).sum() for r in ranks) * sum((o**2).sum() for o in others))
    if spread == 0:
        return np.nan, np.nan
    rng = numpy_rng(0, "permutations", *purpose)
    observed = sum(r @ o for r, o in zip(ranks, others, strict=True))
    drawn = sum(
        rng.permuted(np.tile(r, (PERMUTATIONS, 1)), axis=1) @ o for r, o in zip(ranks, others, strict=True)
    )
    extreme = np.abs(drawn) >= abs(observed) - 1e-12
    return float(observed / spread), float((extreme.sum() + 1) / (PERMUTATIONS + 1))


def shown(best: pd.DataFrame, losses: Mapping[Key, Loss]) -> dict[str, Loss]:
    """EvoMAL's loss of the lowest fitness in each experiment, by "experiment, seed k"."""
    found: dict[str, Loss] = {}
    for experiment, part in best[best["method"] == "evomal"].groupby("experiment", sort=False):
        seed = part.sort_values(["fitness", "complexity"])["seed"].iloc[0]
        found[f"{experiment}, seed {seed}"] = losses[str(experiment), "evomal", seed]
    return found


def simplifications(losses: Mapping[str, Loss]) -> pd.DataFrame:
    """Formulas simplified by sympy, with how far they are from the losses that they stand for.

    The deviation is the largest of |M − formula| / max(|M|, root mean square of M) over a grid of 201 f × 61 y:
    both within ±3 for a regression, f in (0, 1) and y ∈ {0, 1} for a classification. It is given of the formula
    in full precision, and of the one that is shown, with its numbers rounded to four digits.

    A row for each loss, which has a closed formula: loss, nodes, operations before and after, deviation, deviation
    as shown, formula.
    """
    epsilon = symbolic.sympy.Symbol("epsilon", positive=True)
    rows = []
    for name, loss in losses.items():
        raw = formula = loss.sympy()
        rounded = symbolic.rounded(formula)
        if isinstance(loss, LearnedLoss):
            phi = loss.phi.detach().double().tolist()
            raw = symbolic.raw_formula(loss.expression, phi, loss.softplus)
        rows.append(
            {
                "loss": name,
                "nodes": Evaluation(loss, 0.0).complexity,
                "operations": raw.count_ops(),
                "simplified": formula.count_ops(),
                "deviation": _deviation(loss, formula),
                "deviation as shown": _deviation(loss, rounded.subs(epsilon, EPSILON)),
                "formula": f"${symbolic.to_latex(formula)}$",
            }
        )
    return pd.DataFrame(rows)


def _deviation(loss: Loss, formula: Any) -> float:
    if loss.kind == "regression":
        f, y = np.meshgrid(np.linspace(-3, 3, 201), np.linspace(-3, 3, 61))
    else:
        f, y = np.meshgrid(np.linspace(0.0025, 0.9975, 201), [0.0, 1.0])
    value, _ = value_and_slope(loss, f, y)
    with np.errstate(all="ignore"):
        stated = np.broadcast_to(callable_formula(formula)(f, y), f.shape)
        size = np.maximum(np.abs(value), np.sqrt(np.mean(value**2)))
    return float(np.max(np.abs(stated - value) / size))
