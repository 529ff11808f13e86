"""A real Kubernetes for the tests marked ``k8s``: one bed of simulated nodes for all of a session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from envfarm.kube.client import KubeClient
from envfarm.kube.cluster import Cluster, load_cluster
from envfarm.store import Store
from envfarm.testbed import bed as beds
from envfarm.testbed.bed import Bed
from envfarm.testbed.programs import Shape

from .images import agent_image, box_image


def _up(shape: Shape) -> Iterator[Bed]:
    if why := beds.unable():
        pytest.skip(f"k8s: {why}")
    bed = beds.up(shape)
    try:
        yield bed
    finally:
        bed.down()


@pytest.fixture(scope="session")
def fleet() -> Iterator[Bed]:
    """100 simulated nodes."""
    yield from _up(Shape.fleet)


@pytest.fixture(scope="session")
def cluster(fleet: Bed) -> Cluster:
    """As administrator."""
    return load_cluster(fleet.kubeconfig())


@pytest.fixture
async def client(fleet: Bed, cluster: Cluster) -> AsyncIterator[KubeClient]:
    """A client of the bed; the test runs in the bed's network."""
    with fleet.inside():
        async with KubeClient(cluster) as made:
            yield made


@pytest.fixture(scope="session")
def node() -> Iterator[Bed]:
    """One real node, with the tests' images."""
    for bed in _up(Shape.node):
        bed.load(agent_image())
        bed.load(box_image())
        yield bed


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Of a farm."""
    with Store.open(f"sqlite:///{tmp_path}/farm.db") as opened:
        yield opened
