"""Batch reproduction: the notebooks executed by papermill, one after another."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evomal_core.experiment import EXPERIMENTS, experiment
from evomal_core.results import check_seeds
from evomal_core.search import check_device

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
QUICKSTART = "01_quickstart"


def reproduce(names: Sequence[str], *, profile: str, device: str, results_dir: Path, jobs: int) -> None:
    """Execute the notebooks of some experiments, or of all whose data is at hand, into `results_dir/notebooks`.

    Everything is checked before the first notebook starts; the runs that a notebook finds complete are
    loaded, so that a stopped reproduction goes on where it was.

    Raises:
        ValueError: an experiment, profile or device is unknown.
        FileNotFoundError: an experiment that was named lacks its data, or the notebooks are not here.
        RuntimeError: a notebook failed.
    """
    check_device(device)
    chosen = [experiment(name) for name in names] or list(EXPERIMENTS.values())
    for entry in chosen:
        check_seeds(entry.profile(profile).seeds)
    if not NOTEBOOKS.is_dir():
        raise FileNotFoundError(f"no notebooks at {NOTEBOOKS}; reproduce from a checkout of the project")
    notebooks: dict[str, list[str]] = {} if names else {QUICKSTART: []}
    for entry in chosen:
        if (missing := entry.missing()) is None:
            notebooks.setdefault(entry.notebook, []).append(entry.name)
        elif names:
            raise FileNotFoundError(missing)
        else:
            print(f"skipped {entry.name}: {missing}")
    for notebook, covered in notebooks.items():
        # Relative to the project where it lies inside, so that executed notebooks name no one's folders.
        folder = results_dir.resolve()
        inside = folder.is_relative_to(NOTEBOOKS.parent)
        parameters: dict[str, Any] = {
            "results_dir": str(folder.relative_to(NOTEBOOKS.parent) if inside else folder)
        }
        if notebook != QUICKSTART:
            parameters |= {"profile": profile, "device": device, "jobs": jobs}
        if notebook.endswith("tabular"):
            parameters["datasets"] = covered
        _execute(notebook, parameters, results_dir)


def _execute(notebook: str, parameters: dict, results_dir: Path) -> None:
    import papermill

    target = results_dir / "notebooks" / f"{notebook}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"{notebook} …", flush=True)
    begin = time.perf_counter()
    try:
        papermill.execute_notebook(
            os.path.relpath(NOTEBOOKS / f"{notebook}.ipynb"),
            os.path.relpath(target),
            parameters,
            cwd=NOTEBOOKS,
            kernel_name="python3",
            progress_bar=False,
        )
    except papermill.PapermillExecutionError as error:
        raise RuntimeError(f"{notebook} failed: {error.ename}: {error.evalue}; see {target}") from None
    print(f"{notebook}: {time.perf_counter() - begin:.0f} s, {target}", flush=True)
