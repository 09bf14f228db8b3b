"""Predictions for single rows come from the networks whose errors the runs have."""

import pandas as pd
import pytest
import torch

from evomal_core.losses import LearnedLoss, TaskLoss
from evomal_paper.analysis.predictions import only_right_by, predictions, right_and_wrong, worst_rows
from evomal_paper.experiments.catalogue import experiment
from evomal_paper.plots import predictions as plots_predictions
from evomal_paper.runs.meta_test import meta_test

SEED = 3


@pytest.mark.parametrize(("name", "kind"), [("digits", "binary"), ("digits5", "multiclass")])
def test_errors_of_the_predictions_are_those_of_the_run(name, kind):
    losses = {"baseline": TaskLoss(kind), "evomal": LearnedLoss("square(sub(f, y))", kind)}
    entry = experiment(name)
    sizes = entry.profile("smoke")
    task, table = predictions(name, "smoke", SEED, losses)
    assert len(table) == len(task.test[0])
    for known_as, loss in losses.items():
        rows = meta_test(loss, entry.problem(sizes, SEED), sizes, SEED, "cpu")
        place = {"start": "new", "group": "out-of-sample", "task": 0, "step": sizes.test_steps, "split": "test"}
        (error,) = (row["error"] for row in rows if all(row[key] == value for key, value in place.items()))
        assert (table[known_as] != table["label"]).mean() == pytest.approx(error)
        assert table[f"p {known_as}"].between(1 / len(task.classes), 1).all()
    shown = table.head(3)
    figure = plots_predictions.images(task, shown, "evomal", "baseline", "digits")
    titles = [axes.get_title() for axes in figure.axes]
    for title, row in zip(titles, shown.to_dict("records"), strict=False):
        assert title.splitlines()[1].startswith(f"Baseline: {task.classes[row['baseline']]} (")


def test_rows_are_counted_by_who_gets_them_right():
    table = pd.DataFrame({"row": range(5), "label": [0, 1, 1, 2, 2], "a": [0, 1, 0, 2, 0], "b": [0, 0, 1, 0, 1]})
    counts = right_and_wrong(table, "a", "b").iloc[0]
    assert counts.to_dict() == {"both right": 1, "only a right": 2, "only b right": 1, "both wrong": 1}
    assert only_right_by(table, "a", "b")["row"].tolist() == [1, 3]
    assert only_right_by(table, "a", "b", most=1)["row"].tolist() == [1]
    with pytest.raises(ValueError, match="no image"):
        plots_predictions.images(
            experiment("digits").problem(experiment("digits").profile("smoke"), 0).test[0], table.head(0), "a", "b"
        )


def test_the_probability_of_a_binary_task_is_that_of_the_class_said():
    task, table = predictions("digits", "smoke", 0, {"baseline": TaskLoss("binary")})
    assert task.kind == "binary"
    assert set(table["baseline"]) <= {0, 1}
    assert (table["p baseline"] >= 0.5).all()
    assert torch.equal(torch.tensor(table["label"].to_numpy()), task.test[1].flatten().long())


def test_errors_without_the_worst_rows():
    losses = {
        ("diabetes", "baseline", SEED): TaskLoss("regression"),
        ("boston", "evomal", 0): TaskLoss("regression"),
    }
    entry = experiment("diabetes")
    sizes = entry.profile("smoke")
    (found,) = worst_rows("diabetes", "smoke", losses, 10).to_dict("records")
    problem = entry.problem(sizes, SEED)
    rows = pd.DataFrame(
        meta_test(losses["diabetes", "baseline", SEED], problem, sizes, SEED, "cpu", starts=["new"])
    )
    last = rows[(rows["step"] == sizes.test_steps) & (rows["split"] == "test")]
    assert found["MSE"] == pytest.approx(last["error"].item(), rel=1e-5)
    count = len(problem.train[0].test[0])
    left = found["without 10 rows"] * (count - 10)
    assert left == pytest.approx(found["MSE"] * count * (1 - found["share of these rows"]), rel=1e-5)
    assert 10 / count < found["share of these rows"] < 1
