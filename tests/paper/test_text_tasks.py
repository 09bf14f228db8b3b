"""Tasks of names: their letters as indices, the official split, and names on both sides of it."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import evomal_core as em
from evomal_paper.datasets.catalogue import DATASETS, MissingDataError
from evomal_paper.experiments.text_tasks import encoded, surname_tasks
from evomal_paper.networks.small import LetterLSTM

TRAIN = [("Abe", 11), ("Ábel", 4), ("Li", 1), ("Abe", 10), ("Li", 1)]
TEST = [("Li", 1), ("Abe", 4), ("Abel", 4), ("Zoë", 1), ("Abe", 4), ("Abe", 11)]


@pytest.fixture
def surnames(monkeypatch):
    """A few names under the name of the data set."""
    parts = (TRAIN, [("Unread", 0)], TEST)
    arrays = tuple(np.array(column) for part in parts for column in zip(*part, strict=True))
    fake = replace(DATASETS["surname"], builtin=lambda: arrays, conform=lambda *arrays: arrays, content=None)
    monkeypatch.setitem(DATASETS, "surname", fake)


def test_letters_become_indices_that_end_with_the_name():
    found = encoded(np.array(["ab", "cax", "abcab"]), "abc", 4)
    assert found.tolist() == [[0, 0, 2, 3], [0, 4, 2, 1], [2, 3, 4, 2]]
    assert found.dtype == torch.int64


def test_each_task_holds_its_nationalities_in_the_official_split(surnames):
    (first, last), symbols = surname_tasks([(1, 4), (10, 11, 4)])
    assert symbols == len(set("AbeÁbelLiAbeLi")) + 2
    assert first.name == "surname: Chinese, English"
    assert (first.kind, last.kind) == ("binary", "multiclass")
    assert first.train[1].flatten().tolist() == [1, 0, 0]  # Ábel, Li, Li
    assert first.test[1].flatten().tolist() == [0, 1, 1, 0, 1]
    assert last.train[1].tolist() == [1, 2, 0]  # Abe, Ábel, Abe
    assert torch.equal(last.train[0][0], last.train[0][2])
    assert first.features == last.features == (4,)


def test_unseen_names_are_those_not_trained_on_each_of_them_once(surnames):
    (first, last), _ = surname_tasks([(1, 4), (10, 11, 4)])
    assert torch.equal(first.unseen[0], first.test[0][[1, 2, 3]])  # without Li; Abe, Abel, Zoë
    assert first.unseen[1].flatten().tolist() == [1, 1, 0]
    assert last.unseen[1].tolist() == [2, 2]  # Abe was Scottish and Italian in training, not English


@pytest.mark.parametrize(("method", "engine"), [("evomal", "batched"), ("ml3", "jvp"), ("taylorglo", "batched")])
def test_methods_and_their_engine_take_integer_features(surnames, method, engine):
    (task, _), symbols = surname_tasks([(1, 4, 10), (11, 4)])
    sizes = {"population": 4, "generations": 1, "meta_steps": 2, "fitness_steps": 2, "initial_heights": (1, 2)}
    protocol = {"task_loss_on": "same", "fitness_on": "train", "base": em.SGD(lr=0.1, batch_size=2)}
    config = em.SearchConfig(**sizes, **protocol, rejection_steps=0)
    model = partial(LetterLSTM, 3, symbols, 4, 3, 5)
    result = em.learn_loss([task], model, method, config=config, progress=False)
    assert result.engine == engine
    assert 0 <= result.fitness <= 1


def test_the_real_names_have_the_known_numbers_of_rows_and_repetitions():
    try:
        x_train, y_train, _, _, x_test, y_test = DATASETS["surname"].load()
    except MissingDataError as missing:
        pytest.skip(str(missing))
    tasks, symbols = surname_tasks([range(9), range(9, 18)])
    assert symbols == 78
    assert sum(len(task.train[0]) for task in tasks) == 7680
    assert sum(len(task.test[0]) for task in tasks) == 1660
    trained = set(zip(x_train, y_train, strict=True))
    fresh = {pair for pair in zip(x_test, y_test, strict=True) if pair not in trained}
    assert sum(len(task.unseen[0]) for task in tasks) == len(fresh)
