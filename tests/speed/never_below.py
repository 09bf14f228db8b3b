"""Whether a learned loss ever ends below the best known one: ten small data sets, three seeds, a table.

python -m tests.speed.never_below [--seeds 13 14 15] [--data-sets digits …] [--rows FILE]

All data sets ship with scikit-learn (six of them among its tests' copies of OpenML). Each search is `learn_loss`
with its defaults; what it recommends and the known losses are then trained from new initial weights, each at its
best rate and step on the validation part. Two rivals are shown: the known loss that is best on the validation
part, as one would have chosen it, and the one that is best on the test part, known in hindsight only. A verdict
"lost" means that the paired 95 % interval of the difference, over trainings and test rows as crossed samples, lies
below 0; "on these rows" takes the test rows as given, of which some of these data sets have 36.

FILE keeps finished rows, so that an interrupted run goes on. Seeds below 13 and above 99 served to choose the
defaults and the rule for finalists.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sklearn
import torch
from scipy import stats
from sklearn import datasets

import evomal_core as em
from evomal_core.compare import CONFIDENCE, interval
from evomal_core.kinds import Kind
from evomal_core.known import write
from evomal_core.learners import Problem
from evomal_core.training import train
from evomal_core.tuning import Tuning
from tests.speed.rows import measured

OPENML = Path(sklearn.__file__).parent / "datasets" / "tests" / "data" / "openml"
UNITS = 32
"""Hidden units of the network."""
RATES = (0.3, 1.0, 3.0)
"""Learning rates of the comparison, as multiples of the search's."""
TRAININGS = 5
"""Initial weights that each loss is trained from in the comparison."""
RIVALS = ("best known", "in hindsight")
SHOWN = [
    "data set",
    "seed",
    "loss",
    "test",
    *(f"{r}{part}" for r in RIVALS for part in ("", ": test", ": verdict")),
]
"""Columns of the table that is printed."""
Data = tuple[np.ndarray, np.ndarray, Kind]


def read_openml(number: int, target: str, kind: Kind, drop: Sequence[str] = ()) -> Data:
    """A data set of OpenML from scikit-learn's tests: categories as indicators, missing numbers as medians."""
    (path,) = (OPENML / f"id_{number}").glob("*.arff.gz")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        head, body = re.split(r"(?im)^@data\s*$", file.read(), maxsplit=1)
    names = re.findall(r"(?im)^@attribute\s+['\"]?([^'\"\s]+)", head)
    lines = [line for line in body.splitlines() if line and not line.startswith("%")]
    quote = "'" if any(line.startswith("'") for line in lines) else '"'
    rows = csv.reader(io.StringIO("\n".join(lines)), quotechar=quote, skipinitialspace=True)
    table = pd.DataFrame(list(rows), columns=names).replace("?", np.nan).drop(columns=list(drop))
    for name in table:
        numbers = pd.to_numeric(table[name], errors="coerce")
        table[name] = numbers if numbers.isna().sum() == table[name].isna().sum() else table[name]
    table = table.dropna(subset=[target])
    y = table.pop(target).to_numpy()
    table = table.fillna(table.select_dtypes("number").median())
    return pd.get_dummies(table, drop_first=True).to_numpy(float), y, kind


PEOPLE = ("name", "ticket", "cabin", "boat", "body", "home.dest")
DATA_SETS: dict[str, Callable[[], Data]] = {
    "diabetes": lambda: (*datasets.load_diabetes(return_X_y=True), "regression"),
    "cpu": lambda: read_openml(561, "class", "regression", ["vendor"]),
    "penguins' mass": lambda: read_openml(42585, "body_mass_g", "regression"),
    "Titanic's fares": lambda: read_openml(40945, "fare", "regression", [*PEOPLE, "survived"]),
    "breast cancer": lambda: (*datasets.load_breast_cancer(return_X_y=True), "binary"),
    "Titanic's survivors": lambda: read_openml(40945, "survived", "binary", PEOPLE),
    "chess endgames": lambda: read_openml(3, "class", "binary"),
    "digits": lambda: (*datasets.load_digits(return_X_y=True), "multiclass"),
    "wine": lambda: (*datasets.load_wine(return_X_y=True), "multiclass"),
    "penguins' island": lambda: read_openml(42585, "island", "multiclass", ["species"]),
}


def row_errors(problem: Problem, tuning: Tuning, trainings: int) -> np.ndarray:
    """The error on each test row after training at a loss's best rate and step, (trainings, rows)."""
    base, found = problem.config.base.replace(lr=tuning.lr), []
    for learner in problem.learners("compare", trainings):
        network = train(tuning.loss, learner, base, tuning.steps, splits=["test"]).network.eval()
        x, y = problem.tasks[0].parts()["test"]
        with torch.no_grad():
            y_pred = network(x)
        if problem.tasks[0].kind == "regression":
            found.append((y_pred - y).square().mean(dim=1).numpy())
        else:
            said = y_pred.argmax(dim=1) if y_pred.shape[1] > 1 else (y_pred > 0).float()
            found.append((said != y).float().reshape(len(y)).numpy())
    return np.array(found, dtype=float)


def crossed_interval(differences: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """The mean of paired differences over trainings × test rows, and the ends of its interval.

    Both trainings and rows are samples, crossed with each other: the variance of the mean is σ_t²/T + σ_r²/R +
    σ_tr²/(TR), estimated from mean squares (never below the share of either alone), with Satterthwaite's degrees
    of freedom (1946). An interval over trainings alone takes the rows of a small test part for all there are.

    Args:
        differences: one loss's error less another's, (trainings, rows), at least two of each.
        confidence: of the interval.

    Returns:
        The mean, the lower and the upper end.
    """
    trainings, rows = differences.shape
    mean, by_training, by_row = float(differences.mean()), differences.mean(axis=1), differences.mean(axis=0)
    rest = differences - by_training[:, None] - by_row + mean
    both = (rest**2).sum() / ((trainings - 1) * (rows - 1)) / rest.size
    one, other = by_training.var(ddof=1) / trainings, by_row.var(ddof=1) / rows
    variance = max(one + other - both, one, other)
    if variance == 0:
        return mean, mean, mean
    degrees = (one + other) ** 2 / (one**2 / (trainings - 1) + other**2 / (rows - 1))
    half = float(stats.t.ppf((1 + confidence) / 2, degrees) * np.sqrt(variance))
    return mean, mean - half, mean + half


def verdict(interval: tuple[float, float, float]) -> str:
    """What the interval of (a rival's error − the learned loss's) says of the learned loss."""
    _, low, high = interval
    return "won" if low > 0 else "lost" if high < 0 else "undecided"


def measure(name: str, seed: int, config: em.SearchConfig = em.EVERYDAY) -> dict[str, Any]:
    """One search and its comparison with the known losses, as a row of the table."""
    x, y, kind = DATA_SETS[name]()
    task = em.Task.from_arrays(x, y, kind, name=name, seed=seed)
    inputs, outputs = x.shape[1], task.outputs
    result = em.learn_loss(
        [task], lambda: em.models.mlp(inputs, [UNITS], outputs), config=config, seed=seed, progress=False,
        compare=False,
    )  # fmt: skip
    found = result.compare(lrs=[rate * config.base.lr for rate in RATES], initialisations=TRAININGS)
    assert result.problem is not None
    rivals = {rival.name: rival for rival in (found.rival, found.best_rival)}
    learned = row_errors(result.problem, found.learned, TRAININGS)
    errors = {key: row_errors(result.problem, rival, TRAININGS) for key, rival in rivals.items()}
    row = {
        "data set": name,
        "seed": seed,
        "loss": result.chosen.name if result.chosen else "",
        "formula": write(found.learned.loss) if isinstance(found.learned.loss, em.LearnedLoss) else "",
        "test": learned.mean(),
    }
    for column, rival in zip(RIVALS, (found.rival, found.best_rival), strict=True):
        differences = errors[rival.name] - learned
        change, low, high = crossed_interval(differences)
        row |= {
            column: rival.name,
            f"{column}: test": errors[rival.name].mean(),
            f"{column}: difference": change,
            f"{column}: low": low,
            f"{column}: high": high,
            f"{column}: verdict": verdict((change, low, high)),
            f"{column}: on these rows": verdict(interval(differences.mean(axis=1))),
        }
    parts = ("local search", "fitness", "filters", "finalists")
    return row | {"seconds": sum(result.seconds.get(part, 0.0) for part in parts)}


def main() -> None:
    """Print the table, and how many searches ended below the best known loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[13, 14, 15])
    parser.add_argument("--data-sets", nargs="+", choices=[*DATA_SETS], default=[*DATA_SETS])
    parser.add_argument("--rows", type=Path, help="a file of rows to go on from")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    wanted = [(name, seed) for seed in chosen.seeds for name in chosen.data_sets]
    rows = measured(chosen.rows, wanted, ("data set", "seed"), measure)
    table = pd.DataFrame(rows)
    table["loss"] = table["loss"].where(table["loss"] != "", table["formula"].str.slice(0, 40))
    print(table[SHOWN].to_string(index=False, float_format="{:.4g}".format))
    for rival in RIVALS:
        for column in (f"{rival}: verdict", f"{rival}: on these rows"):
            print(f"{column}: {(table[column] != 'lost').sum()} of {len(table)} not below")


if __name__ == "__main__":
    main()
