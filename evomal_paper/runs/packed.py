"""Packed results: the complete runs of one experiment and profile as one folder of a few files.

- `runs.jsonl`: one line a run: configuration, numbers, seconds, hardware, versions. Written last: a run without a
  line here is not complete.
- `losses.jsonl`: one line a run: its learned loss; the weights of networks (ML3) are in `losses.npz`.
- `history.csv.gz`, `test.csv.gz`, `front.csv.gz`: the rows of all runs, their method and seed first.

The same runs give the same bytes, in whatever order they were added.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evomal_core.files import encode, read_json, write_atomic, write_json
from evomal_core.search import METHODS

TABLES = {
    "history": ("generation", "best_fitness", "mean_fitness", "finite", "diverged", "evaluated"),
    "test": ("start", "group", "task", "step", "split", "error"),
    "front": ("complexity", "fitness", "score", "loss"),
}
"""The tables of a run, and the columns that every run has; others follow in alphabetical order."""

Key = tuple[str, int]
"""Method and seed of a run."""
KEY = ["method", "seed"]

LARGE = 100
"""Losses with more weights have them in `losses.npz`."""


@dataclass(frozen=True)
class Finished:
    """The content of a complete run: its record, its tables as CSV text, and its loss as data."""

    record: Mapping[str, Any]
    tables: Mapping[str, str]
    loss: Mapping[str, Any]

    @classmethod
    def of(cls, record: Mapping[str, Any], tables: Mapping[str, str], loss: Mapping[str, Any]) -> Finished:
        """The content with each table in its one form, and with digests in the record."""
        tables = {name: _canonical(name, _cells(text)) for name, text in tables.items()}
        return cls({**record, "digests": _digests(tables, loss)}, tables, loss)

    def damaged(self) -> str | None:
        """The first part that is not what the run wrote: "history", "test", "front", "loss"; None if all are."""
        written = self.record.get("digests", {})
        return next(
            (name for name, digest in _digests(self.tables, self.loss).items() if written.get(name) != digest),
            None,
        )


def write_work(folder: Path, finished: Finished) -> None:
    """Write a finished run into its working folder; `run.json` comes last."""
    for name, text in finished.tables.items():
        write_atomic(folder / f"{name}.csv", text)
    write_json(folder / "loss.json", finished.loss)
    write_json(folder / "run.json", {"status": "complete", **finished.record})


def read_work(folder: Path) -> Finished:
    """The finished run of a working folder; a ValueError if a file is not what the run wrote."""
    tables = {name: (folder / f"{name}.csv").read_text(encoding="utf-8") for name in TABLES}
    record = {name: value for name, value in read_json(folder / "run.json").items() if name != "status"}
    finished = Finished(record, tables, read_json(folder / "loss.json"))
    if part := finished.damaged():
        raise ValueError(f"{folder} is damaged: its {part} is not what the run wrote; delete that folder")
    return finished


@dataclass(frozen=True)
class Pack:
    """The folder of the complete runs of one experiment and profile."""

    folder: Path

    @property
    def index(self) -> Path:
        """The file with one line a run."""
        return self.folder / "runs.jsonl"

    def records(self) -> Mapping[Key, Mapping[str, Any]]:
        """The record of each complete run, none where there is no pack; a ValueError if a line is damaged."""
        return _read(self.index, _lines)

    def finished(self, key: Key) -> Finished:
        """The content of a complete run; a KeyError if it is not here, a ValueError if a file is damaged."""
        found = self.content(key)
        if part := found.damaged():
            path = self.folder / ("losses.jsonl" if part == "loss" else f"{part}.csv.gz")
            raise ValueError(
                f"{path} is damaged: {key[0]}, seed {key[1]}, is not what the run wrote; "
                f"delete that run's line in {self.index}, and it is computed again"
            )
        return found

    def put(self, runs: Mapping[Key, Finished]) -> None:
        """Add runs, or replace them. One process at a time may do so, which the caller's lock ensures.

        A process killed within leaves the earlier runs readable; the call is then repeated.
        """
        for partial in self.folder.glob(".*.*.*"):  # of a process that was killed while it wrote
            partial.unlink()
        content = {key: self.content(key) for key in self.records()} | dict(runs)
        content = {key: content[key] for key in sorted(content, key=_place)}
        weights = {key: run.loss["weights"] for key, run in content.items() if len(run.loss["weights"]) > LARGE}
        if weights:
            write_atomic(self.folder / "losses.npz", _archive(weights))
        losses = {
            key: {**run.loss, **({"weights": None} if key in weights else {})} for key, run in content.items()
        }
        write_atomic(self.folder / "losses.jsonl", _as_lines(losses))
        for name in TABLES:
            texts = {key: run.tables[name] for key, run in content.items()}
            write_atomic(self.folder / f"{name}.csv.gz", _compressed(joined(name, texts)))
        write_atomic(self.index, _as_lines({key: run.record for key, run in content.items()}))

    def content(self, key: Key) -> Finished:
        """Parts of a finished run as they are found; one that is missing is empty."""
        record = self.records()[key]
        read = {name: _read(self.folder / f"{name}.csv.gz", _texts) for name in TABLES}
        tables = {name: texts.get(key) or _canonical(name, pd.DataFrame()) for name, texts in read.items()}
        loss = dict(_read(self.folder / "losses.jsonl", _lines).get(key, {"weights": []}))
        if loss["weights"] is None:
            loss["weights"] = _read(self.folder / "losses.npz", _weights).get(key, [])
        return Finished(record, tables, loss)


def _place(key: Key) -> tuple[int, str, int]:
    methods, (method, seed) = list(METHODS), key
    return methods.index(method) if method in methods else len(methods), method, seed


def _digests(tables: Mapping[str, str], loss: Mapping[str, Any]) -> dict[str, str]:
    texts = {**{name: tables[name] for name in TABLES}, "loss": json.dumps(encode(dict(loss)), sort_keys=True)}
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in texts.items()}


def _cells(text: str) -> pd.DataFrame:
    """The cells of a CSV as they are written."""
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)


def _canonical(name: str, cells: pd.DataFrame, first: Sequence[str] = ()) -> str:
    """A table as CSV, without extra columns that are empty throughout."""
    known = [*first, *TABLES[name]]
    extra = sorted(column for column in set(cells) - set(known) if (cells[column] != "").any())
    return cells.reindex(columns=[*known, *extra], fill_value="").to_csv(index=False, lineterminator="\n")


def joined(name: str, texts: Mapping[Key, str]) -> str:
    """The tables of several runs as one, method and seed first."""
    tables = [_cells(text).assign(method=method, seed=str(seed)) for (method, seed), text in texts.items()]
    return _canonical(name, pd.concat(tables).fillna(""), KEY)


def _compressed(text: str) -> bytes:
    """Gzip without a name or time, so that the same text gives the same bytes."""
    content = io.BytesIO()
    with gzip.GzipFile("", "wb", 9, content, mtime=0) as file:
        file.write(text.encode())
    return content.getvalue()


def _archive(weights: Mapping[Key, Sequence[float]]) -> bytes:
    content = io.BytesIO()
    arrays = {f"{method}-{seed}": np.array(values, np.float32) for (method, seed), values in weights.items()}
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]  # its keywords are arrays
    return content.getvalue()


def _as_lines(values: Mapping[Key, Mapping[str, Any]]) -> str:
    lines = [encode({"method": method, "seed": seed, **value}) for (method, seed), value in values.items()]
    return "".join(f"{json.dumps(line, allow_nan=False, ensure_ascii=False)}\n" for line in lines)


def _read(path: Path, parse: Any) -> Mapping[Key, Any]:
    """A file's content by run, read again only if the file has changed; nothing if it is not there."""
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return _parsed(path, parse, (stat.st_mtime_ns, stat.st_size, stat.st_ino))


_DAMAGES = (ValueError, LookupError, TypeError, EOFError, OSError, zlib.error, zipfile.BadZipFile)
"""Errors that a damaged file raises when it is read."""


@lru_cache(maxsize=64)
def _parsed(path: Path, parse: Any, _stamp: tuple[int, ...]) -> Mapping[Key, Any]:
    try:
        return parse(path)
    except _DAMAGES as error:
        remedy = f"restore it, or delete {path.parent}, and its runs are computed again"
        raise ValueError(f"{path} is damaged: {error or type(error).__name__}; {remedy}") from None


def _lines(path: Path) -> dict[Key, dict[str, Any]]:
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").strip("\n").split("\n"), start=1):
        try:
            value = json.loads(line)
            found[value.pop("method"), value.pop("seed")] = value
        except (ValueError, AttributeError, KeyError, TypeError):
            raise ValueError(f"line {number} is no record of a run") from None
    return found


def _texts(path: Path) -> dict[Key, str]:
    runs = _cells(gzip.decompress(path.read_bytes()).decode()).groupby(KEY, sort=False)
    name = path.name.partition(".")[0]
    return {(method, int(seed)): _canonical(name, rows.drop(columns=KEY)) for (method, seed), rows in runs}


def _weights(path: Path) -> dict[Key, list[float]]:
    with np.load(io.BytesIO(path.read_bytes())) as arrays:
        keys = {name: name.rpartition("-") for name in arrays.files}
        return {(method, int(seed)): arrays[name].tolist() for name, (method, _, seed) in keys.items()}
