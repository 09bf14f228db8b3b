"""One thread, no display, no compiled kernels but where a test wants them, and the same examples in every run."""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of the processes that tests start
os.environ["EVOMAL_KERNELS"] = "0"  # compiling them takes minutes: few tests do, by the fixture `with_kernels`

import hypothesis
import matplotlib as mpl
import pytest
import torch

torch.set_num_threads(1)
mpl.use("Agg")  # not by MPLBACKEND, which would take the figures out of notebooks that tests execute

hypothesis.settings.register_profile("evomal", derandomize=True, deadline=None, database=None, print_blob=True)
hypothesis.settings.load_profile("evomal")


def pytest_collection_finish() -> None:
    """Leave all modules and tests out of garbage collection, which otherwise takes a part of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled kernels take what they can."""
    monkeypatch.setenv("EVOMAL_KERNELS", "1")
