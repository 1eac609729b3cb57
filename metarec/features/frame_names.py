"""What dask calls a table: a number, while Feast joins features.

Dask names each step of a computation by a digest of its data. Feast computes after every join, so the digest is taken a hundred
times over, and columns of texts and lists are pickled for it: 9 of the 10 seconds that the features of MovieLens-1M took. A frame
that is the same object is the same data here, and that is all a name has to say.
"""

import itertools
import threading
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd


class _Names:
    """Numbers of frames, and how dask named them before; several threads may want them at a time."""

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._before: Any = None
        self._here, self._numbers = uuid.uuid4().hex, itertools.count()
        self._known: dict[int, tuple[weakref.ref[pd.DataFrame], int]] = {}

    def of(self, frame: pd.DataFrame) -> object:
        with self._lock:
            before = self._before if self._users == 0 else None
            if before is None:
                seen, number = self._known.get(id(frame), (None, 0))
                if seen is None or seen() is not frame:  # an address may be that of a frame that is gone
                    number = next(self._numbers)
                    self._known[id(frame)] = weakref.ref(frame), number
        # After the end: dask remembers us for kinds of frames that it first met inside.
        return before(frame) if before is not None else ("frame", self._here, number)

    def begin(self, registry: Any) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._before = registry.dispatch(pd.DataFrame)
                registry.register(pd.DataFrame, self.of)

    def end(self, registry: Any) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                registry.register(pd.DataFrame, self._before)
                self._known.clear()


_names = _Names()


@contextmanager
def frames_by_number() -> Iterator[None]:
    """Name frames by object instead of by content inside."""
    from dask.tokenize import normalize_token

    _names.begin(normalize_token)
    try:
        yield
    finally:
        _names.end(normalize_token)
