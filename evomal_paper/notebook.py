"""Helpers of the notebooks: checks of their parameters, and places of their tables and figures."""

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import Image
from matplotlib.figure import Figure
from pydantic import TypeAdapter, ValidationError

from evomal_core.checks import refuse_unknown
from evomal_core.files import write_atomic
from evomal_core.losses import Loss
from evomal_paper.analysis.landscapes import Grid
from evomal_paper.analysis.transfer import JOINT, sides
from evomal_paper.comparison.tables import ROWS
from evomal_paper.experiments.catalogue import experiment
from evomal_paper.experiments.profiles import PROFILES, split_name
from evomal_paper.experiments.tabular import SPLITS, TABULAR
from evomal_paper.plots.style import save

MINUTES = 20
"""Rows of Table II whose `quick` profile takes longer on two cores are run only if they are named."""
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
        ValueError: a parameter is unknown, or its value has another type than declared or makes no sense.
    """
    declared = namespace.get("__annotations__", {})
    if not declared:
        raise ValueError("no parameters are declared; run the cell that is tagged 'parameters' first")
    for name in _injected(namespace) - set(declared):
        namespace.pop(name)
        refuse_unknown("parameter", name, list(declared))
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
        return _READ[name](value) if name in _READ else value
    except ValueError as error:
        raise ValueError(f"parameter {name} = {value!r}: {error}") from None


def _profile(value: str) -> str:
    refuse_unknown("profile", split_name(value)[0], list(PROFILES))
    return value


def _named(kind: str, values: list[str], known: Sequence[str]) -> list[str]:
    """The values, if each is known and named once."""
    for value in values:
        refuse_unknown(kind, value, known)
    if len(set(values)) < len(values):
        raise ValueError(f"a {kind} is named more than once")
    return values


def _splits(values: list[str]) -> list[str]:
    if not values:
        raise ValueError(f"name one or more of {', '.join(SPLITS)}")
    return _named("split", values, SPLITS)


def _rows(values: list[str]) -> list[str]:
    """The rows of Table II named, or if there are none those that take minutes and whose data is at hand."""
    for name in _named("row", values, list(ROWS)):
        if missing := ROWS[name].missing():
            raise ValueError(missing)
    return values or [name for name, row in ROWS.items() if row.minutes["quick"] <= MINUTES and not row.missing()]


def project_folder() -> Path:
    """The checkout above the working directory, which JupyterLab sets to notebooks/; else that directory."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "evomal_core").is_dir() and (folder / "notebooks").is_dir():
            return folder
    return here


_READ: dict[str, Callable[[Any], Any]] = {
    "profile": _profile,
    "seeds": lambda values: values or None,
    "methods": lambda values: values or None,
    "results_dir": lambda value: project_folder() / Path(value).expanduser(),
    "datasets": lambda values: values or [entry.name for entry in TABULAR if not entry.missing()],
    "rows": _rows,
    "splits": _splits,
    "transfers": lambda values: [JOINT.join(sides(value)) for value in values],
    "points": lambda value: Grid(points=value).points,
    "surface_points": lambda value: Grid(points=value).points,
}
"""Readers of the values of parameters; what else may be wrong with a value is found by the code that takes it."""


def choose_dataset(value: str, real: str, stand_in: str) -> tuple[str, str]:
    """The experiment that a notebook runs, and a line of Markdown that says why.

    The parameter `dataset` is the paper's experiment, the stand-in that needs no download, or "auto": the first if
    its data is at hand; a ValueError refuses another value.
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


@dataclass(frozen=True)
class Output:
    """The folders of a notebook's files: `<folder>/figures` and `<folder>/tables`."""

    folder: Path

    def figure(self, figure: Figure, name: str) -> Image:
        """Write a figure as PNG, and return the picture to be shown."""
        width, height = (figure.get_size_inches() * 96).tolist()
        png = save(figure, self.folder / "figures" / f"{name}.png").read_bytes()
        return Image(png, format="png", width=width, height=height)

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
