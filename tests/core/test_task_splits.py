"""Parts of one's own, groups, strata, tables and transformers in `Task.from_arrays`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import evomal_core as em
from evomal_core.splits import split_rows

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(50, 2)), np.arange(50) % 3


def test_parts_of_ones_own_are_kept_and_numbered_with_the_same_classes():
    xv, yv, xt, yt = X[:7] + 10, ["c"] * 7, X[:5] - 10, ["a"] * 5
    names = np.array(["a", "b", "c"])[Y]
    task = em.Task.from_arrays(X, names, "multiclass", validation=(xv, yv), test=(xt, yt), standardise=False)
    assert len(task.train[0]) == 50
    assert task.classes == ("a", "b", "c")
    torch.testing.assert_close(task.validation[0], torch.from_numpy(xv).float())
    assert task.validation[1].tolist() == [2] * 7
    assert task.test[1].tolist() == [0] * 5


def test_a_part_of_ones_own_leaves_its_share_to_the_others():
    task = em.Task.from_arrays(X, Y, "multiclass", validation=(X[:4], Y[:4]), split=(0.5, 0.3, 0.2))
    assert [len(x) for x, _ in task.parts().values()] == [36, 4, 14]
    scaled = em.Task.from_arrays(X, X[:, 0], "regression", test=(X[:4], X[:4, 0]), split=(0.5, 0.5, 0.0))
    assert [len(x) for x, _ in scaled.parts().values()] == [25, 25, 4]
    torch.testing.assert_close(scaled.y_scale.undo(scaled.test[1])[:, 0], torch.from_numpy(X[:4, 0]).float())


@given(st.integers(0, 1000))
def test_rows_of_a_group_stay_together_and_each_row_is_in_one_part(seed):
    groups = np.random.default_rng(seed).integers(0, 12, 60)
    parts = split_rows(60, (0.6, 0.2, 0.2), seed, groups=groups)
    assert sorted(np.concatenate(parts)) == list(range(60))
    found = [set(groups[part]) for part in parts]
    assert sum(map(len, found)) == len(set(groups))
    assert len(parts[0]) > len(parts[1])


@given(st.integers(0, 1000))
def test_each_part_gets_its_share_of_each_class(seed):
    strata = np.array([0] * 40 + [1] * 10)
    parts = split_rows(50, (0.6, 0.2, 0.2), seed, strata=strata)
    assert sorted(np.concatenate(parts)) == list(range(50))
    for part, share in zip(parts, (0.6, 0.2, 0.2), strict=True):
        assert abs((strata[part] == 1).sum() - 10 * share) <= 1
        assert abs((strata[part] == 0).sum() - 40 * share) <= 1


def test_a_table_goes_through_a_column_transformer_that_sees_training_rows_only():
    table = pd.DataFrame({"town": list("abc") * 20, "age": np.arange(60.0)}, index=np.arange(60) + 5)
    columns = ColumnTransformer([("town", OneHotEncoder(), ["town"]), ("age", StandardScaler(), ["age"])])
    y = pd.Series(np.arange(60) % 2, index=table.index)
    task = em.Task.from_arrays(table, y, "binary", transform=columns, standardise=False, stratify=True)
    assert task.features == (4,)
    ages = task.train[0][:, 3]
    assert float(ages.mean()) == pytest.approx(0, abs=1e-6)
    assert float(ages.std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert abs(float(task.test[0][:, 3].mean())) > 1e-3
    new = pd.DataFrame({"town": ["b"], "age": [30.0]})
    assert task.transform.transform(new).shape == (1, 4)
    assert not hasattr(columns, "transformers_")


def test_tables_of_parts_are_read_by_column_names():
    table = pd.DataFrame(X, columns=["a", "b"])
    swapped = table[["b", "a"]].iloc[:6]
    task = em.Task.from_arrays(table, Y, "multiclass", validation=(swapped, Y[:6]), standardise=False)
    torch.testing.assert_close(task.validation[0], torch.from_numpy(X[:6]).float())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"validation": X}, "arrays (x, y), or (x, y, weight), got a ndarray"),
        ({"validation": (X[:, :1], Y)}, "differ in shape between parts"),
        ({"groups": [1, 2]}, "groups has one value a row, (50,), got shape (2,)"),
        ({"groups": Y, "stratify": True}, "can't both be kept to"),
        ({"stratify": Y}, "stratify is True or False, got ndarray"),
        ({"transform": "standard"}, "a scikit-learn transformer, got a str"),
    ],
)
def test_what_does_not_fit_is_refused(options, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(").replace(")", r"\)")):
        em.Task.from_arrays(X, Y, "multiclass", **options)
    with pytest.raises(ValueError, match="labels that are classes"):
        em.Task.from_arrays(X, X[:, 0], "regression", stratify=True)
