"""Rows of Table II, and what is beside them, in words."""

import pandas as pd

from evomal_paper.comparison import table_ii


def test_a_target_of_table_iv_that_was_trained_itself_is_no_row_of_the_table():
    errors = {"baseline": [0.5, 0.6], "evomal": [0.4, 0.5]}
    keys = {"experiment": "cifar100-alexnet", "profile": "quick", "group": "in-sample", "split": "test"}
    final = pd.DataFrame(
        [
            {**keys, "method": method, "seed": seed, "error": error}
            for method, both in errors.items()
            for seed, error in enumerate(both)
        ]
    )
    said = table_ii.words(final, "quick")
    assert "The table has no numbers of the following." in said
    assert "**cifar100-alexnet**" in said
    assert "stand-in" not in said
    assert "0 of the table's 13 rows were run." in said
