"""The page on labels: its examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evomal_core import primitives

PAGE = Path(__file__).parents[2] / "docs" / "labels.md"


@pytest.mark.filterwarnings("error")
def test_the_examples_of_the_page_on_labels_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    try:
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S):
            exec(block, space)
    finally:
        for name in primitives.own_operations():
            primitives.unregister(name)
    assert '"operations"' in (tmp_path / "loss.json").read_text()
