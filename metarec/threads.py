"""How many threads torch and BLAS compute with, where it must not be all of them."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

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


@contextmanager
def one_core() -> Iterator[None]:
    """`one_thread`, and one for numpy's and scipy's BLAS: for whole steps of training.

    Not where requests are answered: BLAS has one number of threads for the whole process.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships without types

    with one_thread(), threadpool_limits(1, "blas"):
        yield


@contextmanager
def beside(work: Callable[[], T]) -> Iterator["Future[T]"]:
    """`work` in a thread of its own while the block runs, one core for each; waits for it at the end.

    For two steps that would leave a core idle. The numbers of threads are partly the process's and partly the thread's: were they
    set by each step alone, whichever ends first would change them for the other.
    """
    import torch

    with one_core(), ThreadPoolExecutor(1, "beside", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield pool.submit(work)
