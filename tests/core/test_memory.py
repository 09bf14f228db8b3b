"""Freed memory stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_large_tensors_of_the_same_size_take_the_same_memory_again() -> None:
    """In a process of its own: once kept, the memory stays kept."""
    code = """
import resource, torch
from evomal_core.devices import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        a, b = torch.ones(2**20), torch.ones(2**20)  # 1,024 pages each
        del a, b
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
keep_freed_memory()
faults()
print(min(faults() for _ in range(5)))  # a machine short of memory takes pages away at times
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1024
