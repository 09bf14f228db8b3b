"""Meta-gradients in float32: close to those in float64, and every outlier has a cause."""

from __future__ import annotations

import pytest

pytest.importorskip("tests.speed.precision", reason="the benchmarks lie beside the package in a checkout")

from tests.speed.precision import LIMIT, UNIT, errors, study, trial


def test_the_median_is_near_the_rounding_unit_and_every_outlier_is_explained() -> None:
    found = study(60)
    assert found["candidates"] > 200
    assert UNIT < found["median"] < 1e-6
    assert 0 < found["outliers"] < 0.15 * found["candidates"]
    assert "unexplained" not in found["causes"]
    assert found["share_of_others_with_a_cause"] < 0.3


def test_a_disturbed_gradient_is_an_outlier_without_a_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests for causes do not excuse a fault of the arithmetic."""
    run = trial(0)
    step = run.step

    def disturbed(dtype, noise=0.0):
        gradients, watched = step(dtype, noise)
        return gradients * (1.01 if str(dtype) == "torch.float32" else 1), watched

    monkeypatch.setattr(run, "step", disturbed)
    found = errors(run)
    assert all(error > LIMIT for error, _ in found)
    assert any(cause == "" for _, cause in found)
