"""Pieces of an analysis: a tidy table each, loaded from disk where it is there, and computed where it is not."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evomal_core.checkpoints import first_difference
from evomal_core.devices import one_thread
from evomal_core.files import encode, read_json, write_atomic, write_json
from evomal_core.losses import Loss
from evomal_paper.experiments.profiles import Experiment, Profile
from evomal_paper.runs.machine import hardware, versions
from evomal_paper.runs.meta_test import meta_test


@dataclass(frozen=True)
class Piece:
    """A table `<folder>/<name>.csv`, and the record `<name>.json` of what it is a function of, written last."""

    folder: Path
    name: str
    configuration: dict[str, Any]
    """Inputs that determine the table, as JSON-ready data."""
    renewed_by: str = ""
    """A key of the configuration: a table with another value there is an old one, and is computed anew."""

    def load(self) -> pd.DataFrame | None:
        """The table, or None if it was never finished or is an old one.

        Raises:
            ValueError: a file is damaged, or belongs to a piece of another configuration.
        """
        table, record = (self.folder / f"{self.name}.{kind}" for kind in ("csv", "json"))
        if not record.exists() or not table.exists():
            return None
        found = read_json(record)
        if not isinstance(found, dict) or "configuration" not in found:
            raise ValueError(f"{record} is not the record of a table; move it away")
        held, key = found["configuration"], self.renewed_by
        if key and isinstance(held, dict) and held.get(key) != self.configuration[key]:
            return None
        if difference := first_difference(held, encode(self.configuration)):
            raise ValueError(
                f"{record} is of another configuration: {difference}; "
                "choose another results_dir, or delete that file"
            )
        try:
            return pd.read_csv(table)
        except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
            raise ValueError(f"{table} is damaged ({error}); delete it, and it is computed again") from None

    def load_or_compute(self, compute: Callable[[], pd.DataFrame], device: str = "cpu") -> pd.DataFrame:
        """The table as it lies on disk; computed and written first if it does not."""
        if (table := self.load()) is not None:
            return table
        begin = time.perf_counter()
        write_atomic(self.folder / f"{self.name}.csv", compute().to_csv(index=False))
        record = {
            "configuration": self.configuration,
            "seconds": round(time.perf_counter() - begin, 3),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "hardware": hardware(device),
            "versions": versions(),
        }
        write_json(self.folder / f"{self.name}.json", record)
        return self.load_or_compute(compute, device)  # a number reads the same whether it was just computed


def training_configuration(sizes: Profile, loss: Loss) -> dict[str, Any]:
    """Inputs of final trainings: a profile's settings beside the defaults, and the loss by its digest.

    Defaults are left out, so that a setting that is added later with one leaves what was computed valid.
    """
    settings = sizes.model_dump(mode="json", exclude_defaults=True, exclude={"seeds": True, "search": {"engine"}})
    text = json.dumps(encode(loss.record()), sort_keys=True)
    return {"settings": settings, "loss": hashlib.sha256(text.encode()).hexdigest()[:16]}


def final_errors(
    piece: Piece, loss: Loss, entry: Experiment, sizes: Profile, seed: int, device: str, start: str = "new"
) -> pd.DataFrame:
    """Final errors of base networks trained with a loss as in a run's meta-testing: group, split, error.

    The piece holds the errors at all recorded steps; those of a diverged training are infinite.
    """

    def compute() -> pd.DataFrame:
        with one_thread():  # as runs are computed
            return pd.DataFrame(meta_test(loss, entry.problem(sizes, seed), sizes, seed, device, starts=[start]))

    table = piece.load_or_compute(compute, device).fillna({"error": np.inf})  # never to be averaged away
    last = table[table["step"] == table["step"].max()]
    return last.groupby(["group", "split"], sort=False)["error"].mean().reset_index()
