"""The papers' experiments by name; one run is (experiment, profile, method, seed)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from evomal_core.checks import refuse_unknown
from evomal_core.search import METHODS
from evomal_paper.experiments.classification import CLASSIFICATION
from evomal_paper.experiments.gecco import GECCO
from evomal_paper.experiments.profiles import PROFILES, Experiment, Problem, Profile
from evomal_paper.experiments.tabular import TABULAR

TPAMI: tuple[Experiment, ...] = (*TABULAR, *CLASSIFICATION)

__all__ = ["EXPERIMENTS", "PROFILES", "Experiment", "Problem", "Profile", "check_methods", "experiment"]

EXPERIMENTS: dict[str, Experiment] = {entry.name: entry for entry in (*GECCO, *TPAMI)}


def experiment(name: str) -> Experiment:
    """The experiment of a name.

    Raises:
        ValueError: there is none.
    """
    refuse_unknown("experiment", name, list(EXPERIMENTS))
    return EXPERIMENTS[name]


def check_methods(methods: list[str] | None) -> list[str]:
    """The methods asked for, in the order of METHODS; all if None.

    Raises:
        ValueError: one is unknown, or none is named.
    """
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
    changed = [setting for setting, value in paper.items() if chosen[setting] != value]
    rows = [(_named(setting, sizes), _plain(paper[setting]), _plain(chosen[setting])) for setting in changed]
    return pd.DataFrame(rows, columns=["setting", "paper", profile if profile != "paper" else "this run"])


def _named(setting: str, profile: Profile) -> str:
    """A setting's name, with the methods that have a value of their own in the profile."""
    others = [method for method, own in profile.methods.items() if setting.removeprefix("search.") in own]
    return f"{setting} (but for {', '.join(others)})" if others else setting


def _plain(value: Any) -> Any:
    """A real number as text, so that it is shown with its own digits and whole ones beside it stay whole."""
    return f"{value:g}" if isinstance(value, float) else value


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
