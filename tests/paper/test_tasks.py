"""Tasks from a person's own arrays, and the arrays that are refused."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import SEEDS, class_task, global_generators_untouched, regression_task, tiny_config
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from torch.utils.data import DataLoader, TensorDataset

import evomal_core as em
from evomal_core.tasks import check_values, missing_classes
from evomal_paper.experiments.gecco import sine_tasks

X = np.arange(20.0).reshape(10, 2)
Y = np.arange(10.0)
PAIRS = TensorDataset(torch.tensor(X), torch.tensor(Y))


@given(rows=st.integers(5, 60), seed=SEEDS)
def test_parts_share_no_row_and_together_are_all_rows(rows, seed):
    x = np.arange(rows, dtype=float)
    with global_generators_untouched():
        task = em.Task.from_arrays(x, x, "regression", standardise=False, seed=seed)
    for column in (0, 1):
        values = torch.cat([part[column] for part in task.parts().values()]).flatten().tolist()
        assert sorted(values) == x.tolist()
    assert all(torch.equal(*part) for part in task.parts().values()), "x and y stay together"
    sizes = [len(part[0]) for part in task.parts().values()]
    assert all(abs(size - share * rows) <= 1 for size, share in zip(sizes, (0.6, 0.2, 0.2), strict=True))


def test_split_depends_on_its_seed_alone():
    a, b, c = (em.Task.from_arrays(X, Y, "regression", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(a.train[1], b.train[1])
    assert not torch.equal(a.train[1], c.train[1])


def test_standardisation_uses_the_training_part_alone():
    rng = np.random.default_rng(0)
    x, y = rng.normal(50, 9, (100, 3)), rng.normal(-7, 3, 100)
    task = em.Task.from_arrays(x, y, "regression")
    for part in task.train:
        torch.testing.assert_close(part.mean(0), torch.zeros(part.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(part.std(0, correction=0), torch.ones(part.shape[1]))
    raw = em.Task.from_arrays(x, y, "regression", standardise=False)
    mean, spread = raw.train[0].double().mean(0), raw.train[0].double().std(0, correction=0)
    torch.testing.assert_close(task.test[0], ((raw.test[0] - mean) / spread).float(), rtol=1e-4, atol=1e-5)
    assert task.test[0].mean(0).abs().max() > 1e-3


def test_constant_features_become_zero_not_nan():
    task = em.Task.from_arrays(np.full((10, 1), 3.0), Y, "regression")
    assert torch.equal(task.train[0], torch.zeros_like(task.train[0]))


@pytest.mark.parametrize(
    "y",
    [
        ["b", "a"] * 10,
        np.array(["b", "a"] * 10, dtype=object),
        [7, -3] * 10,
        [True, False] * 10,
        np.array([[2.0], [1.0]] * 10),
    ],
)
def test_binary_labels_of_any_type_become_zeros_and_ones_in_sorted_order(y):
    task = em.Task.from_arrays(np.array([1.0, 0.0] * 10), y, "binary", standardise=False)
    assert all(torch.equal(*part) for part in task.parts().values())
    assert task.train[1].dtype == torch.float32
    assert task.outputs == 1


def test_multiclass_labels_are_numbered_in_sorted_order():
    names = np.array(["dog", "ant", "cat"] * 10)
    task = em.Task.from_arrays(np.array([2.0, 0.0, 1.0] * 10), names, "multiclass", standardise=False)
    assert all(torch.equal(x.flatten().long(), y) for x, y in task.parts().values())
    assert task.outputs == 3
    assert task.train[1].dtype == torch.int64


def test_pandas_and_torch_arrays_are_taken():
    import pandas as pd

    frame = pd.DataFrame({"a": np.arange(10.0), "b": 1.0, "kind": ["u", "v"] * 5})
    from_pandas = em.Task.from_arrays(frame[["a", "b"]], frame["kind"], "binary")
    from_torch = em.Task.from_arrays(
        torch.tensor(frame[["a", "b"]].to_numpy()), torch.tensor([0, 1] * 5), "binary"
    )
    assert torch.equal(from_pandas.train[0], from_torch.train[0])
    assert torch.equal(from_pandas.train[1], from_torch.train[1])


def test_shapes_of_images_and_several_outputs_are_kept():
    task = em.Task.from_arrays(np.random.default_rng(0).random((10, 3, 4, 4)), np.c_[Y, Y], "regression")
    assert (task.features, task.outputs) == ((3, 4, 4), 2)
    assert "features=(3, 4, 4), outputs=2, train=6, validation=2, test=2" in repr(task)


def test_parts_of_share_zero_are_left_out():
    task = em.Task.from_arrays(X, Y, "regression", split=(0.7, 0.3, 0))
    assert set(task.parts()) == {"train", "validation"}
    assert task.test is None


@pytest.mark.parametrize(
    ("x", "y", "kind", "message"),
    [
        (X, Y[:9], "regression", "x has 10 rows but y has 9"),
        (np.where(X == 5, np.nan, X), Y, "regression", r"NaN or infinite values in 1 row\(s\), first in row 2"),
        (np.where(X == 5, np.inf, X), Y, "regression", "NaN or infinite"),
        (X * 1e300, Y, "regression", "NaN or infinite"),  # beyond float32
        (X, np.where(Y == 5, np.nan, Y), "regression", r"no label in 1 row\(s\), first in row 5 .*; drop"),
        (X, Y * 1e300, "regression", r"y has .* infinite value\(s\); drop"),
        (X, np.where(Y == 5, np.nan, Y % 2), "binary", r"no label in 1 row\(s\), first in row 5"),
        (X, np.where(Y == 5, -100, Y).astype(int), "multiclass", r"no label in 1 row\(s\), first in row 5"),
        (X, np.c_[Y, Y], "multiclass", r"got \(10, 2\) of float64; give classes of positions as y.astype\(int\)"),
        (X, np.c_[Y, Y, Y] % 2, "multiclass", r"sum to 1 along axis 1 of y, got 0; .* kind='binary'"),
        (X, Y / 2, "binary", r"probabilities from 0 to 1, got 0 to 4.5; is this a regression\?"),
        (X, list("abcdefghij"), "regression", "real numbers, got dtype <U1"),
        (X, Y * 1j, "regression", "real numbers"),
        (X * 1j, Y, "regression", "real numbers, got complex"),
        (X, [None, 1.0] * 5, "regression", "y has 5 missing value"),
        (X, [None, "a"] * 5, "binary", "y has 5 missing value"),
        (X, pd.Series(["b", None, "a", "a", "b"] * 2), "binary", "y has 2 missing value"),
        (X, Y > 3, "regression", r"got booleans; write y.astype\(float\)"),
        (X, pd.date_range("2020-01-01", periods=10), "multiclass", "y holds dates or times"),
        (X.astype("timedelta64[s]"), Y, "regression", "x holds dates or times"),
        (
            X,
            np.array([1, "a"] * 5, dtype=object),
            "binary",
            "labels of text and of other types, such as 'a' and 1; .*one type",
        ),
        (X.astype(str), Y, "regression", "array of numbers"),
        (np.zeros((0, 2)), Y[:0], "regression", "no rows"),
        (np.zeros((10, 0)), Y, "regression", "no features"),
        (5.0, 3.0, "regression", r"x must be an array \(rows, …\), got float 5.0"),
        (X, 3.0, "regression", r"y must be an array \(rows, …\), got float 3.0"),
        (X, np.zeros(10), "binary", "only one class, 0.0; a binary task needs at least two"),
        (X, ["a"] * 10, "multiclass", "only one class"),
        (X, Y, "binary", "two classes, got 10; use kind='multiclass'"),
        (X, Y / 2, "multiclass", "fractions such as .*is this a regression"),
        (X, Y, "regresion", "unknown kind 'regresion'"),
        (X, Y, ["regression"], "unknown kind"),
        (X[:2], Y[:2], "regression", "too few for split"),
        (X.astype(object), Y, "regression", r"got dtype object; of numbers, write x\.astype\(float\)"),
        (X, Y.astype(object), "regression", r"got dtype object; write y\.astype\(float\)"),
        (np.ma.masked_less(X, 3), Y, "regression", r"x has 3 masked value\(s\); drop or impute"),
        (csr_matrix(X), Y, "regression", r"x is a sparse matrix; write x\.toarray\(\)"),
        (PAIRS, Y, "regression", r"x is a TensorDataset; give arrays: x, y = zip\(\*dataset\)"),
        (DataLoader(PAIRS), Y, "regression", r"x is a DataLoader; .* = zip\(\*loader\.dataset\)"),
        (np.add(X, [0, 1e8]), Y, "regression", r"column 1 of x varies by 18 around 1e\+08, .*subtract its mean"),
        (X, np.arange(10) + 2**40, "regression", "column 0 of y varies by 9 around 1.09951e"),
        ([[1.0], [1.0, 2.0]], [0, 1], "regression", "x has rows of unequal lengths; pad or cut them"),
    ],
)
def test_arrays_that_cannot_be_learned_from_are_refused_in_one_line(x, y, kind, message):
    with pytest.raises(ValueError, match=message) as caught:
        em.Task.from_arrays(x, y, kind)
    assert len(str(caught.value).splitlines()) == 1


def test_one_hot_rows_are_refused_with_what_makes_labels_of_them():
    for kind in ("multiclass", "binary"):
        with pytest.raises(ValueError, match=r"of one-hot rows, give y\.argmax\(axis=1\)"):
            em.Task.from_arrays(X, np.eye(2)[Y.astype(int) % 2], kind)


@pytest.mark.parametrize(
    ("kind", "part", "message"),
    [
        ("regression", (X, Y[:, None]), "train part of 'mine' holds tensors .*, got ndarray and ndarray"),
        ("regression", (torch.zeros(4, 2), torch.zeros(3, 1)), "has 4 rows of x but 3 of y"),
        ("regression", (torch.zeros(4, 2), torch.zeros(4)), r"got \(4,\); write y.unsqueeze\(1\)"),
        ("binary", (torch.zeros(4, 2), torch.zeros(4)), r"got \(4,\); write y.unsqueeze\(1\)"),
        (
            "multiclass",
            (torch.zeros(4, 2), torch.zeros(4).int()),
            r"got \(4,\) of torch.int32; use Task.from_arrays",
        ),
        ("multiclass", (torch.zeros(4, 2), torch.zeros(4)), r"got \(4,\) of torch.float32"),
        ("classes", (torch.zeros(4, 2), torch.zeros(4).long()), "unknown kind 'classes'"),
    ],
)
def test_a_task_of_tensors_that_do_not_fit_is_refused(kind, part, message):
    with pytest.raises(ValueError, match=message):
        em.Task("mine", kind, part)


@pytest.mark.parametrize(
    "split", [(0.5, 0.5), (0.5, 0.6, -0.1), (0, 0.5, 0.5), (0.6, 0.2, 0.1), (math.nan, 0.5, 0.5), "abc"]
)
def test_a_split_that_is_not_three_shares_is_refused(split):
    with pytest.raises(ValueError, match=r"split|convert"):
        em.Task.from_arrays(X, Y, "regression", split=split)


def test_tasks_move_to_a_dtype_without_touching_class_indices():
    task = class_task(3).to(dtype=torch.float64)
    assert (task.train[0].dtype, task.train[1].dtype) == (torch.float64, torch.int64)
    assert regression_task().to(dtype=torch.float64).test[1].dtype == torch.float64


def test_sine_tasks_are_gecco_section_4_1s():
    with global_generators_untouched():
        tasks = sine_tasks(0, 200, -2.0, 2.0, purpose="test")
    amplitudes, phases = [], []
    for task in tasks:
        x, y = (torch.cat((task.train[i], task.test[i])).double().numpy()[:, 0] for i in range(2))
        assert task.train[0].shape == task.test[0].shape == (100, 1)
        assert x.min() >= -2
        assert x.max() <= 2
        # A·sin(x + p) = A·cos p·sin x + A·sin p·cos x: two coefficients by least squares
        basis = np.c_[np.sin(x), np.cos(x)]
        (a, b), *_ = np.linalg.lstsq(basis, y, rcond=None)
        np.testing.assert_allclose(basis @ [a, b], y, atol=1e-5)
        amplitudes.append(math.hypot(a, b))
        phases.append(math.atan2(b, a))
    assert 0.2 <= min(amplitudes) < 0.5
    assert 4.6 < max(amplitudes) <= 5
    assert np.mean(amplitudes) == pytest.approx(2.6, abs=0.3)
    assert min(phases) < -2.8
    assert max(phases) > 2.8


def test_sine_tasks_differ_by_seed_purpose_and_number():
    def first(seed, purpose):
        return sine_tasks(seed, 2, -2.0, 2.0, purpose=purpose)

    names = {task.name for seed in (0, 1) for purpose in ("a", "b") for task in first(seed, purpose)}
    assert len(names) == 8
    assert torch.equal(first(0, "a")[1].train[0], sine_tasks(0, 5, -2.0, 2.0, purpose="a")[1].train[0])


def test_indices_stay_whole_numbers_and_other_integers_become_floats():
    x = np.arange(20, dtype=np.uint8).reshape(10, 2)
    kept = em.Task.from_arrays(x, Y, "regression", indices=True)
    assert kept.train[0].dtype == torch.int64
    assert sorted(torch.cat([part[0] for part in kept.parts().values()]).flatten().tolist()) == list(range(20))
    assert em.Task.from_arrays(x, Y, "regression", standardise=False).train[0].dtype == torch.float32
    assert em.Task.from_arrays(x[:, 0], Y, "regression", indices=True).features == (1,)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X, "whole numbers .rows, ….*float64 of shape .10, 2."),
        (np.zeros((10, 0), dtype=int), "of shape .10, 0."),
        (np.int64(3), r"x must be an array \(rows, …\), got int64 np.int64\(3\)"),
        (X.astype(int) - 1, "whole numbers from 0, got -1"),
    ],
)
def test_what_can_not_be_indices_is_refused(x, message):
    with pytest.raises(ValueError, match=message):
        em.Task.from_arrays(x, Y, "regression", indices=True)


def test_the_scales_of_standardisation_are_kept():
    rng = np.random.default_rng(0)
    x, y = rng.normal(3.0, 2.0, (50, 3)).astype(np.float32), rng.normal(-7.0, 5.0, 50)
    task = em.Task.from_arrays(x, y, "regression")
    assert task.x_scale is not None
    assert task.y_scale is not None
    whole = torch.cat([part[1] for part in task.parts().values()])
    assert sorted(task.y_scale.undo(whole)[:, 0].tolist()) == pytest.approx(sorted(y), rel=1e-5)
    new = task.x_scale(x[:4])
    known = torch.cat([part[0] for part in task.parts().values()])
    assert all((known == row).all(dim=1).any() for row in new)
    assert em.Task.from_arrays(x, y > 0, "binary").y_scale is None
    assert em.Task.from_arrays(x, y, "regression", standardise=False).x_scale is None


def test_new_rows_are_standardised_whatever_holds_them():
    x = np.random.default_rng(0).normal(3.0, 2.0, (50, 3))
    task = em.Task.from_arrays(x, x[:, 0], "regression")
    assert task.x_scale is not None
    assert task.y_scale is not None
    wanted = task.x_scale(torch.tensor(x[:3]))
    for rows in (x[:3], x[:3].tolist(), pd.DataFrame(x[:3]), pd.DataFrame(x[:3], columns=list("abc"))):
        assert torch.equal(task.x_scale(rows), wanted), "a square table is not transposed"
    assert torch.equal(task.x_scale(x[0]), wanted[0])
    for column in (x[:3, 0], pd.Series(x[:3, 0]), x[:3, :1]):
        torch.testing.assert_close(task.y_scale(column), wanted[:, :1])
    assert torch.equal(task.y_scale.undo(wanted[:, 0].numpy()), task.y_scale.undo(wanted[:, 0]))
    for rows in (x[:3, :1], x[:3, :2], x[:2, 0]):
        with pytest.raises(ValueError, match=r"a scale of rows of shape \(3,\) got "):
            task.x_scale(rows)


def test_bfloat16_which_numpy_lacks_is_taken():
    x = torch.arange(20.0).reshape(10, 2)
    task, same = (em.Task.from_arrays(a, a[:, 0], "regression") for a in (x.bfloat16(), x))
    assert torch.equal(task.train[0], same.train[0])
    assert task.train[1].dtype == torch.float32


def test_tensors_that_require_gradients_are_taken_as_they_are():
    x = torch.randn(30, 2, requires_grad=True)
    task = em.Task.from_arrays(x, x[:, 0], "regression")
    assert not task.train[0].requires_grad


def test_a_table_with_text_names_the_column_and_one_with_flags_is_taken():
    table = pd.DataFrame(
        {"size": [1.0, 2.0, 3.0, 4.0, 5.0], "town": list("abcab"), "new": [True, False] * 2 + [True]}
    )
    with pytest.raises(ValueError, match="column 'town' of x holds no numbers; encode it"):
        em.Task.from_arrays(table, table["size"], "regression")
    task = em.Task.from_arrays(table.drop(columns="town"), table["size"], "regression")
    assert task.features == (2,)


def test_rows_of_a_dataset_are_taken_as_its_refusal_says():
    x, y = zip(*PAIRS, strict=True)
    task, same = em.Task.from_arrays(x, y, "regression"), em.Task.from_arrays(X, Y, "regression")
    assert all(torch.equal(*both) for both in zip(task.train, same.train, strict=True))


@pytest.mark.parametrize("column", [0.1 + np.arange(10) * 1e-17, np.full(10, 1e8), 1e8 + 1e4 * Y, Y * 1e-30])
def test_columns_that_float32_resolves_and_constants_with_rounding_errors_are_taken(column):
    em.Task.from_arrays(np.c_[column, Y], Y, "regression")


def test_tables_of_the_same_rows_in_different_orders_are_refused():
    x, y = pd.DataFrame(X), pd.Series(Y)
    shuffled = x.sample(frac=1, random_state=0)
    with pytest.raises(ValueError, match=r"same index in different orders.*y\.loc\[x\.index\]"):
        em.Task.from_arrays(shuffled, y, "regression")
    task = em.Task.from_arrays(shuffled, y.loc[shuffled.index], "regression", standardise=False)
    assert torch.equal(task.train[0][:, :1], 2 * task.train[1])
    em.Task.from_arrays(shuffled.reset_index(drop=True), y.loc[shuffled.index].to_numpy(), "regression")
    em.Task.from_arrays(x.set_index(np.arange(10) + 7), y, "regression")
    mixed = pd.Index([1, "a", (2, "b"), *range(3, 10)], dtype=object, tupleize_cols=False)
    with pytest.raises(ValueError, match="same index in different orders"):
        em.Task.from_arrays(x.set_index(mixed), y.set_axis(mixed[::-1]), "regression")


def test_a_task_knows_what_its_classes_stand_for():
    labels = np.array([7, 100, -3, 7, 100] * 2)
    task = em.Task.from_arrays(np.arange(10.0), labels, "multiclass", standardise=False)
    assert task.classes == ("-3", "7", "100")
    for x, y in task.parts().values():
        assert [int(task.classes[index]) for index in y] == labels[x[:, 0].long()].tolist()
    assert em.Task.from_arrays(X, Y > 4, "binary").classes == ("False", "True")


ZEROS = torch.zeros(4, 2)


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ((ZEROS[:0], ZEROS[:0, :1]), "the validation part of 'mine' has no rows; a part without rows is None"),
        (
            (torch.zeros(4, 3), ZEROS[:, :1]),
            r"a row of x has shape \(3,\) .* in the validation .* but \(2,\)",
        ),
        ((ZEROS, ZEROS), r"a row of y has shape \(2,\) .* but \(1,\)"),
        ((ZEROS.double(), ZEROS[:, :1]), "torch.float64 in the validation part of 'mine', but .* torch.float32"),
    ],
)
def test_parts_that_do_not_fit_the_training_part_are_refused(validation, message):
    with pytest.raises(ValueError, match=message):
        em.Task("mine", "regression", (ZEROS, ZEROS[:, :1]), validation)


@pytest.mark.parametrize(
    ("kind", "x", "y", "message"),
    [
        (
            "regression",
            ZEROS / 0,
            ZEROS,
            r"x has NaN or infinite values in 4 row\(s\) of the train part",
        ),
        ("regression", ZEROS, ZEROS + torch.tensor([[0.0, math.inf]]), "y has NaN or infinite values in 4"),
        ("binary", ZEROS, 2.0 * torch.eye(4)[:, :1] - 1, "labels are 0 and 1, got -1 to 1 of the train part"),
        ("multiclass", ZEROS, torch.tensor([0, 1, -100, 1]), r"1 row\(s\) of the train .* no label, first row 2"),
        ("multiclass", ZEROS, torch.tensor([0, 1, -1, 1]), "class indices from 0, got -1"),
        ("multiclass", ZEROS, torch.full((4, 2), 0.6), "sum to 1 along axis 1, got 0.6 to 0.6 of the train"),
    ],
)
def test_a_search_refuses_tensors_that_can_not_be_learned_from(kind, x, y, message):
    task = em.Task("mine", kind, (x, y), (x, y))
    with pytest.raises(ValueError, match=message):
        em.learn_loss([task], lambda: em.models.mlp(2, [3], 2), progress=False)


def test_values_of_good_tasks_are_taken():
    for task in (regression_task(), class_task(2), class_task(3), sine_tasks(0, 1, -2, 2, purpose="test")[0]):
        check_values(task)


def test_a_class_without_rows_in_a_part_is_named(caplog):
    labels = np.zeros(40, dtype=int)
    labels[:2] = 5, 9
    task = em.Task.from_arrays(np.arange(40.0), labels, "multiclass", standardise=False)
    for split, (x, _) in task.parts().items():
        there = set(labels[x[:, 0].long()].tolist())
        assert missing_classes(task, split) == [str(label) for label in (0, 5, 9) if label not in there]
    assert missing_classes(class_task(3), "train") == missing_classes(regression_task(), "train") == []
    config = tiny_config(generations=1, population=1, meta_steps=0)
    em.learn_loss([task], lambda: em.models.mlp(1, [2], 3), config=config, progress=False, compare=False)
    assert "the validation part of 'task' has no row of class" in caplog.text


def test_a_seed_that_is_none_is_refused():
    with pytest.raises(ValueError, match="a seed is a whole number of at least 0, got -1"):
        em.Task.from_arrays(np.zeros((9, 1)), np.arange(9.0), "regression", seed=-1)
