"""One self-contained HTML page of all complete runs: published beside measured, figures, and claims."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from evomal_core import paper, plots
from evomal_core.experiment import EXPERIMENTS
from evomal_core.files import write_atomic
from evomal_core.results import Results, load
from evomal_core.runs import complete_runs

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>EvoMAL: published and measured</title>
<style>
body { font: 16px/1.5 sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: 14px; margin: 1rem 0 }
td, th { padding: .2rem .7rem; text-align: left }
tr:nth-child(even) { background: #f4f4f4 } th { border-bottom: 1px solid #222 } img { max-width: 100% }
</style></head><body>
"""


def write_report(results_dir: Path | str, output: Path | str) -> int:
    """Write the report of a results folder; returns how many runs it shows.

    Raises:
        ValueError: the folder holds no complete run.
    """
    runs = complete_runs(results_dir)
    if not runs:
        raise ValueError(f"{results_dir} holds no complete run; make some with `evomal run` or `make reproduce`")
    parts = [_HEAD, "<h1>EvoMAL: published and measured</h1>"]
    for name, profile in dict.fromkeys((run.experiment, run.profile) for run in runs):
        results = load([run for run in runs if (run.experiment, run.profile) == (name, profile)])
        parts += _section(name, profile, results)
    write_atomic(output, "\n".join([*parts, "</body></html>\n"]))
    return len(runs)


def _section(name: str, profile: str, results: Results) -> Iterator[str]:
    entry = EXPERIMENTS[name]
    yield f"<h2>{html.escape(entry.title)}, profile {profile}</h2><p>{html.escape(entry.source)}</p>"
    final = results.final()
    comparison = paper.compare(final, entry.table)
    yield paper.readable(comparison).to_html(na_rep="", border=0)
    yield _paragraphs(paper.in_words(comparison, paper.orderings(final, entry.table), profile))
    yield _image(
        plots.final_errors(final, paper.published(entry.table).query("experiment == @name")), "Final errors"
    )
    for group in final["group"].unique():
        yield _image(plots.learning_curves(results.tests, group, "test"), f"Learning curves, {group}, held-out")
    yield _image(plots.meta_training_curves(results.histories), "Meta-training curves")
    seconds = [column for column in results.runs if column.startswith("seconds")]
    means = results.runs.groupby("method", observed=True)[["parameters", *seconds]].mean()
    yield means.to_html(float_format="{:.1f}".format, na_rep="", border=0)


def _paragraphs(markdown: str) -> str:
    """The small part of Markdown that `in_words` writes: paragraphs, lists and bold."""
    lines = []
    for line in html.escape(markdown).splitlines():
        line = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", line)
        line = re.sub(r"\*(.+?)\*", r"<i>\1</i>", line)
        line = re.sub(r"`(.+?)`", r"<code>\1</code>", line)
        lines.append(f"<li>{line[2:]}</li>" if line.startswith("- ") else f"<p>{line}</p>" if line else "")
    return "\n".join(lines)


def _image(figure: Figure, title: str) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    data = base64.b64encode(file.getvalue()).decode()
    return f'<figure><img alt="{title}" src="data:image/png;base64,{data}"></figure>'
