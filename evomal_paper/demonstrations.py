"""Where a learned loss pays: small problems whose labels lie, whose classes are rare, or whose metric is no loss.

Each problem has training rows that mislead, a small clean validation part and a clean test part. A search and the
comparison of its loss with tuned rivals are one function of the problem and the seed of the data.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn.utils import parameters_to_vector

import evomal_core as em
from evomal_core.compare import Comparison, interval
from evomal_core.engines import choose_engine, curves_of, local_search
from evomal_core.kinds import Kind
from evomal_core.known import known_losses, read, write
from evomal_core.learners import Problem, make_learners
from evomal_core.losses import LearnedLoss, Loss, TaskLoss, initial_phi
from evomal_core.seeds import numpy_rng
from evomal_core.symbolic import rounded
from evomal_core.tasks import Scale
from evomal_core.training import train
from evomal_paper.analysis.cached_table import Piece
from evomal_paper.datasets.catalogue import DATASETS

Part = tuple[np.ndarray, np.ndarray]
PLAIN = em.SGD(lr=0.1, batch_size=64)
FACTORS = (0.3, 1.0, 3.0)
"""Learning rates of the comparison, as multiples of the search's; it looks beyond both ends where they win."""


@dataclass(frozen=True)
class Demonstration:
    """A problem where the training rows, or the usual loss, mislead.

    Attributes:
        title: what is wrong with the training rows.
        metric: what counts.
        make: the task of a data seed.
        units: hidden units of the network.
        base: its optimiser in the search.
        train_on_clean: whether training on the clean validation rows is a rival.
        steps: how long networks are trained at most; as the configuration has it by default.
        config: the search's configuration.
        told: further rivals, which are told what is wrong with the training rows.
    """

    title: str
    metric: str
    make: Callable[[int], em.Task]
    units: int = 32
    base: em.SGD = PLAIN
    train_on_clean: bool = True
    steps: int | None = None
    config: em.SearchConfig = em.EVERYDAY
    told: Callable[[em.Task], Mapping[str, Loss]] = lambda task: {}

    def problem(self, seed: int, config: em.SearchConfig | None = None) -> Problem:
        """The task, network and configuration of a data seed."""
        task = self.make(seed)
        inputs, units, outputs = task.features[0], self.units, task.outputs
        config = (config or self.config).replace(base=self.base)
        if self.steps is not None:
            config = config.replace(fitness_steps=self.steps, finalist_steps=self.steps)
        return Problem((task,), lambda: em.models.mlp(inputs, [units], outputs), config, seed, curves_of)

    def search(self, seed: int, config: em.SearchConfig | None = None, **options: Any) -> em.SearchResult:
        """Learn a loss on the task of a data seed."""
        problem = self.problem(seed, config)
        return em.learn_loss(
            problem.tasks, problem.model, config=problem.config, seed=seed, metric=self.metric, progress=False,
            compare=False, **options,
        )  # fmt: skip

    def compare(self, result: em.SearchResult, initialisations: int = 4) -> Comparison:
        """The learned loss beside all rivals, each tuned on the validation part."""
        assert result.problem is not None
        return result.compare(
            own=self.told(result.problem.tasks[0]),
            lrs=[factor * self.base.lr for factor in FACTORS],
            initialisations=initialisations,
            steps=self.steps,
            train_on_validation=self.train_on_clean,
        )


def _pooled(images: np.ndarray) -> np.ndarray:
    """Images 28×28 of bytes as means of 2×2 pixels, (rows, 196) in [0, 1]."""
    return images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196) / 255


def _task(name: str, kind: Any, train: Part, validation: Part, test: Part) -> em.Task:
    """A task of parts; features standardised by the training rows."""
    mean, spread = train[0].mean(axis=0), train[0].std(axis=0)
    spread = np.where(spread > 0, spread, 1)

    def tensors(part: Part) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = part
        labels = torch.from_numpy(y.astype(np.int64 if kind == "multiclass" else np.float32))
        scaled = torch.from_numpy(((x - mean) / spread).astype(np.float32))
        return scaled, labels if kind == "multiclass" else labels.unsqueeze(1)

    scale = Scale(torch.from_numpy(mean), torch.from_numpy(spread))
    return em.Task(name, kind, tensors(train), tensors(validation), tensors(test), x_scale=scale)


def with_wrong_labels(y: np.ndarray, share: float, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Labels of which this share is drawn anew, uniformly over the other classes."""
    wrong = rng.random(len(y)) < share
    return np.where(wrong, (y + rng.integers(1, classes, len(y))) % classes, y)


def noisy_digits(seed: int, share: float = 0.4, clean: int = 100) -> em.Task:
    """Scikit-learn's digits: 1,000 training rows of which this share has a wrong label, and some clean ones."""
    x, y = DATASETS["digits"].load()
    rng = numpy_rng(seed, "noisy digits")
    rows = rng.permutation(len(x))
    x, y = x.reshape(len(x), -1)[rows].astype(float), y[rows]
    noisy = with_wrong_labels(y[:1000], share, 10, rng)
    end = 1000 + clean
    validation, test = (x[1000:end], y[1000:end]), (x[end:], y[end:])
    return _task("digits, wrong labels", "multiclass", (x[:1000], noisy), validation, test)


def noisy_mnist(seed: int, share: float = 0.4) -> em.Task:
    """MNIST's images of 14×14: 2,000 training rows with wrong labels, 2,000 test rows, no clean row to tune on."""
    x_train, y_train, x_test, y_test = DATASETS["mnist"].load()
    rng = numpy_rng(seed, "noisy MNIST")
    rows, held = rng.permutation(len(x_train))[:2000], rng.permutation(len(x_test))[:2000]
    noisy = with_wrong_labels(y_train[rows], share, 10, rng)
    test = _pooled(x_test[held]), y_test[held]
    return _task("MNIST, wrong labels", "multiclass", (_pooled(x_train[rows]), noisy), test, test)


def rare_class(seed: int, ratio: int = 50, rare: int = 20) -> em.Task:
    """MNIST's 4 and 9, of which 9 is rare: 1 to `ratio` in training and validation rows, 1 to 1 in test rows."""
    x_train, y_train, x_test, y_test = DATASETS["mnist"].load()
    rng = numpy_rng(seed, "rare class")

    def drawn(x: np.ndarray, y: np.ndarray, counts: tuple[int, int], at: int = 0) -> Part:
        rows = [orders[label][at : at + count] for label, count in zip((4, 9), counts, strict=True)]
        chosen = rng.permutation(np.concatenate(rows))
        return _pooled(x[chosen]), (y[chosen] == 9).astype(float)

    orders = {label: rng.permutation(np.flatnonzero(y_train == label)) for label in (4, 9)}
    many = ratio * rare
    train, validation = drawn(x_train, y_train, (many, rare)), drawn(x_train, y_train, (many, rare), at=many)
    orders = {label: rng.permutation(np.flatnonzero(y_test == label)) for label in (4, 9)}
    return _task("4 and a rare 9", "binary", train, validation, drawn(x_test, y_test, (900, 900)))


def _california(rng: np.random.Generator) -> Part:
    """6,200 rows of California Housing in a random order, features and labels standardised."""
    x, y = DATASETS["california"].load()
    rows = rng.permutation(len(x))[:6200]
    return np.clip((x[rows] - x.mean(axis=0)) / x.std(axis=0), -5, 5), (y[rows] - y.mean()) / y.std()


def outliers(seed: int, share: float = 0.2) -> em.Task:
    """California Housing: 2,000 training rows of which this share has a label too high by 2 to 8 deviations."""
    rng = numpy_rng(seed, "outliers")
    x, y = _california(rng)
    high = y[:2000] + (rng.random(2000) < share) * rng.uniform(2, 8, 2000)
    validation, test = (x[2000:2200], y[2000:2200]), (x[2200:], y[2200:])
    return _task("California, outliers", "regression", (x[:2000], high), validation, test)


def cut_off(seed: int, share: float = 0.3, clean: int = 100) -> em.Task:
    """California Housing: 2,000 training rows whose labels above a limit, this share of them, are the limit."""
    x, y = _california(numpy_rng(seed, "cut off"))
    end = 2000 + clean
    low = np.minimum(y[:2000], np.quantile(y[:2000], 1 - share))
    validation, test = (x[2000:end], y[2000:end]), (x[end:], y[end:])
    return _task("California, cut off", "regression", (x[:2000], low), validation, test)


def censored_losses(task: em.Task) -> dict[str, Loss]:
    """Losses for labels cut off at the highest training label: a prediction above it is taken as the limit itself.

    Without the normal distribution they are what the Tobit model has for such labels (Tobin 1958; Powell 1984).
    """
    limit = float(task.train[1].max())
    within = f"sub(y, min({limit!r}*1, f))"
    texts = {"censored squared error": f"square({within})", "censored absolute error": f"abs({within})"}
    return {name: read(text, "regression") for name, text in texts.items()}


DEMONSTRATIONS = {
    "wrong labels": Demonstration(
        "40 % of the training labels are wrong; 100 clean rows", "error rate", noisy_digits
    ),
    "rare class": Demonstration(
        "1 row of the rare class to 50; 20 rare validation rows", "balanced error", rare_class, units=16
    ),
    "outliers": Demonstration(
        "20 % of the training labels are far too high; 200 clean rows", "MSE", outliers,
        base=em.SGD(lr=0.03, momentum=0.9, batch_size=64),
    ),
    "cut off": Demonstration(
        "30 % of the training labels are cut off at a limit; 100 clean rows", "MSE", cut_off,
        base=em.SGD(lr=0.03, momentum=0.9, batch_size=64), config=em.THOROUGH, told=censored_losses,
    ),
    "few steps": Demonstration(
        "clean digits, and 40 steps to train in", "error rate", partial(noisy_digits, share=0.0, clean=300),
        train_on_clean=False, steps=40,
    ),
}  # fmt: skip


TRAINING = ["demonstration", "data seed", "loss", "lr", "steps", "training", "validation", "test", "formula"]
"""Columns of `measured`: a training of a loss, at its best rate and step; the learned loss has its formula too."""


def measured(
    name: str, seed: int, folder: Path, config: em.SearchConfig | None = None, initialisations: int = 4
) -> pd.DataFrame:
    """The trainings of a demonstration at one data seed, from the folder if they are there: see TRAINING."""
    demonstration = DEMONSTRATIONS[name]
    config = config or demonstration.config

    def compute() -> pd.DataFrame:
        result = demonstration.search(seed, config)
        found = demonstration.compare(result, initialisations)
        assert isinstance(result.best, LearnedLoss)
        formula = write(result.best)
        tables = []
        for tuning in (found.learned, *found.rivals):
            parts = {split: tuning.errors(split) for split in ("validation", "test")}
            errors = pd.DataFrame({"demonstration": name, "data seed": seed, **parts})
            whole = errors.assign(loss=tuning.name, lr=tuning.lr, steps=tuning.steps, training=range(len(errors)))
            tables.append(whole.assign(formula=formula if tuning is found.learned else "")[TRAINING])
        return pd.concat(tables, ignore_index=True)

    settings = {"name": name, "seed": seed, "initialisations": initialisations}
    settings |= {"search": config.model_dump(mode="json", exclude_defaults=True)}
    return Piece(folder, f"{name.replace(' ', '-')}-{seed}", settings).load_or_compute(compute)


def summary(trainings: pd.DataFrame) -> pd.DataFrame:
    """Mean test errors by loss, with 95 % intervals over data seeds of the difference to the learned loss."""
    means = trainings.groupby(["loss", "data seed"])["test"].mean().unstack()
    learned = means.loc["learned"]
    rows = []
    for loss, errors in means.iterrows():
        change, low, high = interval((errors - learned).to_numpy())
        verdict = "won" if low > 0 else "lost" if high < 0 else "undecided"
        spread = errors.std(ddof=1) if np.isfinite(errors).all() else np.nan
        row = {"loss": loss, "test": errors.mean(), "sd over data seeds": spread, "n": len(errors)}
        if loss != "learned":
            row |= {"above learned": change, "low": low, "high": high, "verdict": verdict}
        rows.append(row)
    return pd.DataFrame(rows).sort_values("test", ignore_index=True)


def learned_losses(trainings: pd.DataFrame, kind: Kind) -> dict[int, LearnedLoss]:
    """The learned losses by data seed."""
    formulas = trainings[trainings["loss"] == "learned"].groupby("data seed")["formula"].first()
    return {seed: read(formula, kind) for seed, formula in formulas.items()}


def formulas(trainings: pd.DataFrame, kind: Kind) -> pd.DataFrame:
    """The learned loss of each data seed, whole and simplified, with its learning rate and steps."""
    rows = trainings[trainings["loss"] == "learned"].groupby("data seed")[["lr", "steps"]].first()
    return rows.assign(loss=[str(rounded(loss.sympy())) for loss in learned_losses(trainings, kind).values()])


def carried(trainings: pd.DataFrame, names: Sequence[str], initialisations: int = 4) -> pd.DataFrame:
    """Losses on fresh noisy data without a clean row: MNIST with wrong labels, at the digits' rates and steps.

    They are the losses of these names, "learned" among them, of the trainings of the demonstration "wrong labels".
    The columns are data seed, loss, training and test.
    """
    known = known_losses("multiclass")
    rows = []
    for (seed, name), group in trainings[trainings["loss"].isin(names)].groupby(["data seed", "loss"]):
        first = group.iloc[0]
        loss = read(first["formula"], "multiclass") if name == "learned" else known[name]
        demonstration = Demonstration("", "error rate", noisy_mnist)
        problem = demonstration.problem(int(seed))
        base = problem.config.base.replace(lr=float(first["lr"]))
        for number, learner in enumerate(problem.learners("carried", initialisations)):
            error = train(loss, learner, base, int(first["steps"]), splits=["test"]).final["test"]
            rows.append({"data seed": seed, "loss": name, "training": number, "test": error})
    return pd.DataFrame(rows)


TREES = (
    "square(sub(y, f))", "abs(sub(y, f))", "mul(-1, mul(y, log(f)))", "sub(f, mul(y, log(f)))",
    "mul(sub(y, f), tanh(sub(y, f)))", "sub(square(f), mul(y, f))",
)  # fmt: skip
"""Expressions whose weights are tuned to show what local search does to them."""
LOW = em.SGD(lr=1e-3, batch_size=128)
_pair_model = partial(em.models.mlp, 196, [16], 1)
TUNINGS: dict[str, dict[str, Any]] = {
    "none": {"meta_steps": 0},
    "plain steps, 1e-3 × 1000": {"meta_optimizer": "sgd", "meta_lr": 1e-3, "meta_steps": 1000},
    "Adam, 1e-3 × 50": {"meta_lr": 1e-3, "meta_steps": 50},
    "Adam, 1e-3 × 1000": {"meta_lr": 1e-3, "meta_steps": 1000},
    "Adam, 3e-2 × 50": {"meta_lr": 3e-2, "meta_steps": 50},
    "Adam, 1e-1 × 30": {"meta_lr": 1e-1, "meta_steps": 30},
}


def pair(seed: int, classes: tuple[int, int]) -> em.Task:
    """Two of MNIST's classes, 14×14: 1,000 training, 500 validation and 1,000 test rows."""
    x_train, y_train, x_test, y_test = DATASETS["mnist"].load()
    rng = numpy_rng(seed, "pair", *classes)

    def drawn(x: np.ndarray, y: np.ndarray, number: int) -> Part:
        rows = rng.permutation(np.flatnonzero(np.isin(y, classes)))[:number]
        return _pooled(x[rows]), (y[rows] == classes[1]).astype(float)

    x, y = drawn(x_train, y_train, 1500)
    return _task(str(classes), "binary", (x[:1000], y[:1000]), (x[1000:], y[1000:]), drawn(x_test, y_test, 1000))


def inert_table() -> pd.DataFrame:
    """Effect of local search on the weights of TREES, tuned on MNIST's 4 and 9 and tested on its 3 and 5.

    One row a tuning: the median over trees of the largest change of a weight, and the test errors after 250 steps
    at a low base rate, 1e-3: the median over trees, and that of the squared error's tree.
    """
    tasks = pair(0, (4, 9)), pair(0, (3, 5))
    losses = [LearnedLoss(tree, "binary", phi=initial_phi(LearnedLoss(tree).expression, 0)) for tree in TREES]
    rows = []
    for name, changes in TUNINGS.items():
        config = em.EVERYDAY.replace(base=LOW, **changes)
        learners, (other,) = (make_learners([task], _pair_model, config, 0, task.name) for task in tasks)
        found = local_search(losses, learners, config, choose_engine(learners, config))
        pairs = zip(found, losses, strict=True)
        weights = [
            [parameters_to_vector(each.parameters()) for each in (tuned.loss, loss)] for tuned, loss in pairs
        ]
        moved = [float((after - before).detach().abs().max()) for after, before in weights]
        errors = [train(t.loss, other, config.base, 250, splits=["test"]).final["test"] for t in found]
        row = {"tuning": name, "change of weights": np.median(moved), "test error": np.median(errors)}
        rows.append(row | {"(y − f)²": errors[0]})
    return pd.DataFrame(rows)


def cross_entropy_by_rate() -> pd.DataFrame:
    """The test error of cross-entropy on MNIST's 3 and 5 after 250 steps at several learning rates."""
    config, lrs = em.EVERYDAY.replace(base=LOW), [1e-3, 1e-2, 1e-1, 1.0]
    task, loss = pair(0, (3, 5)), TaskLoss("binary")
    (learner,) = make_learners([task], _pair_model, config, 0, task.name)
    errors = [train(loss, learner, LOW.replace(lr=lr), 250, splits=["test"]).final["test"] for lr in lrs]
    return pd.DataFrame({"lr": lrs, "test error": errors})
