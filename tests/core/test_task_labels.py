"""Tasks of soft, missing, weighted and many labels, of sequences and of images."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

import evomal_core as em
from evomal_core.labels import as_rows, from_rows, read_labels, read_pair
from evomal_core.tasks import check_values, missing_classes

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4))
ALL = (1.0, 0.0, 0.0)


def whole(y, kind, **options) -> em.Task:
    """A task whose rows are all in training, in an order of their own."""
    return em.Task.from_arrays(X[: len(y)], y, kind, split=ALL, standardise=False, **options)


def order(task: em.Task) -> list[int]:
    """Which of the rows of X each row of the training part is."""
    return [int(np.flatnonzero((X.astype(np.float32) == row).all(axis=1))[0]) for row in task.train[0].numpy()]


@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 3), (7, 5, 3), (7, 3, 5, 2)])
@pytest.mark.parametrize("kind", ["regression", "multiclass"])
def test_rows_and_shapes_are_each_others_inverse(kind, shape):
    array = torch.randn(shape)
    assert torch.equal(from_rows(as_rows(array, kind), shape, kind), array)
    stacked = torch.stack([as_rows(array, kind), 2 * as_rows(array, kind)])
    assert torch.equal(from_rows(stacked, shape, kind), torch.stack([array, 2 * array]))


def test_probabilities_are_labels_of_two_classes_or_of_several():
    chances = RNG.random(60)
    task = whole(chances, "binary")
    np.testing.assert_allclose(task.train[1][:, 0], chances[order(task)], rtol=1e-6)
    several = RNG.dirichlet(np.ones(3), 60)
    task = whole(several, "multiclass")
    np.testing.assert_allclose(task.train[1], several[order(task)], rtol=1e-6)
    assert task.outputs == 3
    assert missing_classes(task, "train") == []
    check_values(task)
    assert not task.plain


def test_several_columns_of_zeros_and_ones_are_labels_of_their_own():
    tags = np.array([[1, 1, 0], [0, 1, 1]] * 30)
    task = whole(tags, "binary")
    assert task.outputs == 3
    assert missing_classes(task, "train") == ["0 in column 1"]
    np.testing.assert_array_equal(task.train[1], tags[order(task)])
    assert task.plain


@pytest.mark.parametrize(
    ("kind", "y", "outputs"),
    [
        ("regression", RNG.normal(size=(20, 7, 1)), 1),
        ("regression", RNG.normal(size=(20, 7, 3)), 3),
        ("regression", RNG.normal(size=(20, 3, 5, 4)), 3),
        ("binary", RNG.integers(0, 2, (20, 1, 5, 4)), 1),
        ("multiclass", RNG.integers(0, 3, (20, 5, 4)), 3),
        ("multiclass", RNG.integers(0, 3, (20, 7)).astype(str), 3),
    ],
)
def test_sequences_and_images_have_labels_at_each_position(kind, y, outputs):
    task = whole(y, kind)
    assert task.train[1].shape == y.shape
    assert task.outputs == outputs
    assert task.output_shape(2) == ((2, outputs, *y.shape[1:]) if kind == "multiclass" else (2, *y.shape[1:]))
    assert not task.plain
    check_values(task)


@pytest.mark.parametrize("mark", [-100, np.nan])
@pytest.mark.parametrize(
    ("kind", "shape"), [("binary", (20, 3)), ("multiclass", (20, 6)), ("binary", (20, 1, 2, 2))]
)
def test_missing_labels_are_marked_and_are_no_class(kind, shape, mark):
    y = np.random.default_rng(1).integers(0, 2 if kind == "binary" else 3, shape)
    gone = np.zeros(shape, bool)
    gone[3, ..., 1] = True
    if kind == "multiclass" and mark != -100:
        return  # whole numbers have no NaN
    task = whole(np.where(gone, mark, y), kind)
    labels = read_labels(task.train[1], kind, task.outputs, torch.float32)
    assert int((labels.weight == 0).sum()) == gone.sum()
    assert [int(float(name)) for name in task.classes] == list(range(2 if kind == "binary" else 3))
    assert task.incomplete
    check_values(task)


def test_scales_of_labels_leave_missing_ones_out_and_are_by_output():
    y = RNG.normal(3.0, 2.0, (60, 5, 2)) * [1.0, 10.0]
    y[4, 2] = np.nan
    task = em.Task.from_arrays(X, y, "regression", split=ALL)
    there = task.train[1].reshape(-1, 2)
    np.testing.assert_allclose(np.nanmean(there, axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.nanstd(there, axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(task.y_scale.undo(task.train[1]), y[order_of_scaled(task)], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="an output has no label in the training part"):
        em.Task.from_arrays(X, np.where([False, True], np.nan, y[:, 0]), "regression", split=ALL)


def order_of_scaled(task: em.Task) -> list[int]:
    rows = task.x_scale.undo(task.train[0]).numpy()
    return [int(abs(X - row).sum(axis=1).argmin()) for row in rows]


def test_weights_go_where_their_rows_go():
    weight = RNG.random(60) + 0.1
    task = em.Task.from_arrays(X, X[:, 0], "regression", sample_weight=weight, standardise=False)
    for split, (x, _) in task.parts().items():
        rows = [int(np.flatnonzero((X.astype(np.float32) == row).all(axis=1))[0]) for row in x.numpy()]
        np.testing.assert_allclose(task.labelled(split)[2], weight[rows], rtol=1e-6)
    assert task.to(dtype=torch.float64).labelled("train")[2].dtype == torch.float64
    assert not task.plain


def test_balanced_weights_are_scikit_learns_of_the_training_rows():
    compute = pytest.importorskip("sklearn.utils.class_weight").compute_sample_weight
    y = np.random.default_rng(0).choice(3, 60, p=[0.2, 0.5, 0.3])
    task = em.Task.from_arrays(X, y, "multiclass", sample_weight="balanced")
    np.testing.assert_allclose(task.labelled("train")[2], compute("balanced", task.train[1]), rtol=1e-6)
    by_class = {int(c): float(w) for c, w in zip(task.train[1], task.labelled("train")[2], strict=True)}
    for label, weight in zip(*task.labelled("validation")[1:], strict=True):
        assert float(weight) == by_class[int(label)]
    task = em.Task.from_arrays(X, y == 0, "binary", sample_weight="balanced")
    np.testing.assert_allclose(task.labelled("train")[2], compute("balanced", task.train[1][:, 0]), rtol=1e-6)
    tags = np.c_[y == 0, y == 1, y > 0]
    task = em.Task.from_arrays(X, tags, "binary", sample_weight="balanced")
    for weight, column in zip(task.labelled("train")[2].T, task.train[1].T, strict=True):
        np.testing.assert_allclose(weight, compute("balanced", column), rtol=1e-6)


@pytest.mark.parametrize(
    ("weight", "kind", "message"),
    [
        (np.ones(59), "regression", r"weight has shape \(59,\); give one number a row, \(60,\)"),
        (np.eye(1, 60).ravel(), "regression", r"59 row\(s\) have weight 0, first row 1; drop rows"),
        (-np.ones(60), "regression", "finite and at least 0, got -1"),
        (np.full(60, np.nan), "regression", "finite and at least 0, got nan"),
        (["a"] * 60, "regression", "one number a row, or 'balanced', got dtype <U1"),
        ("balanced", "regression", "of a classification 'balanced'"),
        ("balance", "binary", "got 'balance'"),
    ],
)
def test_weights_that_make_no_sense_are_refused(weight, kind, message):
    y = X[:, 0] if kind == "regression" else X[:, 0] > 0
    with pytest.raises(ValueError, match=message):
        em.Task.from_arrays(X, y, kind, sample_weight=weight)


def test_a_task_of_tensors_takes_weights_by_part_or_of_training():
    part = torch.zeros(4, 2), torch.zeros(4, 1)
    assert em.Task("t", "regression", part, sample_weight=torch.ones(4)).labelled("train")[2].shape == (4,)
    both = em.Task("t", "regression", part, part, sample_weight={"validation": torch.ones(4)})
    assert len(both.labelled("train")) == 2
    assert len(both.labelled("validation")) == 3
    with pytest.raises(ValueError, match=r"weight has shape \(3,\); give one number a row, \(4,\)"):
        em.Task("t", "regression", part, sample_weight=torch.ones(3))
    with pytest.raises(ValueError, match="by part, train, got 'test'"):
        em.Task("t", "regression", part, sample_weight={"test": torch.ones(4)})


def test_parts_of_ones_own_bring_their_weights():
    held, weight = X[:20] + 9, RNG.random(60) + 0.1
    own = {"validation": (held, held[:, 0], np.arange(1.0, 21)), "standardise": False}
    task = em.Task.from_arrays(X, X[:, 0], "regression", sample_weight=weight, **own)
    np.testing.assert_array_equal(task.labelled("validation")[2], np.arange(1, 21))
    for split in ("train", "test"):
        x, _, given = task.labelled(split)
        rows = [int(np.flatnonzero((X.astype(np.float32) == row).all(axis=1))[0]) for row in x.numpy()]
        np.testing.assert_allclose(given, weight[rows], rtol=1e-6)
    alone = em.Task.from_arrays(X, X[:, 0], "regression", **own)
    assert set(alone.sample_weight) == {"validation"}


@pytest.mark.parametrize(("kind", "shape"), [("regression", (20, 5, 1)), ("binary", (20, 1, 4, 3))])
def test_weights_of_0_leave_positions_out_as_missing_labels_do(kind, shape):
    rng = np.random.default_rng(3)
    y, x = (rng.random(shape) > 0.5).astype(float), rng.normal(size=(20, 2))
    places = shape[:2] if kind == "regression" else (shape[0], *shape[2:])
    weight = (rng.random(places) > 0.3).astype(int)
    weight.reshape(20, -1)[:, 0] = 1
    task = em.Task.from_arrays(x, y, kind, split=ALL, sample_weight=weight, standardise=False)
    rows = [int(np.flatnonzero((x.astype(np.float32) == row).all(axis=1))[0]) for row in task.train[0].numpy()]
    gone = np.where(weight.reshape(shape), y, np.nan)[rows]
    y_pred, other = torch.from_numpy(rng.normal(size=shape)), torch.from_numpy(gone)
    _, y_true, given = task.labelled("train")
    loss = em.TaskLoss(kind)
    torch.testing.assert_close(loss(y_pred, y_true, given), loss(y_pred, other))
    errors = [task.measure(*read_pair(y_pred, *labels)) for labels in ((y_true, kind, given), (other, kind))]
    torch.testing.assert_close(*errors)


@pytest.mark.parametrize("two", [np.eye(2), np.eye(2, dtype=int)])
def test_two_one_hot_columns_are_not_taken_for_two_labels(two):
    with pytest.raises(ValueError, match=r"of one-hot rows, give y\.argmax\(axis=1\)"):
        whole(two[np.arange(20) % 2], "binary")


def test_no_other_split_is_advised_for_soft_labels(caplog):
    caplog.set_level(logging.WARNING, "evomal")
    chance = torch.rand(20, 1, generator=torch.Generator().manual_seed(0))
    part = torch.zeros(20, 2), chance
    config = em.SearchConfig(population=1, generations=1, meta_steps=0, fitness_steps=1, rejection_steps=0)
    task = em.Task("soft", "binary", part, part)
    em.learn_loss([task], lambda: em.models.mlp(2, [2], 1), config=config, progress=False, compare=False)
    assert "no row of class" not in caplog.text
