"""Rows of a long measurement, kept in a file as they come, so that it goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any


def measured(
    path: Path | None,
    wanted: Iterable[tuple[Any, ...]],
    columns: Sequence[str],
    measure: Callable[..., dict[str, Any]],
) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file, if there is one, and those of `measure(*key)` for each wanted key not in it.

    Args:
        path: the file, to which new rows are added; None keeps none.
        wanted: keys.
        columns: where a row has its key.
        measure: makes a row of a key.
    """
    kept = path is not None and path.exists()
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path is not None and kept else []
    done = {tuple(row[column] for column in columns) for row in rows}
    for key in wanted:
        if key not in done:
            rows.append(measure(*key))
            if path is not None:
                with path.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    return rows
