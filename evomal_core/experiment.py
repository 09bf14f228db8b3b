"""The papers' experiments by name; one run is (experiment, profile, method, seed)."""

from __future__ import annotations

from evomal_core.protocols.gecco import GECCO
from evomal_core.protocols.profiles import PROFILES, Experiment, Problem, Profile
from evomal_core.protocols.tpami import TPAMI
from evomal_core.search import METHODS, refuse_unknown

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
