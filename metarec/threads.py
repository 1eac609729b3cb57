"""How many threads torch and BLAS compute with, where it must not be all of them."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


@contextmanager
def one_thread() -> Iterator[None]:
    """One for torch's operations inside, as many as before after it.

    Where matrices are small and cores are busy, more threads wait for one another many times longer than they compute; and sums
    have the same bits whatever the number of cores.
    """
    import torch

    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Blas:
    """One thread for BLAS, whose number is the process's, as long as anybody wants that."""

    def __init__(self) -> None:
        self._lock, self._users = threading.RLock(), 0
        self._limits: Any = None

    def begin(self) -> None:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships without types

        with self._lock:
            if self._users == 0:
                self._limits = threadpool_limits(1, "blas")
            self._users += 1

    def end(self) -> None:
        from threadpoolctl import OpenBLASController

        with self._lock:
            self._users -= 1
            if self._users == 0:
                # OpenBLAS listens to the thread that has set it first; that may be another one.
                OpenBLASController.clear_controlling_thread(force=True)
                self._limits.restore_original_limits()
                OpenBLASController.clear_controlling_thread()


_blas = _Blas()


@contextmanager
def one_core() -> Iterator[None]:
    """`one_thread`, and one for numpy's and scipy's BLAS: for whole steps of training.

    Not where requests are answered: others in the process get one BLAS thread as well meanwhile. A BLAS that is loaded later has
    all of its threads.
    """
    with one_thread():
        _blas.begin()
        try:
            yield
        finally:
            _blas.end()


BESIDE = "metarec-beside"
"""Name of the threads of `beside`."""


@contextmanager
def beside(work: Callable[[], T]) -> Iterator["Future[T]"]:
    """`work` in a thread of its own while the block runs, one core for each; both have ended when this ends.

    For two steps that would leave a core idle. What `work` raises is raised at the end, if not by asking for the result before.
    Ctrl-C alone does not wait for `work`, which goes on by itself until the process ends (`is_beside_running`).
    """
    import torch

    answer: Future[T] = Future()

    def run() -> None:
        try:
            torch.set_num_threads(1)
            answer.set_result(work())
        except BaseException as error:
            answer.set_exception(error)

    with one_core():
        threading.Thread(target=run, name=BESIDE).start()
        try:
            yield answer
            answer.result()
        except KeyboardInterrupt:
            raise
        except BaseException:
            wait([answer])
            raise


def is_beside_running() -> bool:
    """Whether a thread of `beside` is at work.

    The interpreter would wait for it at its end, and asked once more to stop it would abort in the middle of torch.
    """
    return any(thread.name == BESIDE for thread in threading.enumerate())
