"""Pools, their counters, and what holds them back."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envfarm.core.errors import ConfigError, Reason, Refused
from envfarm.farm.pods.events import evidence
from envfarm.farm.pods.leasing import Counter
from envfarm.farm.pods.limits import Breaker, Bucket
from envfarm.farm.pods.naming import checked_name, parse_pod_name, pod_name
from envfarm.farm.pods.placement import (
    Node,
    NodeCondition,
    NodeImage,
    NodeMeta,
    NodeSpec,
    NodeStatus,
    Placement,
    Taint,
    quantity,
)
from envfarm.farm.pods.pool import Phase, Pool, Slot
from envfarm.kube.slim import Condition, Container, Meta, Pod, PodStatus, State, Terminated


def pool_of(size: int, ready: int = 0) -> Pool:
    pool = Pool("pool", size, Bucket(1e9, 1e9), [Slot(index, "ns") for index in range(size)])
    for slot in pool.slots[:ready]:
        pool.move(slot, Phase.ready)
    return pool


@given(
    st.from_regex(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True), st.integers(0, 10**6), st.integers(0, 10**6)
)
def test_names_can_be_read_back(pool: str, slot: int, generation: int) -> None:
    assert parse_pod_name(pod_name(pool, slot, generation)) == (pool, slot, generation)


@pytest.mark.parametrize("bad", ["", "A", "a_b", "-a", "a-", "a" * 41, "a.b", "ü"])
def test_names_that_no_cluster_takes_are_refused(bad: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used as a name"):
        checked_name(bad, "Pool")


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([p for p in Phase if p is not Phase.empty])), max_size=60))
def test_counts_follow_the_places_and_no_place_is_filled_twice(moves: list[tuple[int, Phase]]) -> None:
    pool = pool_of(6)
    for index, phase in moves:
        slot = pool.slots[index]
        pool.move(slot, Phase.empty if slot.phase is phase else phase)
        filled = pool.to_fill(0.0)
        assert len({slot.index for slot in filled}) == len(filled)
        assert all(slot.phase is Phase.empty for slot in filled)
        for slot in filled:
            pool.move(slot, Phase.asked)
        assert sum(pool.counts.values()) == 6
        assert all(pool.counts[p] == sum(s.phase is p for s in pool.slots) for p in Phase)
        assert pool.boxes <= pool.declared


@given(st.lists(st.sampled_from(["ready", "lose", "take"]), max_size=50))
def test_a_ready_box_is_given_once(steps: list[str]) -> None:
    pool = pool_of(3)
    for step in steps:
        if step == "ready":
            for slot in pool.to_fill(0.0):
                pool.move(slot, Phase.ready)
        elif step == "lose":
            for slot in pool.slots:
                if slot.phase is Phase.ready:
                    pool.move(slot, Phase.leaving)
                    pool.move(slot, Phase.empty)
        else:
            taken = pool.take_ready(2)
            assert len({slot.index for slot in taken}) == len(taken) in (0, 2)
            for slot in taken:
                assert slot.phase is Phase.ready
                pool.move(slot, Phase.held)
                pool.move(slot, Phase.empty)


def test_a_box_that_waits_for_room_holds_the_others_back() -> None:
    pool = pool_of(10)
    (first, *_) = pool.to_fill(0.0)
    pool.move(first, Phase.starting)
    pool.waits_for_room(first, True)
    pool.move(pool.slots[5], Phase.ready)
    pool.move(pool.slots[5], Phase.empty)
    assert pool.to_fill(1.0) == []
    pool.move(first, Phase.ready)
    assert len(pool.to_fill(2.0)) == 1


def test_the_bucket_gives_its_rate() -> None:
    bucket = Bucket(rate=10, burst=5)
    assert bucket.take(100, 0.0) == 5
    assert bucket.take(100, 0.0) == 0
    assert bucket.take(100, 0.3) == 3
    assert bucket.take(1, 100.0) == 1
    assert bucket.take(100, 100.0) == 4


def test_the_breaker_fails_closed_and_tries_one() -> None:
    breaker = Breaker(wait_sec=1, most_sec=4)
    assert breaker.allowed(50, 0.0) == 50
    for _ in range(50):
        breaker.failed(Reason.quota, "full", 0.0)
    assert breaker.allowed(50, 0.9) == 0
    assert breaker.allowed(50, 1.1) == 1
    waits = []
    now = 1.1
    for _ in range(4):
        breaker.failed(Reason.quota, "full", now)
        waits.append(breaker.retry_sec(now))
        now = breaker.until + 0.01
    assert waits == pytest.approx([2, 4, 4, 4])
    breaker.succeeded()
    assert breaker.allowed(50, now) == 50


async def test_groups_are_whole_and_served_in_order() -> None:
    pool = pool_of(6, ready=2)
    counter = Counter(pool)
    group = asyncio.create_task(counter.take(4, 5))
    single = asyncio.create_task(counter.take(1, 5))
    await asyncio.sleep(0.01)
    assert not group.done()
    assert not single.done(), "whoever asks for little does not starve a group"
    for slot in pool.slots[2:5]:
        pool.move(slot, Phase.ready)
    counter.serve()
    assert len(await group) == 4
    assert len(await single) == 1


async def test_a_taker_that_leaves_gives_its_boxes_back() -> None:
    pool = pool_of(2)
    counter = Counter(pool)
    leaving = asyncio.create_task(counter.take(2, 5))
    await asyncio.sleep(0)
    for slot in pool.slots:
        pool.move(slot, Phase.ready)
    counter.serve()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert pool.counts[Phase.ready] == 2
    assert len(await counter.take(2, 1)) == 2


async def test_one_that_gives_up_lets_the_smaller_behind_it_pass() -> None:
    pool = pool_of(4, ready=1)
    counter = Counter(pool)
    large = asyncio.create_task(counter.take(3, 0.05))
    small = asyncio.create_task(counter.take(1, 5))
    with pytest.raises(Refused):
        await large
    assert len(await small) == 1


async def test_refusals_say_why_and_when_to_come_back() -> None:
    with pytest.raises(Refused, match="has 2 places, and 3 boxes") as caught:
        await Counter(pool_of(2)).take(3, 5)
    assert caught.value.reason is Reason.capacity

    full = pool_of(2, ready=2)
    for slot in full.slots:
        full.move(slot, Phase.held)
    with pytest.raises(Refused, match="2 of 2 are leased") as caught:
        await Counter(full).take(1, 0.01)
    assert caught.value.reason is Reason.capacity

    broken = pool_of(2)
    broken.breaker.failed(Reason.quota, "exceeded quota.", 0.0)
    with pytest.raises(Refused, match="exceeded quota") as caught:
        await Counter(broken).take(1, 0.01)
    assert caught.value.reason is Reason.quota
    assert caught.value.retry_sec > 0

    slow = pool_of(2)
    with pytest.raises(Refused, match="0 ready") as caught:
        await Counter(slow).take(1, 0.01)
    assert caught.value.reason is Reason.timeout


def node(name: str, *, images: tuple[str, ...] = (), taints: tuple[Taint, ...] = (), ready: str = "True") -> Node:
    status = NodeStatus({"cpu": "4", "memory": "8Gi", "pods": "110"}, [NodeCondition("Ready", ready)])
    status = NodeStatus(status.allocatable, status.conditions, [NodeImage(list(images))])
    return Node(NodeMeta(name, {"kubernetes.io/hostname": name}), NodeSpec(taints=list(taints)), status)


def test_placement_goes_to_the_image_then_to_the_emptiest() -> None:
    nodes = [node("a"), node("b", images=("env:1",)), node("c"), node("dead", ready="Unknown")]
    placement = Placement(nodes, cpus=1, memory_mb=1024, image="env:1")
    assert [placement.place() for _ in range(4)] == ["b"] * 4
    rest = [placement.place() for _ in range(8)]
    assert sorted(rest) == ["a"] * 4 + ["c"] * 4
    assert set(rest[:2]) == {"a", "c"}, "spread, not filled one by one"
    assert placement.place() == ""
    placement.gone("c")
    assert placement.place() == "c"


def test_placement_heeds_taints_and_selectors() -> None:
    tainted = node("t", taints=(Taint("k", "NoSchedule", "v"),))
    assert Placement([tainted], cpus=1, memory_mb=1).place() == ""
    tolerated = [{"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}]
    assert Placement([tainted], cpus=1, memory_mb=1, tolerations=tolerated).place() == "t"
    assert Placement([node("a")], cpus=1, memory_mb=1, selector={"zone": "x"}).place() == ""


@pytest.mark.parametrize(("text", "value"), [("500m", 0.5), ("2", 2), ("1Gi", 2**30), ("4k", 4000), ("1e3", 1000)])
def test_quantities(text: str, value: float) -> None:
    assert quantity(text) == value


def ended(reason: str = "", code: int = 0, container: str = "") -> Pod:
    container_status = Container("box", state=State(terminated=Terminated(code, container)))
    return Pod(Meta("p-0-1"), status=PodStatus(phase="Failed", reason=reason, containerStatuses=[container_status]))


@pytest.mark.parametrize(
    ("pod", "why"),
    [
        (ended("Evicted"), "evicted"),
        (ended("DeadlineExceeded"), "deadline"),
        (ended("OutOfcpu"), "node_full"),
        (ended(code=137, container="OOMKilled"), "oom"),
        (ended(code=4), "heartbeat"),
        (ended(code=1), "ended"),
        (
            Pod(
                Meta("p-0-1", deletionTimestamp="now"),
                status=PodStatus(conditions=[Condition("DisruptionTarget", "True", "PreemptionByScheduler")]),
            ),
            "preempted",
        ),
        (Pod(Meta("p-0-1", deletionTimestamp="now")), "deleted"),
    ],
)
def test_evidence_comes_from_the_cluster(pod: Pod, why: str) -> None:
    assert evidence(pod) == why
