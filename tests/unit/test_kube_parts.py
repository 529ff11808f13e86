"""Parts of the cluster client that need no cluster: the throttle, refusals, templates, manifests' schema."""

from __future__ import annotations

import asyncio
import json

import kubernetes_validate
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envfarm.core.errors import Reason
from envfarm.kube import manifests
from envfarm.kube.errors import refusal
from envfarm.kube.manifests import BoxShape, box_pod
from envfarm.kube.template import PodTemplate
from envfarm.kube.throttle import Throttle

SHAPE = BoxShape(image="registry.test/env:1", agent_image="registry.test/agent:1", environ={"A": "b"})


def made(*, name: str, slot: str, token: str, node: str) -> dict:
    return box_pod(SHAPE, name=name, namespace="ns", labels={manifests.LABEL_SLOT: slot}, token=token, node=node)


async def test_no_more_are_under_way_than_the_limit() -> None:
    throttle = Throttle(8)
    most = 0

    async def one() -> None:
        nonlocal most
        await throttle.enter()
        most = max(most, throttle.under_way)
        await asyncio.sleep(0)
        throttle.leave()

    await asyncio.gather(*(one() for _ in range(200)))
    assert most == 8
    assert throttle.under_way == 0


async def test_a_wave_of_refusals_halves_once_and_answers_bring_it_back() -> None:
    throttle = Throttle(64)
    epochs = [await throttle.enter() for _ in range(64)]
    for epoch in epochs:
        throttle.refused(epoch)
        throttle.leave()
    assert throttle.limit == 32
    throttle.refused(await throttle.enter())
    throttle.leave()
    assert throttle.limit == 16
    for _ in range(4000):
        throttle.answered()
    assert throttle.limit == 64


async def test_a_cancelled_wait_gives_its_place_to_the_next() -> None:
    throttle = Throttle(1, least=1)
    await throttle.enter()
    waiting = [asyncio.create_task(throttle.enter()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    throttle.leave()  # the place goes to the first that waits still ...
    waiting[1].cancel()  # ... which is cancelled in the very moment it gets it
    await asyncio.wait_for(waiting[2], 1)
    throttle.leave()
    assert throttle.under_way == 0


@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [
        (401, "Unauthorized", Reason.credentials_refused),
        (403, 'pods is forbidden: User "u" cannot create resource "pods"', Reason.forbidden),
        (403, "pods is forbidden: exceeded quota: q, requested: pods=1", Reason.quota),
        (403, 'pods "x" is forbidden: violates PodSecurity "restricted:latest"', Reason.invalid),
        (404, "not found", Reason.not_found),
        (409, "already exists", Reason.conflict),
        (410, "too old resource version", Reason.expired),
        (422, "invalid", Reason.invalid),
        (429, "too many requests", Reason.throttled),
        (503, "unavailable", Reason.cluster_failed),
    ],
)
def test_refusals_are_typed_and_say_what_the_server_said(code: int, message: str, reason: Reason) -> None:
    error = refusal(code, json.dumps({"message": message, "reason": "X", "code": code}).encode(), "create pods in ns")
    assert (error.reason, error.code, error.status) == (reason, code, "X")
    assert message in str(error)
    assert "create pods in ns" in str(error)


def test_a_proxys_page_is_a_refusal_too() -> None:
    error = refusal(502, b"<html>Bad gateway</html>", "list nodes")
    assert error.reason is Reason.cluster_failed
    assert error.retryable


PLAIN = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789-.", min_size=1, max_size=40)


@given(PLAIN, PLAIN, PLAIN, st.one_of(st.just(""), PLAIN))
def test_a_template_gives_what_the_manifest_function_gives(name: str, slot: str, token: str, node: str) -> None:
    body = PodTemplate(made).body(name=name, slot=slot, token=token, node=node)
    assert json.loads(body) == made(name=name, slot=slot, token=token, node=node)


@pytest.mark.parametrize("bad", ['a"b', "a b", "@@slot@@", "a\nb", "ä{"])
def test_a_template_refuses_values_that_could_change_it(bad: str) -> None:
    with pytest.raises(ValueError, match="cannot stand"):
        PodTemplate(made).body(name=bad, slot="1", token="t")


def test_manifests_fit_the_published_schema() -> None:
    for each in (
        made(name="a", slot="1", token="t", node="n"),
        manifests.namespace("ns", "run"),
        manifests.root_object("root", "ns", "run"),
        manifests.closed_network("ns", {"app": "gateway", "kubernetes.io/metadata.name": "envfarm"}),
    ):
        kubernetes_validate.validate(each, "1.37", strict=True)
