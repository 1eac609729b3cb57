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

from metarec.threads import beside, is_beside_running, one_core


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


def test_an_error_here_waits_for_the_other() -> None:
    begun, done = threading.Event(), []

    def work() -> None:
        begun.set()
        time.sleep(0.2)
        done.append("work")

    def fail() -> None:
        assert begun.wait(5)
        raise ValueError("of this one")

    with pytest.raises(ValueError, match="of this one"), beside(work):
        fail()
    assert done == ["work"]
    assert not is_beside_running()


BUSY = """
import click, time
from metarec.cli.main import cli, main
from metarec.threads import beside

@click.command()
def busy():
    with beside(lambda: time.sleep(300)):
        {block}

cli.get_command = lambda *_: busy
main(["train"])
"""


@pytest.mark.parametrize("block", ["print('started', flush=True); time.sleep(300)", "print('started', flush=True)"])
def test_ctrl_c_ends_the_command_at_once_whichever_side_still_works(block: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BUSY.format(block=block)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            process.send_signal(signal.SIGINT)
            _, complaint = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, complaint.strip()) == (130, "error: interrupted")
