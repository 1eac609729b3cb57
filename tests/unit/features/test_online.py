"""Turns at the online store: who waits behind a call that fails has waited enough."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from metarec.errors import UnavailableError
from metarec.features.online import OnlineRows


class Hanging:
    """An online store that hangs until it is told to go on, and fails then; `healed`, it answers."""

    def __init__(self) -> None:
        self.calls = 0
        self.asked, self.give_up = threading.Event(), threading.Event()
        self.healed = False

    def online_read(self, config: object, table: object, keys: list[object], names: object) -> list[tuple[None, dict[str, Any]]]:
        self.calls += 1
        self.asked.set()
        assert self.give_up.wait(20)
        if not self.healed:
            raise TimeoutError("no answer")
        return [(None, {}) for _ in keys]


def test_who_waits_behind_a_call_that_hangs_fails_with_it() -> None:
    store, waiting = Hanging(), threading.Semaphore(0)

    def key(name: str) -> Any:
        waiting.release()  # a call has begun, and asks for its turn next
        return SimpleNamespace(entity_values=SimpleNamespace(add=lambda: SimpleNamespace(string_val="")))

    views: Any = {"user_profile": None}
    rows = OnlineRows(store=store, config=None, views=views, kinds={"user_profile": {}}, new_key=key, new_value=lambda: None)  # type: ignore[arg-type]  # stand-ins
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(rows.read, "user_profile", ["a"])
        assert store.asked.wait(20)
        others = [pool.submit(rows.read, "user_profile", ["b"]) for _ in range(3)]
        for _ in range(4):
            assert waiting.acquire(timeout=20)
        store.give_up.set()
        with pytest.raises(TimeoutError):
            first.result(20)
        for other in others:
            with pytest.raises(UnavailableError, match="TimeoutError: no answer"):
                other.result(20)
        assert store.calls == 1
        store.healed = True
        assert rows.read("user_profile", ["a"]) == [{}]  # a call that begins afterwards asks anew
