"""Clusters that are not there, and configurations that name none."""

from __future__ import annotations

from pathlib import Path

import pytest

from envfarm.core.config import load_config
from envfarm.core.errors import ClusterError, ConfigError, Reason
from envfarm.kube.cluster import load_cluster
from envfarm.wiring.app import make_provider


@pytest.mark.parametrize(
    "content", [None, "", "{", "clusters: []", "apiVersion: v1\nkind: Config\ncurrent-context: x\n"]
)
def test_a_kubeconfig_that_names_no_cluster_is_one_sentence(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "config"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ClusterError, match="No cluster can be reached") as caught:
        load_cluster(file)
    assert caught.value.reason is Reason.no_cluster
    assert "--kubeconfig" in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_the_provider_says_that_no_cluster_answers(tmp_path: Path) -> None:
    config = tmp_path / "kubeconfig"
    config.write_text(
        '{"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],'
        '"users": [{"name": "u", "user": {"token": "t"}}],'
        '"contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x"}'
    )
    file = tmp_path / "envfarm.toml"
    file.write_text(f'[provider]\ntype = "kubernetes"\nkubeconfig = "{config}"\n')
    with pytest.raises(ClusterError, match="gave no answer") as caught:
        async with make_provider(load_config(file, environ={}, flags={"home": str(tmp_path)})):
            pass
    assert caught.value.reason is Reason.cluster_unreachable


def test_an_unknown_key_of_the_provider_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "envfarm.toml"
    file.write_text('[provider]\ntype = "kubernetes"\nkubconfig = "x"\n')
    with pytest.raises(ConfigError, match="kubconfig"):
        load_config(file, environ={}, flags={"home": str(tmp_path)})
