import os
import signal
import threading
from pathlib import Path

import pytest

from metarec.training.stop import StopFile


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_for_a_stop_and_the_second_interrupts(tmp_path: Path, number: signal.Signals) -> None:
    stop, told = StopFile(tmp_path), []
    before = signal.getsignal(number)
    with stop.on_signals(lambda: told.append("stopping")):
        os.kill(os.getpid(), number)
        assert stop.requested()
        assert told == ["stopping"]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_a_request_is_seen_by_everyone_who_shares_the_directory_until_it_is_cleared(tmp_path: Path) -> None:
    StopFile(tmp_path).request()
    assert StopFile(tmp_path).requested()
    StopFile(tmp_path).clear()
    assert not StopFile(tmp_path).requested()
    StopFile(tmp_path).clear()


def test_other_threads_than_the_main_one_leave_signals_alone(tmp_path: Path) -> None:
    seen = []

    def run() -> None:
        with StopFile(tmp_path).on_signals():
            seen.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]
