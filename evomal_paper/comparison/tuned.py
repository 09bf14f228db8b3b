"""The task loss at its best learning rate: what a learned loss has to beat, beyond being another rate."""

from __future__ import annotations

import pandas as pd

from evomal_paper.analysis.learning_rate import common_seeds, tuned
from evomal_paper.runs.tables import KEYS
from evomal_paper.sentences import printed
from evomal_paper.statistics import summary

PLACE = ["experiment", "profile", "group", "split"]
COLUMNS = [*KEYS, "group", "split", "error", "rate"]


def tuned_baseline(rates: pd.DataFrame) -> pd.DataFrame:
    """Final errors of the baseline, from new starts, at the rate that `learning_rate.tuned` chooses for each seed.

    Args:
        rates: `Evidence.rates`. The rates are those that were run (`quick@base.lr=0.01`), and the profile's own.

    Returns:
        The rows of the chosen rates, one per experiment, profile, seed, group and split.
    """
    baseline = rates[rates["method"] == "baseline"]
    parts = []
    for _, part in baseline.groupby(["experiment", "profile"], sort=False):
        whole = common_seeds(part)
        parts.append(whole.merge(tuned(whole), on=["method", "seed", "rate"])[COLUMNS] if len(whole) else whole)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)


def tuned_table(rates: pd.DataFrame, experiments: list[str], profile: str) -> pd.DataFrame:
    """The baseline's final errors at its tuned rate: mean ± standard deviation (seeds), and the rates chosen.

    Args:
        rates: `Evidence.rates`.
        experiments: those shown.
        profile: the profile shown.
    """
    found = tuned_baseline(rates).query("experiment in @experiments and profile == @profile")
    rows = []
    for (name, _, group, split), part in found.groupby(PLACE, sort=False):
        chosen = ", ".join(f"{rate:g}" for rate in sorted(set(part["rate"])))
        row = {"experiment": name, "group": group, "split": split, "error": printed(summary(part["error"]))}
        rows.append(row | {"rates": chosen})
    return pd.DataFrame(rows, columns=["experiment", "group", "split", "error", "rates"])
