"""The published numbers hold what the papers print."""

import pytest

from evomal_core.search import METHODS
from evomal_paper.published import tables as paper

CELLS = {"2": 40, "3": 8, "II": 65, "III": 15, "IV": 35, "V": 64}


@pytest.mark.parametrize(("table", "cells"), CELLS.items())
def test_every_cell_of_a_table_is_there_once(table, cells):
    found = paper.published(table)
    assert len(found) == cells
    assert not found.duplicated(["experiment", "model", "group", "method"]).any()
    rows = found.groupby(["experiment", "model", "group"]).size()
    assert rows.nunique() == 1  # no row lacks a method
    assert set(found["n"]) == {10 if table in "23" else 5}


def test_the_whole_is_its_tables_and_values_are_in_range():
    whole = paper.published()
    assert len(whole) == sum(CELLS.values())
    assert set(whole["method"]) <= set(METHODS)
    assert (whole["mean"] > 0).all()
    assert not (whole["sd"] < 0).any()
    rates = whole[whole["metric"] == "error rate"]
    assert rates["mean"].between(0, 1).all()
    has_sd = whole["sd"].notna()
    assert (has_sd == (~(whole["table"] == "V") & ~((whole["table"] == "3") & (whole["method"] == "ml3")))).all()


# Sums of the printed columns (means, standard deviations), added up apart from the CSV file.
SUMS = {
    ("2", "baseline"): (7.893, 2.803),
    ("2", "random"): (6.0391, 3.3797),
    ("2", "gp-lfl"): (5.1453, 2.6626),
    ("2", "ml3"): (6.1803, 2.6551),
    ("2", "evomal"): (4.8229, 2.2084),
    ("3", "ml3"): (10600, 0),
    ("3", "evomal"): (116.8, 39.6),
    ("II", "baseline"): (1.2178, 0.0202),
    ("II", "ml3"): (1.1985, 0.0604),
    ("II", "taylorglo"): (1.22, 0.0941),
    ("II", "gp-lfl"): (1.3189, 0.2114),
    ("II", "evomal"): (1.1526, 0.0275),
    ("III", "baseline"): (0.7459, 0.0141),
    ("III", "ml3"): (0.919, 0.1795),
    ("III", "taylorglo"): (0.6763, 0.0326),
    ("III", "gp-lfl"): (0.7158, 0.1268),
    ("III", "evomal"): (0.661, 0.0377),
    ("IV", "baseline"): (2.197, 0.0252),
    ("IV", "ml3"): (2.8411, 0.0658),
    ("IV", "taylorglo"): (2.3781, 0.0322),
    ("IV", "gp-lfl"): (2.218, 0.021),
    ("IV", "evomal"): (2.1875, 0.0178),
    ("V", "ml3"): (2.74, 0),
    ("V", "taylorglo"): (143.47, 0),
    ("V", "gp-lfl"): (13.98, 0),
    ("V", "evomal"): (389.05, 0),
}


def test_columns_add_up_as_on_the_page():
    found = paper.published().groupby(["table", "method"])[["mean", "sd"]].sum()
    assert dict(zip(found.index, found.to_numpy().tolist(), strict=True)) == {
        column: pytest.approx(sums, abs=1e-6) for column, sums in SUMS.items()
    }


def _best(table):
    cells = paper.published(table)
    index = cells.groupby(["experiment", "model", "group"])["mean"].idxmin()
    return cells.loc[index].set_index(["experiment", "model"])["method"]


def test_the_best_method_is_the_one_that_the_papers_mark():
    assert (_best("2") == "evomal").all()
    third = _best("III").droplevel("model")
    assert third.to_dict() == {"diabetes": "evomal", "boston": "baseline", "california": "evomal"}
    second = _best("II")
    others = second[second != "evomal"].to_dict()
    # "... on all task + model pairs except for CIFAR-10 VGG-16", "worse performance on CIFAR-100 PyramidNet"
    assert others == {
        ("mnist-mlp", "MLP"): "taylorglo",
        ("cifar10-vgg16", "VGG-16"): "gp-lfl",
        ("cifar100-pyramidnet", "PyramidNet"): "baseline",
    }
    fifth = paper.published("V").pivot(index=["experiment", "model"], columns="method", values="mean")
    assert (fifth["ml3"] < fifth[["gp-lfl", "taylorglo"]].min(axis=1)).all()
    assert (fifth["evomal"] == fifth.max(axis=1)).all()


def test_an_unknown_table_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown table 'VII'"):
        paper.published("VII")


def test_every_table_names_the_part_it_is_compared_with_and_its_oddities():
    assert set(paper.COMPARED) == set(paper.ODDITIES) == set(paper.TABLES)
    assert {part for parts in paper.COMPARED.values() for part in parts} <= {"", *paper.SPLITS}
    for text in (line for lines in paper.ODDITIES.values() for line in lines):
        assert text.strip() == text
        assert text.endswith(".")
