from collections.abc import Iterator

import numpy  # noqa: F401  # its BLAS is what the numbers are of
import pytest
import torch
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]  # ships without types

from metarec.threads import beside, one_core


def blas() -> set[int]:
    return {int(pool["num_threads"]) for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_one_core_is_one_thread_of_everything() -> None:
    before = blas()
    with one_core():
        assert torch.get_num_threads() == 1
        assert blas() == {1}
    assert torch.get_num_threads() == 2
    assert blas() == before


@pytest.mark.usefixtures("two_threads")
def test_both_sides_have_one_core_until_both_have_ended() -> None:
    def work() -> tuple[int, set[int]]:
        with one_core():
            pass
        return torch.get_num_threads(), blas()

    with beside(work) as other:
        with one_core():
            pass
        assert other.result() == (1, {1})
        assert (torch.get_num_threads(), blas()) == (1, {1})
    assert torch.get_num_threads() == 2


def test_an_error_beside_is_told() -> None:
    def fail() -> None:
        raise ValueError("of the other thread")

    with pytest.raises(ValueError, match="other thread"), beside(fail) as other:
        other.result()
