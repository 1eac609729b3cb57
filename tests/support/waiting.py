"""Waiting for what other threads and processes do: looked at again and again, and a failure where it does not come."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

PAUSE_SECONDS = 0.02
WAIT_SECONDS = 120.0


def until(
    condition: Callable[[], object], *, seconds: float = WAIT_SECONDS, told: Callable[[], object] = lambda: "it did not happen"
) -> None:
    """Return once `condition` holds; after so many seconds without it, fail with what `told` gives."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(PAUSE_SECONDS)


async def until_async(condition: Callable[[], bool | Awaitable[bool]], *, seconds: float = WAIT_SECONDS) -> None:
    """The same in an event loop, which goes on meanwhile; the condition may be a coroutine's."""
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if await holds if inspect.isawaitable(holds) else holds:
                return
            await asyncio.sleep(PAUSE_SECONDS)
