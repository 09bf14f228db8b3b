"""The report: notebook 13, published numbers beside measured ones, executed and written as one HTML page."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from evomal_core.files import check_writable, write_atomic
from evomal_core.lazy import LazyModule
from evomal_paper.reproduce import execute

nbconvert = LazyModule("nbconvert")
nbformat = LazyModule("nbformat")

NOTEBOOK = "13_paper_vs_measured"


def write_report(results_dir: Path | str, output: Path | str) -> None:
    """Execute the notebook with the runs of a results folder, and write it without its code as HTML.

    Raises:
        RuntimeError: a cell failed.
        OSError: the output can't be written.
    """
    output = Path(output)
    check_writable(output)
    with TemporaryDirectory(prefix="evomal-") as folder:
        executed = Path(folder) / f"{NOTEBOOK}.ipynb"
        execute(NOTEBOOK, {"results_dir": str(Path(results_dir).resolve())}, executed)
        notebook = nbformat.read(executed, as_version=4)
    page, _ = nbconvert.HTMLExporter(exclude_input=True, exclude_output_prompt=True).from_notebook_node(notebook)
    write_atomic(output, page)
