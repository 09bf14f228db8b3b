"""The benchmarks' table and the numbers that the docs take from it."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("tests.speed", reason="the benchmarks lie beside the package in a checkout")

from tests.speed import readme
from tests.speed.__main__ import CASES
from tests.speed.measure import interleaved, ratio

RESULTS = json.loads(readme.RESULTS.read_text())


def test_the_committed_results_are_of_all_cases() -> None:
    assert set(RESULTS) - {"machine"} == set(CASES)
    assert all(row["ratio"] > 0 for case in CASES for row in RESULTS[case]["rows"])


def test_the_page_has_the_rows_with_goals_and_keeps_the_rest() -> None:
    text = "before\n<!-- benchmarks -->\nold\n<!-- /benchmarks -->\nafter\n"
    updated = readme.updated(text, RESULTS)
    assert updated.startswith("before\n<!-- benchmarks -->\n")
    assert updated.endswith("<!-- /benchmarks -->\nafter\n")
    assert "old" not in updated
    rows = [row for case in CASES for row in RESULTS[case]["rows"] if row["goal"]]
    for row in rows:
        assert f"| {row['what']} | {row['against']} | {row['ratio']:.3g} | {row['goal']} |" in updated
    assert readme.updated(updated, RESULTS) == updated
    assert readme.updated("no block", RESULTS) == "no block"


def test_the_page_is_up_to_date() -> None:
    text = readme.PAGE.read_text(encoding="utf-8")
    assert readme.updated(text, RESULTS) == text


def test_each_variant_runs_once_a_round_and_the_first_round_is_not_counted() -> None:
    order: list[str] = []
    seconds = interleaved({name: lambda name=name: order.append(name) for name in "ab"}, rounds=2)  # type: ignore[misc]
    assert order == ["a", "b"] * 3
    assert [len(values) for values in seconds.values()] == [2, 2]
    assert ratio([2.0, 9.0, 4.0], [1.0, 1.0, 1.0]) == 4.0
