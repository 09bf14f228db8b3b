"""Variants of a protocol are compared with the unvaried runs of the same seeds."""

import numpy as np
import pandas as pd
import pytest

from evomal_paper.comparison.variants import by_setting, one_change, variants


def values(**by_profile: list[float]) -> pd.DataFrame:
    """ML³'s in-sample training errors on Sine, a seed each."""
    return pd.DataFrame(
        [
            {
                "table": "2",
                "experiment": "sine",
                "profile": profile.replace("_", "@", 1).replace("__", "="),
                "method": "ml3",
                "seed": seed,
                "group": "in-sample",
                "split": "train",
                "value": value,
            }
            for profile, errors in by_profile.items()
            for seed, value in enumerate(errors)
        ]
    )


def test_a_variant_is_paired_with_the_unvaried_runs_of_its_seeds():
    table = variants(values(paper=[4.0, 5.0, 6.0, 9.0], paper_softplus__true=[2.0, 2.5, 7.0]))
    (row,) = table.to_dict("records")
    assert (row["change"], row["profile"], row["n"], row["wins"]) == ("softplus=true", "paper", 3, 2)
    assert (row["unvaried"], row["varied"]) == (5.0, 2.5)
    assert row["difference"] == pytest.approx(np.mean([-2.0, -2.5, 1.0]))
    assert row["published"] == pytest.approx(2.1073)
    assert row["nearer"]
    # ranks 2 and 3 against 1: two of eight sign patterns are as extreme to either side


def test_a_variant_that_diverges_is_not_nearer():
    table = variants(values(paper=[4.0, 5.0], paper_softplus__true=[np.inf, np.inf]))
    assert not table["nearer"].iloc[0]
    assert table["wins"].iloc[0] == 0
    assert table[["diverged", "diverged unvaried"]].iloc[0].tolist() == [2, 0]


def test_a_variant_a_little_nearer_explains_nothing():
    table = variants(values(paper=[4.0, 5.0], paper_softplus__true=[3.9, 4.9]))
    assert not table["nearer"].iloc[0]


def test_settings_are_ordered_by_the_share_of_cells_that_they_explain():
    runs = values(
        paper=[4.0, 5.0, 6.0], paper_softplus__true=[3.9, 4.9, 6.1], paper_meta_optimizer__sgd=[2.0, 2.2, 2.4]
    )
    found = by_setting(variants(runs))
    assert found[["change", "cells", "halved", "n"]].to_numpy().tolist() == [
        ["meta_optimizer=sgd", 1, 1, 3],
        ["softplus=true", 1, 0, 3],
    ]
    assert by_setting(variants(values(paper=[4.0, 5.0]))).empty


def test_one_common_seed_or_no_change_at_all_is_no_variant():
    assert variants(values(paper=[4.0, 5.0], paper_softplus__true=[2.0])).empty
    assert variants(values(paper=[4.0, 5.0], paper_generations__50=[4.0, 5.0])).empty


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("quick", None),
        ("quick@split=leaking", None),
        ("quick@softplus=true", ("quick", "softplus=true")),
        ("quick@split=leaking,softplus=true", ("quick@split=leaking", "softplus=true")),
        ("quick@hidden=[9,9],split=leaking", ("quick@split=leaking", "hidden=[9,9]")),
        ("quick@meta_optimizer=sgd,softplus=true", None),
        ("quick@base.lr=0.1", None),
        ("quick@split=leaking,base.lr=0.1", None),
        ("quick@base.lr=0.1,meta_optimizer=sgd", None),
    ],
)
def test_a_variant_has_one_change_from_a_profile_of_the_same_split(profile, expected):
    assert one_change(profile) == expected


def test_variants_of_one_split_are_not_paired_with_runs_of_another():
    both = {
        "quick": [1.0, 1.0],
        "quick@split=leaking": [5.0, 5.0],
        "quick@split=leaking,softplus=true": [4.0, 3.0],
    }
    parts = [
        values(paper=errors).assign(profile=profile, experiment="diabetes", table="III", split="test")
        for profile, errors in both.items()
    ]
    (row,) = variants(pd.concat(parts)).to_dict("records")
    assert (row["profile"], row["change"]) == ("quick@split=leaking", "softplus=true")
    assert (row["unvaried"], row["varied"], row["wins"]) == (5.0, 3.5, 2)


def test_errors_from_new_starts_are_a_variant_of_their_own():
    runs = values(paper=[4.0, 5.0, 6.0], paper_softplus__true=[2.0, 2.5, 7.0], text=[4.0, 5.0])
    table = variants(runs.assign(new=runs["value"] / 2)).set_index(["profile", "change"])
    assert set(table.index) == {
        ("paper", "softplus=true"),
        ("paper", "test_start=new"),
    }  # `text` starts anew as it is
    row = table.loc[("paper", "test_start=new")]
    assert (row["unvaried"], row["varied"], row["n"], row["wins"]) == (5.0, 2.5, 3, 3)
