import signal
import subprocess
import sys
import threading
import time
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


@pytest.mark.usefixtures("two_threads")
def test_blas_is_set_back_by_whoever_leaves_last() -> None:
    before, inside, leave, after_first = blas(), threading.Event(), threading.Event(), []

    def other() -> None:
        with one_core():
            inside.set()
            leave.wait(5)
            after_first.append(blas())

    thread = threading.Thread(target=other)
    with one_core():
        thread.start()
        assert inside.wait(5)
    leave.set()
    thread.join()
    assert after_first == [{1}]
    assert blas() == before


def test_an_error_beside_is_told() -> None:
    def fail() -> None:
        raise ValueError("of the other thread")

    with pytest.raises(ValueError, match="other thread"), beside(fail):
        pass


def test_an_error_here_breaks_the_other_off() -> None:
    done = []

    def work() -> None:
        for step in range(600):
            done.append(step)
            time.sleep(0.1)

    def fail() -> None:
        time.sleep(0.2)
        raise ValueError("of this one")

    with pytest.raises(ValueError, match="of this one"), beside(work):
        fail()
    assert len(done) < 60


BUSY = """
import sys, time, torch
from metarec.threads import beside

def work():
    for _ in range(600):
        torch.randn(200, 200) @ torch.randn(200, 200)
        time.sleep(0.05)

try:
    with beside(work):
        print("started", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(130)
"""


@pytest.mark.parametrize("times", [1, 3])
def test_ctrl_c_ends_both_at_once(times: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    said, _ = process.communicate(timeout=20)
    assert (said, process.returncode) == ("interrupted\n", 130)
