"""Requests that come while others are being answered are answered together, next.

A request that comes alone waits for nothing, and under load batches grow to what the machine needs. Ray's `serve.batch` cannot do
both: without a waiting time it makes every request a batch of its own (Ray 2.60), with one it delays the request that is alone.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")


class Batcher(Generic[RequestT, AnswerT]):
    """Hands requests in batches of up to `max_size` to `answer`, one batch at a time, in `executor`."""

    def __init__(self, answer: Callable[[Sequence[RequestT]], Sequence[AnswerT]], executor: Executor, max_size: int) -> None:
        self._answer, self._executor, self._max_size = answer, executor, max_size
        self._waiting: list[tuple[RequestT, asyncio.Future[AnswerT]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, request: RequestT) -> AnswerT:
        """The answer to `request`; a caller that is cancelled while it waits is left out."""
        future: asyncio.Future[AnswerT] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                taken, self._waiting = self._waiting[: self._max_size], self._waiting[self._max_size :]
                batch = [(request, future) for request, future in taken if not future.done()]
                if not batch:
                    continue
                try:
                    answers = await loop.run_in_executor(self._executor, self._answer, [request for request, _ in batch])
                except Exception as error:
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                    continue
                for (_, future), answer in zip(batch, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)
        finally:
            self._worker = None
