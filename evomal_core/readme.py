"""README's results, written from the runs in results/: `python -m evomal_core.readme`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from evomal_core.experiment import EXPERIMENTS
from evomal_core.files import write_atomic
from evomal_core.results import load
from evomal_core.runs import complete_runs

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)


def results_block(results_dir: Path) -> str:
    """Markdown tables of the complete runs: the mean ± standard deviation (n) of each method's final error."""
    runs = complete_runs(results_dir)
    parts = [
        "Mean ± standard deviation over seeds (number of seeds); diverged trainings are left out of the mean.\n"
    ]
    for name, profile in dict.fromkeys((run.experiment, run.profile) for run in runs):
        if profile == "smoke":
            continue
        summary = load([run for run in runs if (run.experiment, run.profile) == (name, profile)]).summary()
        parts.append(f"**{EXPERIMENTS[name].title}** (profile `{profile}`): mean squared error after training.\n")
        parts.append(_table(summary))
    return "\n".join(parts) if runs else ""


def _table(summary: pd.DataFrame) -> str:
    summary = summary.assign(
        column=summary["group"] + ", " + summary["split"].map({"train": "training", "test": "held-out"}),
        cell=[_cell(row) for row in summary.itertuples()],
    ).dropna(subset="column")
    wide = summary.pivot(index="method", columns="column", values="cell")[list(dict.fromkeys(summary["column"]))]
    lines = [f"| method | {' | '.join(wide.columns)} |", "|---" * (len(wide.columns) + 1) + "|"]
    lines += [f"| {method} | {' | '.join(map(str, row))} |" for method, *row in wide.itertuples()]
    return "\n".join(lines) + "\n"


def _cell(row: Any) -> str:
    spread = "" if pd.isna(row.sd) else f" ± {row.sd:.2g}"
    diverged = f", {row.diverged} diverged" if row.diverged else ""
    return f"{row.mean:.3g}{spread} ({row.n}{diverged})"


def updated(text: str, results_dir: Path) -> str:
    """README's text with its results block written anew."""
    block = results_block(results_dir)
    return BLOCK.sub(lambda found: found[1] + block + found[2], text)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    write_atomic(readme, updated(text, ROOT / "results"))
    sys.exit(0)
