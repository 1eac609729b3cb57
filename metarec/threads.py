"""How many threads torch and BLAS compute with, where it must not be all of them."""

import ctypes
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
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
        self._lock, self._users = threading.Lock(), 0
        self._limits: Any = None

    def begin(self) -> None:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships without types

        with self._lock:
            self._users += 1
            if self._users == 1:
                self._limits = threadpool_limits(1, "blas")

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

    Not where requests are answered: others in the process get one BLAS thread as well meanwhile.
    """
    with one_thread():
        _blas.begin()
        try:
            yield
        finally:
            _blas.end()


class _Abandoned(BaseException):
    """Raised in a thread whose answer nobody waits for any more."""


@contextmanager
def beside(work: Callable[[], T]) -> Iterator["Future[T]"]:
    """`work` in a thread of its own while the block runs, one core for each; both have ended when this ends.

    For two steps that would leave a core idle. What `work` raises is raised at the end, if not by asking for the result before;
    when the block raises, `work` is broken off at its next line of Python.
    """
    import torch

    answer: Future[T] = Future()
    ended = threading.Event()

    def run() -> None:
        try:
            torch.set_num_threads(1)
            answer.set_result(work())
        except BaseException as error:
            answer.set_exception(error)
        finally:
            ended.set()

    thread = threading.Thread(target=run, name="beside")
    with one_core():
        thread.start()
        try:
            yield answer
        except BaseException:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_Abandoned))
            raise
        finally:
            _wait(ended)
        answer.result()


def _wait(ended: threading.Event) -> None:
    """Until it is set, whatever Ctrl-C says: a process must not end while a thread is in the middle of torch.

    Not by `Thread.join`, which takes a running thread for ended when it is interrupted (Python 3.11).
    """
    while not ended.is_set():
        try:
            ended.wait()
        except KeyboardInterrupt:
            continue
