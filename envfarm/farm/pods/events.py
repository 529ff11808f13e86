"""What the cluster tells of Pods, told to the places they belong to."""

from __future__ import annotations

from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Mapping

from envfarm.core.errors import Reason
from envfarm.kube.slim import Pod

from .naming import parse_pod_name
from .pool import Phase, Pool, Slot, image_failure, is_unschedulable


class Watcher:
    """Moves places as their boxes come, get ready, and go.

    ``on_ready`` is called with a pool that has one more; ``on_lost`` with a leased place and what ended its box;
    ``on_stray`` with a Pod that no place wants; ``on_empty`` with a pool that has room for one more.
    """

    def __init__(
        self,
        pools: Mapping[str, Pool],
        clock: Callable[[], float],
        *,
        on_ready: Callable[[Pool], None],
        on_lost: Callable[[Pool, Slot, str], None],
        on_stray: Callable[[Pod], None],
        on_ended: Callable[[Pool, Slot], None],
        on_empty: Callable[[Pool, Slot], None],
    ) -> None:
        self._pools, self._clock = pools, clock
        self._on_ready, self._on_lost, self._on_stray = on_ready, on_lost, on_stray
        self._on_ended, self._on_empty = on_ended, on_empty
        self.starts: deque[float] = deque(maxlen=20_000)
        """Seconds from asking to readiness, of the last boxes."""
        self.losses: Tally[str] = Tally()
        """Boxes that ended by themselves, by evidence."""

    def changed(self, was: Pod | None, now: Pod | None) -> None:
        """An informer's ``on_change``."""
        pod = now or was
        assert pod is not None
        found = self.place_of(pod)
        if found is None:
            if now is not None and now.metadata.deletionTimestamp is None:
                self._on_stray(now)
            return
        pool, slot = found
        if now is None:
            self._gone(pool, slot, pod)
        elif now.ended:
            self._ending(pool, slot, now)
        elif slot.phase in (Phase.asked, Phase.starting):
            self._started(pool, slot, now)

    def place_of(self, pod: Pod) -> tuple[Pool, Slot] | None:
        """The place whose newest box the Pod is; None for any other Pod."""
        parsed = parse_pod_name(pod.metadata.name)
        if parsed is None:
            return None
        name, index, generation = parsed
        pool = self._pools.get(name)
        if pool is None or index >= len(pool.slots):
            return None
        slot = pool.slots[index]
        if slot.namespace != pod.metadata.namespace or slot.generation != generation or slot.phase is Phase.empty:
            return None
        return pool, slot

    def _started(self, pool: Pool, slot: Slot, pod: Pod) -> None:
        slot.node, slot.address = pod.spec.nodeName, pod.status.podIP
        if pod.ready:
            self.starts.append(self._clock() - slot.asked_at)
            pool.move(slot, Phase.ready)
            pool.breaker.succeeded()
            self._on_ready(pool)
            return
        pool.move(slot, Phase.starting)
        pool.waits_for_room(slot, is_unschedulable(pod))
        if failure := image_failure(pod):
            pool.breaker.failed(Reason.image, f"its image cannot be had: {failure}", self._clock())

    def _ending(self, pool: Pool, slot: Slot, pod: Pod) -> None:
        if slot.phase is Phase.leaving:
            return
        why = evidence(pod)
        self.losses[why] += 1
        if slot.phase is Phase.held:
            self._on_lost(pool, slot, why)
        pool.move(slot, Phase.leaving)
        if pod.metadata.deletionTimestamp is None:
            self._on_ended(pool, slot)

    def _gone(self, pool: Pool, slot: Slot, pod: Pod) -> None:
        if slot.phase is Phase.held:
            why = "deleted"
            self.losses[why] += 1
            self._on_lost(pool, slot, why)
        self._on_empty(pool, slot)
        slot.node = slot.address = ""
        pool.move(slot, Phase.empty)


def evidence(pod: Pod) -> str:
    """Why a Pod ended, from what the cluster alone can have written: nothing in the box reaches its status."""
    if pod.status.reason in (
        "Evicted",
        "DeadlineExceeded",
        "NodeLost",
        "Preempting",
        "OutOfcpu",
        "OutOfmemory",
        "OutOfpods",
    ):
        return {
            "Evicted": "evicted",
            "DeadlineExceeded": "deadline",
            "NodeLost": "node",
            "Preempting": "preempted",
        }.get(pod.status.reason, "node_full")
    for each in pod.status.conditions or ():
        if each.type == "DisruptionTarget" and each.status == "True":
            return "preempted" if "Preemption" in each.reason else "evicted"
    for each in pod.status.containerStatuses or ():
        ended = each.state.terminated if each.state else None
        if ended is not None and ended.reason == "OOMKilled":
            return "oom"
        if ended is not None and each.name == "box":
            return {3: "deadline", 4: "heartbeat", 5: "agent"}.get(ended.exitCode, "ended")
    return "deleted" if pod.metadata.deletionTimestamp else "ended"
