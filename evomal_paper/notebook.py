"""Helpers of the notebooks: checks of their parameters, and places of their tables and figures."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from evomal_core.checks import refuse_unknown
from evomal_core.devices import check_device
from evomal_core.files import write_atomic
from evomal_core.losses import Loss
from evomal_paper.analysis.landscapes import Grid
from evomal_paper.analysis.transfer import Transfer
from evomal_paper.comparison.splits import check_splits
from evomal_paper.comparison.table_ii import check_rows
from evomal_paper.experiments.catalogue import EXPERIMENTS, check_methods, experiment
from evomal_paper.experiments.profiles import PROFILES
from evomal_paper.plots.style import save
from evomal_paper.runs.tables import check_seeds

INJECTED = "# Parameters"
"""The first line of the cell that papermill inserts after the one tagged `parameters`."""


def check_parameters(namespace: dict[str, Any]) -> dict[str, Any]:
    """The checked values of a notebook's parameters; call it with `globals()` in the first cell.

    Parameters are declared by their annotations, `profile: str = "quick"`. Papermill only warns of names
    that a notebook does not declare, so those are looked for in the cell that it inserted. A name that is
    refused is also forgotten, so that the corrected cell can be run again in the same kernel.

    Returns:
        Keyword arguments of `load_or_run` and others: an empty list of seeds or methods becomes None, and
        a relative `results_dir` is taken from the folder of the project, wherever the notebook was started.

    Raises:
        ValueError: a parameter is unknown, or its value has another type than declared or is out of range.
    """
    declared = namespace.get("__annotations__", {})
    if not declared:
        raise ValueError("no parameters are declared; run the cell that is tagged 'parameters' first")
    for name in _injected(namespace) - set(declared):
        namespace.pop(name)
        refuse_unknown("parameter", name, list(declared))
    for name in set(declared) - set(_CHECKS):
        del declared[name]
        refuse_unknown("parameter", name, list(_CHECKS))
    return {name: _checked(name, namespace[name], annotation) for name, annotation in declared.items()}


def _injected(namespace: dict[str, Any]) -> set[str]:
    """Names that are assigned in cells inserted by papermill, by IPython's history, and that still exist."""
    cells = [cell for cell in namespace.get("In", []) if cell.startswith(INJECTED)]
    assigned = (node for cell in cells for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Assign))
    targets = (target for node in assigned for target in node.targets if isinstance(target, ast.Name))
    return {target.id for target in targets if target.id in namespace}


def _checked(name: str, value: Any, annotation: Any) -> Any:
    try:
        TypeAdapter(annotation).validate_python(value, strict=True)
    except ValidationError:
        wanted = annotation.__name__ if isinstance(annotation, type) else str(annotation)
        hint = f"; with papermill write -y '{name}: [...]'" if wanted.startswith("list") else ""
        raise ValueError(f"parameter {name} = {value!r} is not of the declared type {wanted}{hint}") from None
    try:
        return _CHECKS[name](value)
    except ValueError as error:
        raise ValueError(f"parameter {name} = {value!r}: {error}") from None


def _profile(value: str) -> str:
    base, changed, _ = value.partition("@")
    refuse_unknown("profile", base, list(PROFILES))
    first: ValueError | None = None
    for entry in EXPERIMENTS.values() if changed else ():
        try:
            entry.profile(value)
            return value  # whether the notebook's own experiment has these settings, it says itself
        except ValueError as error:
            first = first or error
    if first:
        raise first
    return value


def _device(value: str) -> str:
    check_device(value)
    return value


def _datasets(values: list[str]) -> list[str]:
    known = [entry.name for entry in EXPERIMENTS.values() if entry.notebook == EXPERIMENTS["diabetes"].notebook]
    if not values:
        return [name for name in known if not experiment(name).missing()]
    for value in values:
        refuse_unknown("data set", value, known)
        if missing := experiment(value).missing():
            raise ValueError(missing)
    if len(set(values)) < len(values):
        raise ValueError("a data set is named more than once")
    return values


def _experiments(values: list[str]) -> list[str]:
    if not values:
        raise ValueError("name one or more experiments; `evomal list` names them all")
    for value in values:
        if missing := experiment(value).missing():
            raise ValueError(missing)
    if len(set(values)) < len(values):
        raise ValueError("an experiment is named more than once")
    return values


def _transfers(values: list[str]) -> list[Transfer]:
    if not values:
        raise ValueError("name one or more transfers, for example digits-logistic-to-digits-mlp")
    found = [Transfer.parse(value) for value in values]
    _experiments(list(dict.fromkeys(name for each in found for name in (each.source, each.target))))
    if len(set(found)) < len(found):
        raise ValueError("a transfer is named more than once")
    return found


def _rates(values: list[float]) -> list[float]:
    if wrong := [value for value in values if not 0 < value < float("inf")]:
        raise ValueError(f"a learning rate is above 0, got {wrong[0]:g}")
    return values


def _dataset(value: str) -> str:
    if value != "auto":
        refuse_unknown("data set", value, ["auto", *EXPERIMENTS])
        if missing := experiment(value).missing():
            raise ValueError(missing)
    return value


def choose_dataset(value: str, real: str, stand_in: str) -> tuple[str, str]:
    """The experiment that a notebook runs, and a line of Markdown that says why.

    Args:
        value: the parameter `dataset`: one of the two, or "auto" for the first if its data is at hand.
        real: the experiment of the paper.
        stand_in: the one that needs no download.

    Raises:
        ValueError: the value is another one.
    """
    refuse_unknown("data set", value, ["auto", real, stand_in])
    missing = experiment(real).missing() if value == "auto" else None
    name = value if value != "auto" else stand_in if missing else real
    if name == real:
        return name, f"Data: **{experiment(real).title}**, as the paper has it."
    why = f" since {missing}" if missing else ""
    return name, (
        f"Data: **{experiment(stand_in).title}**, the stand-in{why}. Nothing of it is published: the published "
        f"numbers are of {experiment(real).title}, and are not shown beside it."
    )


def _at_least(least: int) -> Callable[[int], int]:
    def check(value: int) -> int:
        if value < least:
            raise ValueError(f"it is at least {least}")
        return value

    return check


def _results_dir(value: str) -> Path:
    if not value:
        raise ValueError("name a folder, for example results")
    return project_folder() / Path(value).expanduser()


def project_folder() -> Path:
    """The checkout above the working directory, which JupyterLab sets to notebooks/; else that directory."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "evomal_core").is_dir() and (folder / "notebooks").is_dir():
            return folder
    return here


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "profile": _profile,
    "seeds": lambda value: check_seeds(value) if value else None,
    "methods": lambda value: check_methods(value) if value else None,
    "device": _device,
    "results_dir": _results_dir,
    "jobs": _at_least(0),
    "dataset": _dataset,
    "datasets": _datasets,
    "rows": check_rows,
    "splits": check_splits,
    "switched": _profile,
    "experiments": _experiments,
    "experiment": lambda value: _experiments([value])[0],
    "transfers": _transfers,
    "rates": _rates,
    "published": bool,
    "points": lambda value: Grid(points=value).points,
    "surface_points": lambda value: Grid(points=value).points,
    "generations": _at_least(1),
    "population": _at_least(1),
    "trainings": _at_least(2),
    "worst": _at_least(0),
}


@dataclass(frozen=True)
class Output:
    """The folders of a notebook's files: `<folder>/figures` and `<folder>/tables`."""

    folder: Path

    def figure(self, figure: Any, name: str) -> Any:
        """Write a figure as PNG, and give it back to be shown."""
        save(figure, self.folder / "figures" / f"{name}.png")
        return figure

    def table(self, table: pd.DataFrame, name: str) -> pd.DataFrame:
        """Write a table as CSV, and give it back to be shown."""
        index = table.index.names != [None]
        write_atomic(self.folder / "tables" / f"{name}.csv", table.to_csv(index=index))
        return table


def formulas(losses: Mapping[tuple[str, str, int], Loss], runs: pd.DataFrame) -> pd.DataFrame:
    """Learned losses with a closed formula, in LaTeX: experiment, method, seed, fitness, weights, formula."""
    table = runs[["experiment", "method", "seed", "fitness", "parameters"]]
    keys = table[["experiment", "method", "seed"]].itertuples(index=False, name=None)
    table = table.assign(formula=[f"${losses[key].latex()}$" for key in keys])
    kept = table[~table["method"].isin(["baseline", "ml3"])].rename(columns={"parameters": "weights"})
    return kept.sort_values(["experiment", "method", "seed"], ignore_index=True)


def formula_table(table: pd.DataFrame) -> Any:
    """A table as Jupyter shows it: formulas in LaTeX typeset, words from the left, numbers in four digits."""
    # MathJax measures a cell before it is typeset, and breaks a formula into pieces in one that is narrow.
    formulas = [name for name in table if table[name].astype(str).str.startswith("$").any()]
    left = [("text-align", "left")]
    styled = table.style.hide(axis="index").format(dict.fromkeys(table.select_dtypes("float"), "{:.4g}"))
    styled = styled.set_table_styles([{"selector": "td, th", "props": left}])
    return styled.set_properties(subset=formulas, **{"min-width": "36em"})
