"""The command for a machine with a GPU: its checks on a simulated device, and on a real one where there is one."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from simulated_cuda import simulated_cuda

from tests.speed import gpu

TINY = gpu.cases(tiny=True)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("case", gpu.cases(), ids=lambda case: case.name)
def test_meta_gradients_of_a_real_device_are_exact(case: gpu.Case) -> None:
    assert gpu.check(case, "cuda", torch.float64) < 1e-10
    assert gpu.check(case, "cuda") < 1e-4


@pytest.mark.parametrize("case", TINY[1:3], ids=lambda case: case.name)
def test_meta_gradients_of_the_simulated_device_are_exact(case: gpu.Case) -> None:
    with simulated_cuda():
        assert gpu.check(case, "cuda", torch.float64) < 1e-10


def test_a_result_is_computed_once_and_a_failure_is_noted(tmp_path: Path) -> None:
    def failing() -> float:
        raise ValueError("no such card")

    later = time.monotonic() + 60
    notes = gpu.Notes(tmp_path / "notes.json")
    notes.note("a", lambda: 1.5, later)
    notes.note("b", failing, later)
    again = gpu.Notes(tmp_path / "notes.json")
    again.note("a", failing, later)
    again.note("c", lambda: 2.0, time.monotonic() - 1)
    assert json.loads((tmp_path / "notes.json").read_text()) == {
        "a": 1.5,
        "b": {"error": "ValueError: no such card"},
    }


def test_without_time_no_run_is_started(tmp_path: Path) -> None:
    assert not gpu.run_on("sine/quick/evomal/seed-0", "cpu", tmp_path, time.monotonic() + gpu.STOPPING)
    assert not list(tmp_path.iterdir())


def test_a_device_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit):
        gpu.main(["--out", str(tmp_path)])
    assert "--device cpu tries the command" in capsys.readouterr().err
