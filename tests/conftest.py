"""One thread, no display, and the same examples in every run of the tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of the processes that tests start

import hypothesis
import matplotlib as mpl
import torch

torch.set_num_threads(1)
mpl.use("Agg")  # not by MPLBACKEND, which would take the figures out of notebooks that tests execute

hypothesis.settings.register_profile("evomal", derandomize=True, deadline=None, database=None, print_blob=True)
hypothesis.settings.load_profile("evomal")
