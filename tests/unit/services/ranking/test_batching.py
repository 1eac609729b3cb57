import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from services.ranking.batching import Batcher


class Gate:
    """Doubles numbers, a batch at a time, when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self, numbers: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(numbers))
        self.entered.set()
        self.open.wait()
        if -1 in numbers:
            raise ValueError("no negative numbers")
        return [2 * number for number in numbers]


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def batcher(gate: Gate) -> AsyncIterator[Batcher[int, int]]:
    with ThreadPoolExecutor(1) as executor:
        yield Batcher(gate, executor, max_size=3)
        gate.open.set()


async def started(gate: Gate, batcher: Batcher[int, int], *numbers: int) -> list["asyncio.Task[int]"]:
    """A request for each number, of which the first is being answered."""
    tasks = [asyncio.ensure_future(batcher(numbers[0]))]
    await asyncio.to_thread(gate.entered.wait)
    tasks += [asyncio.ensure_future(batcher(number)) for number in numbers[1:]]
    await asyncio.sleep(0)
    return tasks


async def test_a_request_alone_is_a_batch(gate: Gate, batcher: Batcher[int, int]) -> None:
    gate.open.set()
    assert [await batcher(1), await batcher(2)] == [2, 4]
    assert gate.batches == [[1], [2]]


async def test_requests_that_come_meanwhile_make_up_the_next_batches(gate: Gate, batcher: Batcher[int, int]) -> None:
    tasks = await started(gate, batcher, 1, 2, 3, 4, 5)
    gate.open.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8, 10]
    assert gate.batches == [[1], [2, 3, 4], [5]]


async def test_a_cancelled_request_is_not_answered(gate: Gate, batcher: Batcher[int, int]) -> None:
    tasks = await started(gate, batcher, 1, 2, 3)
    tasks[1].cancel()
    await asyncio.sleep(0)
    gate.open.set()
    first, second, third = await asyncio.gather(*tasks, return_exceptions=True)
    assert (first, third) == (2, 6)
    assert isinstance(second, asyncio.CancelledError)
    assert gate.batches == [[1], [3]]


async def test_a_failure_reaches_those_of_its_batch_only(gate: Gate, batcher: Batcher[int, int]) -> None:
    tasks = await started(gate, batcher, 1, -1, 2, 3, 4)
    gate.open.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[0] == 2
    assert [str(outcome) for outcome in outcomes[1:4]] == ["no negative numbers"] * 3
    assert outcomes[4] == 8
