"""The docs' benchmark numbers, written from tests/speed/results.json: `python -m tests.speed.readme`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from evomal_core.files import write_atomic

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results.md"
RESULTS = Path(__file__).with_name("results.json")
BLOCK = re.compile(r"(<!-- benchmarks -->\n).*?(<!-- /benchmarks -->)", re.DOTALL)


def benchmarks_block(results: dict[str, Any]) -> str:
    """A Markdown table of the rows that have a goal."""
    machine = results["machine"]
    rows = [row for case in results.values() for row in case.get("rows", ()) if row["goal"]]
    return "\n".join(
        [
            f"One thread of {machine['processor']}, PyTorch {machine['torch']}, medians of interleaved runs "
            "in CPU seconds; by `python -m tests.speed`.\n",
            "| what | against | measured | goal |",
            "|---|---|---|---|",
            *(f"| {row['what']} | {row['against']} | {row['ratio']:.3g} | {row['goal']} |" for row in rows),
            "",
        ]
    )


def updated(text: str, results: dict[str, Any]) -> str:
    """A page's text with its benchmarks block, if it has one, written anew."""
    return BLOCK.sub(lambda found: found[1] + benchmarks_block(results) + found[2], text)


if __name__ == "__main__":
    write_atomic(PAGE, updated(PAGE.read_text(encoding="utf-8"), json.loads(RESULTS.read_text())))
