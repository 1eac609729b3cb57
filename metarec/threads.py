"""How many threads torch computes with, where it must not be all of them."""

from collections.abc import Iterator
from contextlib import contextmanager


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
