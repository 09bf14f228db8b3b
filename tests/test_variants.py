"""Variants of a protocol are compared with the unvaried runs of the same seeds."""

import numpy as np
import pandas as pd
import pytest

from evomal_core.comparison.variants import in_words, variants


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
    assert "smaller at 2 of n = 3 seeds; nearer to the paper." in in_words(table)


def test_a_variant_that_diverges_is_not_nearer():
    table = variants(values(paper=[4.0, 5.0], paper_softplus__true=[np.inf, np.inf]))
    assert not table["nearer"].iloc[0]
    assert table["wins"].iloc[0] == 0


def test_without_variants_the_words_say_how_to_run_one():
    assert "evomal run" in in_words(variants(values(paper=[1.0])))
