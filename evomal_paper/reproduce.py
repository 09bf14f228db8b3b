"""Batch reproduction and report: the notebooks executed by papermill, in their reading order."""

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evomal_core.checks import refuse_unknown
from evomal_core.devices import check_device
from evomal_core.files import check_writable, write_atomic
from evomal_core.lazy import LazyModule
from evomal_paper.experiments.catalogue import EXPERIMENTS, experiment
from evomal_paper.experiments.profiles import PROFILES, split_name

nbconvert = LazyModule("nbconvert")
nbformat = LazyModule("nbformat")
papermill = LazyModule("papermill")
traitlets = LazyModule("traitlets.config")

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
REPORT = "13_paper_vs_measured"
LISTS = ("datasets", "experiments", "rows")
"""Parameters of notebooks that take names of experiments."""


def reproduce(names: Sequence[str], *, profile: str, device: str, results_dir: Path, jobs: int) -> None:
    """Execute notebooks into `results_dir/notebooks`: those named, or all that have their data at hand.

    Everything is checked before the first notebook starts; the runs that a notebook finds complete are
    loaded, so that a stopped reproduction goes on where it was. Copies of another profile than `quick` have
    its name in theirs.

    Args:
        names: experiments (`sine`), or topics of notebooks (`tabular`, `landscapes`); none for everything.
        profile: handed to the notebooks that take one.
        device: "cpu" or "cuda".
        results_dir: the folder of all runs.
        jobs: runs computed at once, 0 for one a core.

    Raises:
        ValueError: a name, the profile or the device is unknown.
        FileNotFoundError: an experiment that was named lacks its data, or the notebooks are not here.
        RuntimeError: a notebook failed.
    """
    check_device(device)
    refuse_unknown("profile", split_name(profile)[0], list(PROFILES))
    if not NOTEBOOKS.is_dir():
        raise FileNotFoundError(f"no notebooks at {NOTEBOOKS}; reproduce from a checkout of the project")
    plan = _named(names, profile) if names else _everything(profile)
    # Relative to the project where it lies inside, so that executed notebooks name no one's folders.
    folder = results_dir.resolve()
    inside = folder.is_relative_to(NOTEBOOKS.parent)
    given: dict[str, Any] = {"profile": profile, "device": device, "jobs": jobs}
    given["results_dir"] = str(folder.relative_to(NOTEBOOKS.parent) if inside else folder)
    for stem, chosen in plan.items():
        declared = papermill.inspect_notebook(NOTEBOOKS / f"{stem}.ipynb")
        parameters = {name: value for name, value in given.items() if name in declared}
        if names:  # else the notebooks' own defaults: what takes minutes, and has its data at hand
            parameters |= {name: chosen for name in LISTS if name in declared and chosen}
        if "switched" in declared and profile == "smoke":
            parameters["switched"] = profile  # else these searches take the minutes of the notebook's own default
        if "dataset" in declared and len(chosen) == 1:  # else it takes the paper's, as both are at hand
            parameters["dataset"] = chosen[0]
        suffix = "" if profile == "quick" or "profile" not in declared else f"-{profile}"
        execute(stem, parameters, results_dir / "notebooks" / f"{stem}{suffix}.ipynb")


def topics() -> dict[str, str]:
    """The notebooks in reading order: topic → name, for example `sine` → `02_sine`."""
    return {path.stem.partition("_")[2]: path.stem for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))}


def _named(names: Sequence[str], profile: str) -> dict[str, list[str]]:
    known = topics()
    plan: dict[str, list[str]] = {}
    for name in names:
        if name in EXPERIMENTS:
            entry = experiment(name)
            entry.profile(profile)
            if missing := entry.missing():
                raise FileNotFoundError(missing)
            plan.setdefault(entry.notebook, []).append(name)
        else:
            refuse_unknown("experiment or notebook", name, list(dict.fromkeys([*EXPERIMENTS, *known])))
            plan.setdefault(known[name], [])
    return dict(sorted(plan.items()))


def _everything(profile: str) -> dict[str, list[str]]:
    plan: dict[str, list[str]] = {}
    base, _ = split_name(profile)
    for stem in topics().values():
        covered = [entry for entry in EXPERIMENTS.values() if entry.notebook == stem]
        ready = []
        for entry in covered:
            reason = entry.missing() if base in entry.profiles else f"it has no profile {base!r}"
            if reason:
                print(f"skipped {entry.name}: {reason}")
            else:
                ready.append(entry.name)
        if ready or not covered:
            plan[stem] = ready
    return plan


def execute(stem: str, parameters: dict[str, Any], target: Path) -> None:
    """Execute one notebook with parameters, and write the executed copy.

    Raises:
        RuntimeError: a cell failed; the copy shows where.
    """
    check_writable(target)
    print(f"{stem} …", flush=True)
    begin = time.perf_counter()
    try:
        execute_notebook(os.path.relpath(NOTEBOOKS / f"{stem}.ipynb"), os.path.relpath(target), parameters)
    except papermill.PapermillExecutionError as error:
        raise RuntimeError(f"{stem} failed: {error.ename}: {error.evalue}; see {target}") from None
    print(f"{stem}: {time.perf_counter() - begin:.0f} s, {target}", flush=True)


def execute_notebook(source: Any, target: str | Path, parameters: dict[str, Any], **options: Any) -> Any:
    """Execute a notebook, by path or as read, in the folder of the notebooks; return the executed copy.

    The kernel is of this Python; options are passed on to papermill.
    """
    with tempfile.TemporaryDirectory(prefix="evomal-") as folder:
        # Sockets in a folder: two kernels that start at once may take the same TCP port.
        posix = os.name == "posix"
        sockets = {"transport": "ipc", "connection_file": f"{folder}/kernel.json"} if posix else {}
        return papermill.execute_notebook(
            source,
            target,
            parameters,
            cwd=NOTEBOOKS,
            kernel_name="python3",
            progress_bar=False,
            # Its own log is of connections, and of the interrupt that ends it; errors of cells are raised.
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
            config=traitlets.Config(KernelManager=sockets),
            **options,
        )


def write_report(results_dir: Path | str, output: Path | str) -> None:
    """Execute the notebook with the runs of a results folder, and write it without its code as HTML.

    Raises:
        RuntimeError: a cell failed.
        OSError: the output can't be written.
    """
    output = Path(output)
    check_writable(output)
    with tempfile.TemporaryDirectory(prefix="evomal-") as folder:
        executed = Path(folder) / f"{REPORT}.ipynb"
        execute(REPORT, {"results_dir": str(Path(results_dir).resolve())}, executed)
        notebook = nbformat.read(executed, as_version=4)
    page, _ = nbconvert.HTMLExporter(exclude_input=True, exclude_output_prompt=True).from_notebook_node(notebook)
    write_atomic(output, page)
