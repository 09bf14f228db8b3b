"""`python -m tests.speed.cluster`: what a Dask cluster costs and wins, into results/cluster/measured.json.

Bytes and milliseconds of a candidate after the first, the speed-up of two workers against one for LeNet-5, and how
the candidates of one generation differ in duration. Only the speed-up is by the clock on the wall, and says little
on a machine that is busy with other work; its load is recorded.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path

import torch
from distributed import Client, LocalCluster

import evomal_core as em
from evomal_core.config import SearchConfig
from evomal_core.engines import local_search
from evomal_core.files import write_json
from evomal_core.seeds import torch_rng
from evomal_paper.networks import lenet5
from tests.speed.cases import SINE, population, sine_learners

LENET = SearchConfig(
    population=10,
    generations=1,
    meta_steps=20,
    fitness_steps=20,
    rejection_steps=0,
    gradient_equivalence=False,
    symbolic_archive=False,
    base=em.SGD(lr=0.01, batch_size=100),
)
TINY = LENET.replace(population=25, meta_steps=1, fitness_steps=1, engine="jvp")


class Counting(Executor):
    """An executor that notes the bytes that each call sends."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.sent: list[int] = []

    def submit(self, function, /, *arguments, **keywords) -> Future:
        """Count and pass on."""
        self.sent.append(sum(len(a) for a in arguments if isinstance(a, bytes)))
        return self.executor.submit(function, *arguments, **keywords)


def images() -> em.Task:
    """Random images of MNIST's shape."""
    rng = torch_rng(0, "cluster")
    x, y = torch.randn(1000, 1, 28, 28, generator=rng), torch.randint(10, (1000,), generator=rng)
    return em.Task.from_arrays(x, y, "multiclass", name="noise")


def search(task: em.Task, model, config: SearchConfig, executor: Executor, method: str = "evomal") -> float:
    """Seconds of a search."""
    begin = time.perf_counter()
    em.learn_loss([task], model, method, config=config, executor=executor, progress=False, compare=False)
    return time.perf_counter() - begin


def costs(executor: Executor) -> dict[str, object]:
    """Bytes and CPU milliseconds that the caller and the scheduler, in this process, spend on a candidate."""
    x = torch.randn(200, 4, generator=torch_rng(0, "cluster"))
    task = em.Task.from_arrays(x, x.sum(1), "regression")
    counting = Counting(executor)
    search(task, lambda: em.models.mlp(4, [4], 1), TINY, counting, "gp-lfl")  # what is loaded once is there then
    counting.sent.clear()
    begin = time.process_time()
    search(task, lambda: em.models.mlp(4, [4], 1), TINY, counting, "gp-lfl")
    spent = time.process_time() - begin
    return {
        "bytes of a worker's first candidate": max(counting.sent),
        "bytes a candidate, median": statistics.median(counting.sent),
        "overhead a candidate, ms": round(1000 * spent / len(counting.sent), 2),
    }


def seconds_of_candidates(size: int = 25, steps: int = 20) -> list[float]:
    """CPU seconds of each candidate of a first generation of Sine, its local search alone."""
    losses, learners = population(size, "regression"), sine_learners()
    local_search(losses[:1], learners, SINE, "batched")
    config, seconds = SINE.replace(meta_steps=steps), []
    for loss in losses:
        begin = time.process_time()
        local_search([loss], learners, config, "batched")
        seconds.append(round(time.process_time() - begin, 5))
    return seconds


def speed_up(one: Executor, both: Executor, rounds: int) -> dict[str, object]:
    """Seconds of a search with LeNet-5 by one worker and by two, interleaved."""
    task, network = images(), partial(lenet5, 10)
    search(task, network, LENET, both)  # data and kernels are there then
    pairs = [[round(search(task, network, LENET, e), 2) for e in (one, both)] for _ in range(rounds)]
    return {
        "LeNet-5, seconds of one worker and of two": pairs,
        "LeNet-5, speed-up of two workers": round(statistics.median(a / b for a, b in pairs), 2),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m tests.speed.cluster", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=3, help="of one worker and two; 0 leaves them out (default 3)"
    )
    parser.add_argument("--output", default="results/cluster/measured.json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, object] = {
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "load average at the start": round(os.getloadavg()[0], 1),
    }

    def keep(more: Mapping[str, object]) -> None:
        found.update(more, **{"load average at the end": round(os.getloadavg()[0], 1)})
        write_json(options.output, found)
        print(*(f"{name}: {value}" for name, value in more.items()), sep="\n", flush=True)

    keep({"seconds of candidates": seconds_of_candidates()})
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        one = client.get_executor(workers=[next(iter(client.scheduler_info()["workers"]))])
        keep(costs(one))
        if options.rounds:
            keep(speed_up(one, client.get_executor(), options.rounds))


if __name__ == "__main__":
    main()
