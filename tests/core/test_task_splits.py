"""Parts of one's own, groups, strata, tables and transformers in `Task.from_arrays`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.feature_selection import SelectKBest
from sklearn.pipeline import make_pipeline
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


@pytest.mark.parametrize("part", [(X[:0], Y[:0]), ([], []), (pd.DataFrame(X[:0]), pd.Series(Y[:0]))])
@pytest.mark.parametrize("name", ["validation", "test"])
def test_a_part_of_ones_own_without_rows_is_refused(name, part):
    with pytest.raises(ValueError, match=f"the {name} part has no rows; leave it out to split x"):
        em.Task.from_arrays(X, Y, "multiclass", **{name: part})


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"validation": (X[:5], Y[:4])}, "x of the validation part has 5 rows but y of the validation part has 4"),
        ({"validation": (3, Y)}, r"x of the validation part must be an array \(rows, …\), got int 3"),
        ({"test": (X, None)}, r"y of the test part must be an array \(rows, …\), got NoneType None"),
        ({"x": 3, "validation": (X, Y)}, r"x must be an array \(rows, …\), got int 3"),
        ({"x": X[:9]}, "x has 9 rows but y has 50"),
    ],
)
def test_each_part_has_as_many_labels_as_rows(parts, said):
    with pytest.raises(ValueError, match=said):
        em.Task.from_arrays(parts.pop("x", X), Y, "multiclass", **parts)


@pytest.mark.parametrize(
    ("y", "own"),
    [
        (Y, Y.astype(str)),
        (Y.astype(str), Y.astype(float)),
        (pd.Series(Y.astype(str), dtype=object), Y),
        (["a", *Y[1:]], Y),
        (np.array(["a", *Y[1:]], dtype=object), None),
        (["a", *Y[1:].tolist()], None),
    ],
)
def test_labels_of_text_and_of_numbers_are_not_mixed(y, own):
    parts = {} if own is None else {"validation": (X, own)}
    with pytest.raises(ValueError, match=r"y has labels of text and of other types, such as '.' and .*one type"):
        em.Task.from_arrays(X, y, "multiclass", **parts)


def test_whole_floats_and_integers_are_the_same_classes():
    task = em.Task.from_arrays(X, Y, "multiclass", validation=(X, Y.astype(float)), test=(X, Y.astype(object)))
    assert task.outputs == 3
    assert task.validation[1].tolist() == task.test[1].tolist() == Y.tolist()
    mixed = np.array([1, 1.0, 2, 2.0, 0] * 10, dtype=object)
    assert em.Task.from_arrays(X, mixed, "multiclass").outputs == 3
    with pytest.raises(ValueError, match=r"y has 1 missing value\(s\)"):
        em.Task.from_arrays(X, [float("nan"), *"ab" * 24, "a"], "binary")


def test_all_that_has_a_value_a_row_is_in_the_order_of_x():
    x, y, weight = pd.DataFrame(X), pd.Series(Y), pd.Series(np.ones(50))
    other = RNG.permutation(50)
    said = "same index in different orders.*"
    for name, option in {"groups": y, "sample_weight": weight}.items():
        with pytest.raises(ValueError, match=f"x and {name} have the {said}{name}.loc"):
            em.Task.from_arrays(x, y, "multiclass", **{name: option.iloc[other]})
    with pytest.raises(ValueError, match=f"y and groups have the {said}groups.loc"):
        em.Task.from_arrays(X, y, "multiclass", groups=y.iloc[other])
    with pytest.raises(ValueError, match=f"x and y of the test part have the {said}"):
        em.Task.from_arrays(X, Y, "multiclass", test=(x.iloc[other], y))
    with pytest.raises(ValueError, match=f"x and weight of the validation part have the {said}"):
        em.Task.from_arrays(X, Y, "multiclass", validation=(x, y, weight.iloc[other]))
    em.Task.from_arrays(x, y, "multiclass", groups=y, sample_weight=weight, validation=(x, y, weight))


def test_a_scale_takes_arrays_of_any_layout_and_tables_by_column_names():
    table = pd.DataFrame(X, columns=["a", "b"])
    task = em.Task.from_arrays(table, X[:, 0], "regression")
    scaled = task.x_scale(X)
    torch.testing.assert_close(task.x_scale(X[::-1]), scaled.flip(0))
    torch.testing.assert_close(task.x_scale(X.astype(">f8")), scaled)
    torch.testing.assert_close(task.y_scale.undo(X[::-1, :1]), task.y_scale.undo(X[:, :1]).flip(0))
    torch.testing.assert_close(task.x_scale(table[["b", "a"]]), scaled)
    torch.testing.assert_close(task.x_scale(table.assign(c="text")), scaled)
    with pytest.raises(ValueError, match="x lacks column 'b'"):
        task.x_scale(table[["a"]])
    with pytest.raises(ValueError, match="x must be an array of real numbers, got dtype <U"):
        task.x_scale(X.astype(str))


class Dropping(StandardScaler):
    def transform(self, X):  # noqa: N803 - scikit-learn's name
        return super().transform(X)[3:]


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (Dropping(), r"transform made an array of shape \(47, 2\) of 50 rows of x; .* drop them from x and y"),
        (SelectKBest(k=1), r"transform is fitted without y, but SelectKBest\(k=1\) needs it; transform x before"),
        (make_pipeline(SelectKBest(k=1)), "transform is fitted without y, but Pipeline"),
    ],
)
def test_transformers_keep_rows_and_are_fitted_without_labels(transform, said):
    with pytest.raises(ValueError, match=said):
        em.Task.from_arrays(X, Y, "multiclass", transform=transform)


def test_a_transformer_gets_tables_or_arrays_and_not_both():
    table = pd.DataFrame({"c": list("ab") * 25, "d": Y})
    columns = ColumnTransformer([("c", OneHotEncoder(), ["c"])])
    with pytest.raises(ValueError, match="x is a table and x of the validation part is not; give a table"):
        em.Task.from_arrays(table, Y, "multiclass", transform=columns, validation=(table.to_numpy(), Y))
    with pytest.raises(ValueError, match="x of the test part is a table and x is not; give a table"):
        em.Task.from_arrays(table.to_numpy(), Y, "multiclass", transform=columns, test=(table, Y))


@pytest.mark.parametrize("split", ["60/20/20", (0.6, "a", 0.2), {"train": 0.6}, None, 0.6])
def test_a_split_that_is_no_three_numbers_is_refused(split):
    with pytest.raises(ValueError, match=r"three shares that sum to 1, .* such as \(0.6, 0.2, 0.2\), got "):
        em.Task.from_arrays(X, Y, "multiclass", split=split)
