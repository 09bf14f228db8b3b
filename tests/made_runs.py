"""Complete runs with given numbers, written in a moment: what a search would have to take minutes for."""

from __future__ import annotations

from typing import Any

import pandas as pd

from evomal_core import LearnedLoss, NeuralLoss, TaskLoss
from evomal_core.losses import Loss
from evomal_paper.experiments.catalogue import experiment
from evomal_paper.runs.meta_test import GROUPS
from evomal_paper.runs.packed import Finished
from evomal_paper.runs.run import Run

SEARCHED = ("cached", "equivalent", "optimised", "rejected", "rejected early", "trained")
KIND = {"sine": "regression", "diabetes": "regression"}


def made(
    run: Run,
    error: float = 1.0,
    loss: Loss | None = None,
    held_out: float | None = None,
    new: float = 1.0,
    **record: Any,
) -> Run:
    """The run as if it had been computed: `error` is the last on every task, twice as large before.

    Args:
        run: the run; it is added to its pack.
        error: the last error of each group, task and split.
        held_out: the last error on test rows, if it is another.
        new: the factor by which errors from new starts are larger.
        loss: what was learned; by default one that fits the method.
        record: other values of the run's record, for example `fitness`.
    """
    if loss is None:
        loss = {"baseline": TaskLoss, "ml3": NeuralLoss}.get(run.method, _squares)(KIND[run.experiment])
    given = {
        "configuration": run.configuration(),
        "fitness": 0.1,
        "outcome": "ok",
        "loss": str(getattr(loss, "expression", type(loss).__name__)),
        "parameters": loss.size,
        "evaluations": 4,
        "engine": "batched",
        "device": "cpu",
        "seconds": {"fitness": 1.5, "meta-test": 0.25, "last session": 2.0},
        "finished": f"2026-01-{run.seed + 1:02}T12:00:00+00:00",
        "hardware": {"processor": "none", "cores": 2, "system": "Linux"},
        "versions": {"evomal": "0.1.0", "torch": "2", "commit": "0123456789abcdef"},
    } | record
    tables = {
        "history": _history(run, given["fitness"]),
        "test": _test(run, error, error if held_out is None else held_out, new),
        "front": _front(given),
    }
    texts = {name: table.to_csv(index=False) for name, table in tables.items()}
    run.pack.put({run.key: Finished.of(given, texts, loss.record())})
    return run


def _squares(kind: str) -> Loss:
    return LearnedLoss("square(sub(y, f))", kind)


def _history(run: Run, fitness: float) -> pd.DataFrame:
    row = {"generation": 0, "best_fitness": fitness, "mean_fitness": fitness, "finite": 4, "diverged": 0}
    counts = dict.fromkeys(SEARCHED, 1) if run.method in ("random", "gp-lfl", "evomal") else {}
    return pd.DataFrame([row | {"evaluated": 4} | counts])


def _front(record: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([{"complexity": 4, "fitness": record["fitness"], "score": None, "loss": record["loss"]}])


def _test(run: Run, error: float, held_out: float, new: float) -> pd.DataFrame:
    table = experiment(run.experiment).table
    splits = ("train", "test") if table == "2" else ("train", "validation", "test")
    steps = sorted({*run.sizes.recorded_steps(), run.sizes.test_steps})
    rows = [
        {"start": start, "group": group, "task": 0, "step": step, "split": split}
        | {"error": factor * (held_out if split == "test" else error) * (1 + (step != steps[-1]))}
        for start, factor in (("new", new), ("search", 1.0))
        for group in (GROUPS if table == "2" else GROUPS[:1])
        for step in steps
        for split in splits
    ]
    return pd.DataFrame(rows)
