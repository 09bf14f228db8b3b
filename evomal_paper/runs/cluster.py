"""The Dask cluster whose workers compute runs: one that is there, or one started here."""

import logging
import re
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from evomal_core.lazy import LazyModule

distributed = LazyModule("distributed", "evomal[cluster]")
CONNECT = 20
"""Seconds that a scheduler may take to answer."""
ADDRESS = re.compile(r"^inproc://|[^:]:[0-9]+(/|$)")
"""Addresses of schedulers; Dask tries one without a port for long."""


def check_cluster(cluster: str) -> str:
    """The text, if it names a cluster or none; a ValueError says what a cluster is."""
    kind, _, count = cluster.partition(":")
    good = count.isdecimal() and int(count) > 0 if kind == "local" else ADDRESS.search(cluster)
    if cluster and not good:
        raise ValueError(
            "a cluster is the address of a Dask scheduler, such as tcp://host:8786, or local:N for N workers "
            f"here, got {cluster!r}"
        )
    return cluster


@contextmanager
def scheduler(cluster: str) -> Iterator[str]:
    """The address of a cluster's scheduler; `local:N` starts one with N workers on this machine."""
    kind, _, count = check_cluster(cluster).partition(":")
    if kind == "local":
        with distributed.LocalCluster(
            n_workers=int(count), threads_per_worker=1, dashboard_address=":0"
        ) as started:
            yield started.scheduler_address
    else:
        yield cluster


@contextmanager
def executor_of(address: str) -> Iterator[Executor | None]:
    """An executor of the scheduler's workers, None without an address; an OSError if no scheduler answers."""
    if not address:
        yield None
        return
    connect = distributed.Client  # whose package sets up its loggers when it is imported
    with _quiet(), connect(address, timeout=CONNECT, set_as_default=False) as client:
        yield client.get_executor()


@contextmanager
def _quiet() -> Iterator[None]:
    """Context manager: keep Dask from logging tracebacks of what is said in one line here."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
