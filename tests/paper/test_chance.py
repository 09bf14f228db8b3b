"""Trainings that learned nothing are told from those that learned little."""

import pandas as pd
import torch

from evomal_core.tasks import Task
from evomal_paper.analysis.predictions import constant_answers, learned_nothing
from evomal_paper.experiments.profiles import Problem


def task(counts):
    y = torch.tensor([label for label, count in enumerate(counts) for _ in range(count)])
    part = torch.zeros(len(y), 2), y
    return Task("made up", "multiclass", part, test=part, classes=tuple("abc"))


def errors(*values):
    place = {"group": "out-of-sample", "split": "train"}
    return pd.DataFrame([place | {"method": m, "seed": s, "task": t, "error": e} for m, s, t, e in values])


def test_a_constant_answer_is_wrong_wherever_the_label_is_another():
    found = constant_answers(Problem([task((6, 3, 1))], [task((1, 2, 2)), task((0, 0, 4))], lambda: None))
    assert found.to_dict("records") == [
        {"group": "in-sample", "task": 0, "error": 0.4},
        {"group": "out-of-sample", "task": 0, "error": 0.6},
        {"group": "out-of-sample", "task": 1, "error": 0.0},
    ]


def test_each_training_is_held_against_its_own_task():
    constant = constant_answers(Problem([task((6, 3, 1))], [task((6, 4, 0)), task((5, 3, 2))], lambda: None))
    last = errors(
        ("evomal", 0, 0, 0.4), ("evomal", 0, 1, 0.4), ("evomal", 1, 0, 0.395), ("evomal", 1, 1, float("inf")),
        ("baseline", 0, 0, 0.38), ("baseline", 0, 1, 0.48), ("ml3", 0, 0, 0.9), ("ml3", 0, 1, 0.1),
    )  # fmt: skip
    held_out = last.assign(split="test", error=0.9)
    table = learned_nothing(pd.concat([last, held_out]), constant)
    counts = {row["method"]: (row["learned nothing"], row["trainings"]) for row in table.to_dict("records")}
    assert counts == {"evomal": (3, 4), "baseline": (0, 2), "ml3": (1, 2)}
