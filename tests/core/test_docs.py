"""The documentation: its examples run, and its site builds without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import evomal_core as em
from evomal_core import primitives

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["index", "learn", "labels"])  # those of trainers: test_trainers.py
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch):
    if page == "learn":
        pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    try:
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.S):
            exec(block, space)
    finally:
        for name in primitives.own_operations():
            primitives.unregister(name)
    if page == "labels":
        assert '"operations"' in (tmp_path / "loss.json").read_text()


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("material", reason="no mkdocs-material here; pip install evomal[docs]")
    pytest.importorskip("mkdocstrings")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    reference = (tmp_path / "site" / "reference" / "index.html").read_text()
    for name in em.__all__:
        assert re.search(rf'id="evomal_core\.(\w+\.)?{name}"', reference), f"{name} is not in docs/reference.md"
