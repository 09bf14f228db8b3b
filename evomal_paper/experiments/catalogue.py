"""The papers' experiments by name; one run is (experiment, profile, method, seed)."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from evomal_core.checks import refuse_unknown
from evomal_core.search import METHODS
from evomal_paper.experiments.classification import CLASSIFICATION
from evomal_paper.experiments.gecco import GECCO
from evomal_paper.experiments.profiles import Experiment
from evomal_paper.experiments.tabular import TABULAR

EXPERIMENTS: dict[str, Experiment] = {entry.name: entry for entry in (*GECCO, *TABULAR, *CLASSIFICATION)}


def experiment(name: str) -> Experiment:
    """The experiment of a name; a ValueError if there is none."""
    refuse_unknown("experiment", name, list(EXPERIMENTS))
    return EXPERIMENTS[name]


def check_methods(methods: list[str] | None) -> list[str]:
    """The methods asked for, in the order of METHODS, all if None; a ValueError if one is unknown."""
    if methods is None:
        return list(METHODS)
    if isinstance(methods, str) or not methods:
        raise ValueError(f"methods is a list of one or more of {', '.join(METHODS)}, got {methods!r}")
    for method in methods:
        refuse_unknown("method", method, list(METHODS))
    return [method for method in METHODS if method in methods]


def profile_table(name: str, profile: str) -> pd.DataFrame:
    """Where a profile of an experiment differs from the published protocol: setting, paper and profile."""
    sizes = experiment(name).profile(profile)
    paper, chosen = (_flat(each.model_dump(mode="json")) for each in (experiment(name).profile("paper"), sizes))
    rows = []
    for setting, value in paper.items():
        if chosen[setting] != value:
            methods = [name for name, own in sizes.methods.items() if setting.removeprefix("search.") in own]
            shown = f"{setting} (but for {', '.join(methods)})" if methods else setting
            # A real number is shown as text: with its own digits, and whole ones beside it stay whole.
            pair = (f"{each:g}" if isinstance(each, float) else each for each in (value, chosen[setting]))
            rows.append((shown, *pair))
    return pd.DataFrame(rows, columns=["setting", "paper", profile if profile != "paper" else "this run"])


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
