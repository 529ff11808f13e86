"""Many episodes, one engine: who is waited for, in which order rows stand, and that nobody is stalled."""

from __future__ import annotations

import asyncio
import threading

import pytest
from envfarm_rl.engine.embedded import EmbeddedEngine
from envfarm_rl.engine.requests import Emission, Request
from envfarm_rl.engine.service import EngineService

from envfarm.core.errors import EngineError, Reason

from .engine_cases import DENSE, made


class Recording:
    """An engine that notes its batches, and waits in one for ``gate``."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.aborted: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def check(self, request: Request) -> None:
        if not request.prompt:
            raise EngineError("no prompt", reason=Reason.usage)

    def generate(self, requests: list[Request]) -> list[Emission]:
        self.batches.append([each.id for each in requests])
        self.gate.wait(5)
        if any(each.id == "bad" for each in requests):
            raise EngineError("broken", reason=Reason.engine_failed)
        return [Emission(each.prompt, (), (), 0, "length") for each in requests]

    def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)
        self.gate.set()


async def episode(service: EngineService, key: str, turns: int, pause: float = 0.0) -> list[Emission]:
    async with service.episode(key):
        found = []
        for turn in range(turns):
            await asyncio.sleep(pause)
            found.append(await service.generate(Request((turn,), 1, id=f"{key}{turn}")))
        return found


async def test_a_batch_waits_for_every_live_episode_and_is_in_the_order_of_ids() -> None:
    engine = Recording()
    service = EngineService(engine)
    found = await asyncio.gather(
        episode(service, "c", 2), episode(service, "a", 3, 0.03), episode(service, "b", 1, 0.01)
    )
    assert engine.batches == [["a0", "b0", "c0"], ["a1", "c1"], ["a2"]]
    assert [[each.tokens for each in one] for one in found] == [[(0,), (1,)], [(0,), (1,), (2,)], [(0,)]]


@pytest.mark.parametrize("how", ["raises", "is cancelled", "is cancelled while it waits"])
async def test_an_episode_that_goes_does_not_stall_the_rest(how: str) -> None:
    engine = Recording()
    service = EngineService(engine)

    async def other() -> None:
        async with service.episode("z"):
            if how == "raises":
                await asyncio.sleep(0.02)
                raise RuntimeError("the box is gone")
            if how == "is cancelled while it waits":
                await service.generate(Request((1,), 1, id="z"))
            await asyncio.sleep(10)

    async def busy() -> None:
        async with service.episode("y"):
            await asyncio.sleep(0.05)

    going = [asyncio.create_task(each) for each in (other(), busy())]
    rest = asyncio.create_task(episode(service, "a", 2))
    await asyncio.sleep(0.01)
    if how != "raises":
        going[0].cancel()
    async with asyncio.timeout(2):
        assert len(await rest) == 2
    assert engine.batches == [["a0"], ["a1"]]
    await asyncio.gather(*going, return_exceptions=True)


async def test_cancelling_in_a_running_batch_aborts_that_request_only() -> None:
    engine = Recording()
    engine.gate.clear()
    service = EngineService(engine)
    tasks = [asyncio.create_task(episode(service, key, 1)) for key in "ab"]
    await asyncio.sleep(0.05)
    tasks[0].cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert engine.aborted == ["a0"] and isinstance(found[0], asyncio.CancelledError)
    assert not isinstance(found[1], BaseException) and found[1][0].tokens == (0,)


async def test_requests_that_come_while_a_batch_runs_make_the_next_one() -> None:
    engine = Recording()
    engine.gate.clear()
    service = EngineService(engine)
    first = asyncio.create_task(episode(service, "a", 1))
    await asyncio.sleep(0.02)
    late = [asyncio.create_task(episode(service, key, 1)) for key in "cb"]
    await asyncio.sleep(0.02)
    engine.gate.set()
    await asyncio.gather(first, *late)
    assert engine.batches == [["a0"], ["b0", "c0"]]


async def test_patience_runs_what_waits() -> None:
    engine = Recording()
    service = EngineService(engine, patience_sec=0.05)
    found = await asyncio.gather(episode(service, "slow", 1, 0.5), episode(service, "a", 2), episode(service, "b", 1))
    assert [len(each) for each in found] == [1, 2, 1]
    assert engine.batches[0] == ["a0", "b0"] and ["slow0"] in engine.batches


async def test_a_batch_that_fails_fails_for_all_of_it_and_a_wrong_request_for_its_caller_only() -> None:
    engine = Recording()
    service = EngineService(engine)
    with pytest.raises(EngineError, match="no prompt"):
        await service.generate(Request((), 1))
    assert engine.batches == []
    found = await asyncio.gather(
        *(service.generate(Request((1,), 1, id=each)) for each in ("bad", "good")), return_exceptions=True
    )
    assert any(isinstance(each, EngineError) for each in found)
    assert (await service.generate(Request((1,), 1, id="good"))).tokens == (1,)


async def test_two_live_episodes_of_one_key_are_refused() -> None:
    service = EngineService(Recording())
    async with service.episode("a"):
        with pytest.raises(ValueError, match="live already"):
            async with service.episode("a"):
                pass


async def test_the_embedded_engine_serves_the_same_whatever_the_order_of_arrival() -> None:
    runs = []
    for order in ("abc", "cba"):
        service = EngineService(EmbeddedEngine(made(DENSE), max_context=100, adaptive=False))

        async def ask(key: str, service: EngineService = service) -> list[tuple[int, ...]]:
            async with service.episode(key):
                prompt, found = (ord(key) % 60, 1, 2), []
                for turn in range(3):
                    request = Request(prompt, 5, session=key, seed=ord(key) + turn, id=f"{key}{turn}")
                    emission = await service.generate(request)
                    found.append(emission.tokens)
                    prompt = (*prompt, *emission.tokens, 7)
                return found

        answers = await asyncio.gather(*map(ask, order))
        runs.append(dict(zip(order, answers, strict=True)))
    assert runs[0] == runs[1]
