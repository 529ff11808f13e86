"""The kubernetes provider under both contracts, on a real kubelet."""

from __future__ import annotations

import pytest

from envfarm.core.box import BoxSpec, Limits
from envfarm.core.config import KubernetesProviderConfig
from envfarm.farm.pods.provider import KubernetesProvider
from envfarm.kube.cluster import load_cluster
from envfarm.testbed.bed import Bed

from ..contract.provider_suite import *  # noqa: F403
from ..contract.sandbox_suite import *  # noqa: F403
from .images import AGENT, BOX

pytestmark = pytest.mark.k8s
CONFIG = KubernetesProviderConfig(agent_image=AGENT, image=BOX, pull_policy="Never", pids_limited=True, start_sec=60)
SMALL = Limits(wall_sec=120, cpus=0.1, memory_mb=256, disk_mb=64)


@pytest.fixture
async def provider(node: Bed):
    with node.inside():
        async with KubernetesProvider(load_cluster(node.kubeconfig()), CONFIG) as entered:
            yield entered


@pytest.fixture
def spec() -> BoxSpec:
    return BoxSpec(limits=SMALL)


@pytest.fixture
async def sandbox(provider: KubernetesProvider):
    box = await provider.acquire(BoxSpec(limits=SMALL.model_copy(update={"wall_sec": 300})))
    yield box
    await provider.release(box)
