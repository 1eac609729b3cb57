import threading

import pandas as pd
from dask.tokenize import tokenize

from metarec.features.frame_names import frames_by_number


def frame() -> pd.DataFrame:
    return pd.DataFrame({"text": ["a", None], "list": [["b"], []]})


def test_inside_a_frame_is_itself_and_no_other() -> None:
    one, other = frame(), frame()
    with frames_by_number():
        assert tokenize(one) == tokenize(one)
        assert tokenize(one) != tokenize(other)
        gone = {tokenize(frame()) for _ in range(50)}  # addresses come back
        assert len(gone) == 50
    assert tokenize(one) == tokenize(other)


def test_the_last_of_several_threads_puts_things_right() -> None:
    one, other, entered, leave = frame(), frame(), threading.Event(), threading.Event()

    def join() -> None:
        with frames_by_number():
            entered.set()
            leave.wait(5)

    thread = threading.Thread(target=join)
    with frames_by_number():
        thread.start()
        assert entered.wait(5)
        first = tokenize(one)
    assert tokenize(one) == first != tokenize(other)
    leave.set()
    thread.join()
    assert tokenize(one) == tokenize(other)


def test_names_are_by_content_again_after_an_error() -> None:
    try:
        with frames_by_number():
            raise ValueError
    except ValueError:
        pass
    assert tokenize(frame()) == tokenize(frame())
