"""A search on a Dask cluster of real processes, to the same bits."""

from __future__ import annotations

import pytest
from helpers import tiny_config
from test_search import learn, outcome

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Dask's own packages


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.mark.parametrize("method", ["evomal", "taylorglo"])
def test_a_dask_cluster_gives_the_same_bits(client, method):
    config = tiny_config(generations=2)
    assert outcome(learn(method, config=config, executor=client.get_executor())) == outcome(
        learn(method, config=config)
    )
