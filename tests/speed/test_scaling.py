"""The simulation of many workers, against what can be told without one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import made

from evomal_paper.runs.run import Run

pytest.importorskip("tests.speed", reason="the benchmarks lie beside the package in a checkout")

from tests.speed.scaling import Phase, alone, makespan, replay, scaling, speed_up_by_workers

PHASES = st.builds(Phase, st.floats(0, 3), st.lists(st.floats(0.01, 5), min_size=1, max_size=9).map(np.array))
RUNS = st.lists(st.lists(PHASES, min_size=1, max_size=3), min_size=1, max_size=4)


@given(RUNS)
def test_enough_workers_leave_the_longest_chain(runs):
    chains = [sum(phase.caller + phase.units.max() for phase in run) for run in runs]
    assert makespan(runs, 100, 0.0) == pytest.approx(max(chains))


@given(RUNS, st.integers(1, 8))
def test_no_schedule_is_shorter_than_its_work_and_its_longest_chain(runs, workers):
    chains = [sum(phase.caller + phase.units.max() for phase in run) for run in runs]
    work = sum(phase.units.sum() for run in runs for phase in run)
    total = work + sum(phase.caller for run in runs for phase in run)
    found = makespan(runs, workers, 0.0)
    assert max(*chains, work / workers) <= found * (1 + 1e-9)
    assert found <= total * (1 + 1e-9)


def test_one_worker_does_one_run_in_the_sum_of_its_seconds():
    run = [Phase(0.5, np.array([1.0, 2.0])), Phase(0.25, np.array([3.0]))]
    assert makespan([run], 1, 0.0) == pytest.approx(6.75)


def test_sending_units_one_after_the_other_bounds_what_workers_can_do():
    run = [Phase(0.0, np.full(50, 0.1))]
    assert makespan([run], 1000, 0.2) == pytest.approx(50 * 0.2 + 0.1)


def test_two_workers_share_four_equal_units_and_wait_for_the_phase():
    run = [Phase(0.0, np.ones(3)), Phase(0.0, np.ones(1))]
    assert makespan([run], 2, 0.0) == pytest.approx(3.0)


def test_recorded_runs_are_replayed_and_drawn(tmp_path):
    for method in ("baseline", "evomal"):
        made(Run("sine", "smoke", method, 0, tmp_path))
    runs = [Run("sine", "smoke", method, 0, tmp_path) for method in ("baseline", "evomal")]
    table = scaling(runs, [1.0, 2.0], 0.001)
    assert (table["speed-up"] <= table["workers"] + len(runs)).all()  # the callers compute, too
    assert table.groupby("case")["speed-up"].is_monotonic_increasing.all()
    assert table["case"].nunique() == 3
    assert len(speed_up_by_workers(table).axes[0].lines) == 4
    (search,) = (phases for phases in [replay(runs[1], [1.0], alone(runs[1]))])
    seconds = runs[1].finished().record["seconds"]
    spent = sum(phase.caller + phase.units.sum() for phase in search)
    assert spent == pytest.approx(seconds["last session"], rel=0.05)
