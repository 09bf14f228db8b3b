"""The evidence of a results folder holds every run that can be read, and names the others."""

from __future__ import annotations

import gzip
import json
import re

import pandas as pd
import pytest
from made_runs import made

import evomal_core as em
from evomal_paper.comparison.evidence import gather
from evomal_paper.runs.run import Run


def _rewrite(run, **changes):
    """Other values in the line of a run, None for none."""
    *lines, last = run.pack.index.read_text().splitlines()
    record = {name: value for name, value in (json.loads(last) | changes).items() if value is not None}
    run.pack.index.write_text("\n".join([*lines, json.dumps(record)]) + "\n")


def _replace(path, old, new):
    path.write_text(path.read_text().replace(old, new))


def _without_seed_1(path):
    rows = gzip.decompress(path.read_bytes()).decode().splitlines(keepends=True)
    path.write_bytes(gzip.compress("".join(row for row in rows if not row.startswith("evomal,1,")).encode()))


BAD = {
    "a record without fitness": lambda run: _rewrite(run, fitness=None),
    "seconds that are none": lambda run: _rewrite(run, seconds="none"),
    "lost rows": lambda run: _without_seed_1(run.pack.folder / "history.csv.gz"),
    "another loss": lambda run: _replace(run.pack.folder / "losses.jsonl", "add(f, y)", "sub(f, y)"),
    "the run of another seed": lambda run: _rewrite(run, seed=7),
    "another configuration": lambda run: _rewrite(run, configuration={"seed": 1}),
}


@pytest.mark.parametrize("damage", BAD.values(), ids=BAD)
def test_a_run_that_cannot_be_read_is_left_out_with_one_line(damage, tmp_path, caplog):
    place = tmp_path / "results"
    made(Run("sine", "quick", "evomal", 0, place))
    whole = gather(place).values
    bad = made(Run("sine", "quick", "evomal", 1, place), loss=em.LearnedLoss("add(f, y)"))
    assert (gather(place).values["seed"] == 1).any()
    damage(bad)
    pd.testing.assert_frame_equal(gather(place).values, whole)
    [line] = caplog.messages
    assert line.startswith("left out: ")
    assert f"{place}/sine/quick" in line
    assert re.search("delete|move it away", line)
