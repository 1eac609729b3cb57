"""The feature store as services use it: absent, failing, rebuilt."""

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from metarec.errors import InvalidInputError, UnavailableError
from metarec.features.store import FeatureStore
from metarec.types import User
from services.runtime.features import PAUSE_SECONDS, LazyStore

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(trained: Path, clock: Clock) -> Iterator[LazyStore]:
    lazy = LazyStore(trained / "features", "sqlite", clock=clock)
    yield lazy
    lazy.close()


def test_a_store_that_is_not_there_is_looked_for_again_after_a_pause(store: LazyStore, trained: Path, clock: Clock) -> None:
    (trained / "features").rename(trained / "elsewhere")
    assert store.schema is None
    with pytest.raises(UnavailableError, match="no feature store"):
        store.read_user("u1")
    shutil.move(trained / "elsewhere", trained / "features")
    assert store.schema is not None
    with pytest.raises(UnavailableError, match="no feature store"):
        store.read_user("u1")
    clock.now += PAUSE_SECONDS
    assert store.read_user("u1") is not None


def test_a_failure_is_unavailable_and_nobody_waits_for_it_twice(
    store: LazyStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail(self: FeatureStore, user_id: str) -> None:
        calls.append(user_id)
        raise OSError("no route")

    monkeypatch.setattr(FeatureStore, "read_user", fail)
    for _ in range(3):
        with pytest.raises(UnavailableError, match="no route"):
            store.read_user("u1")
    assert calls == ["u1"]
    clock.now += PAUSE_SECONDS
    with pytest.raises(UnavailableError):
        store.read_user("u1")
    assert len(calls) == 2


def test_wrong_input_is_no_failure_of_the_store(store: LazyStore) -> None:
    with pytest.raises(InvalidInputError, match="'age'"):
        store.write_user_profile([User(user_id="a", features={"age": "old"})])
    store.write_user_profile([User(user_id="a", features={"age": 3.0})])
    user = store.read_user("a")
    assert user is not None
    assert user.features == {"gender": None, "age": 3.0}


def test_a_store_that_was_built_again_is_opened_again(store: LazyStore, trained: Path, tiny_dataset: "Dataset") -> None:
    assert store.read_user("u1") is not None
    first = store._store
    store.reopen()
    assert store._store is first
    fewer = replace(tiny_dataset.schema, users=tiny_dataset.schema.users[:1])
    changed = replace(tiny_dataset, schema=fewer, users=tiny_dataset.users[["gender"]]).save(trained / "other")
    FeatureStore.build(changed, trained / "features").close()
    store.reopen()
    assert store.materialize()
    assert not store.materialize()
    user = store.read_user("u1")
    assert user is not None
    assert user.features == {"gender": "F"}
    assert store._store is not first


def test_what_is_loaded_is_what_reads_give(store: LazyStore, trained: Path, tiny_dataset: "Dataset") -> None:
    first = tiny_dataset.fingerprint
    assert store.loaded_from == f"{first} {first}"
    assert store.read_user("u1") is not None
    changed = replace(tiny_dataset, items=tiny_dataset.items.assign(year=1.0)).save(trained / "other")
    other = FeatureStore.build(changed, trained / "features")
    assert changed.fingerprint != first
    assert store.loaded_from == f"{first} {first}", "nobody has loaded the new data, and the old is still there"
    other.materialize()
    assert store.loaded_from == f"{first} {changed.fingerprint}", "new rows through old definitions"
    store.reopen()
    assert store.loaded_from == f"{changed.fingerprint} {changed.fingerprint}"
    other.close()


def test_a_store_that_was_built_again_is_not_loaded_once_it_is_opened_again(
    store: LazyStore, trained: Path, tiny_dataset: "Dataset"
) -> None:
    assert store.read_user("u1") is not None
    changed = replace(tiny_dataset, items=tiny_dataset.items.assign(year=1.0)).save(trained / "other")
    FeatureStore.build(changed, trained / "features").close()
    store.reopen()
    assert store.loaded_from == ""
    assert store.read_items(["i1"])["i1"].features["year"] == 1961.0, "the row of before"
    store.materialize()
    assert store.loaded_from == f"{changed.fingerprint} {changed.fingerprint}"
    assert store.read_items(["i1"])["i1"].features["year"] == 1.0
    (trained / "features").rename(trained / "elsewhere")
    assert store.loaded_from == f"{changed.fingerprint} {changed.fingerprint}", "what was read before is not undone"


def test_a_store_that_is_not_there_is_not_loaded(store: LazyStore, trained: Path) -> None:
    (trained / "features").rename(trained / "elsewhere")
    assert store.loaded_from == ""


def test_a_call_under_which_the_store_is_closed_is_made_again(store: LazyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real, closed = FeatureStore.read_user, []

    def closing(self: FeatureStore, user_id: str) -> object:
        if not closed:
            closed.append(True)
            store.close()
        return real(self, user_id)

    monkeypatch.setattr(FeatureStore, "read_user", closing)
    assert store.read_user("u1") is not None
    assert closed


def test_a_store_that_was_opened_before_the_first_request_is_not_opened_by_it(
    store: LazyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.warm_up()
    monkeypatch.delattr(FeatureStore, "open")
    assert store.read_user("u1") is not None


def test_warming_up_a_store_that_is_not_there_is_no_failure(store: LazyStore, trained: Path) -> None:
    (trained / "features").rename(trained / "elsewhere")
    store.warm_up()
    with pytest.raises(UnavailableError):
        store.read_user("u1")


@pytest.fixture
def listening() -> Iterator[Callable[[bool], tuple[str, list[socket.socket]]]]:
    """Servers in place of Redis that never say a word: the address, and the connections so far."""
    servers: list[socket.socket] = []

    def listen(hang_up: bool) -> tuple[str, list[socket.socket]]:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)
        connections: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connections.append(connection)
                if hang_up:
                    connection.close()

        threading.Thread(target=accept, daemon=True).start()
        return f"redis://127.0.0.1:{server.getsockname()[1]}/0", connections

    yield listen
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


@pytest.mark.parametrize("hang_up", [True, False], ids=["that hangs up", "that is silent"])
def test_a_redis_costs_a_request_one_short_wait(
    trained: Path, hang_up: bool, listening: Callable[[bool], tuple[str, list[socket.socket]]]
) -> None:
    address, connections = listening(hang_up)
    lazy = LazyStore(trained / "features", address)
    with pytest.raises(UnavailableError, match="cannot be reached"):
        lazy.read_user("u1")
    lazy.close()
    assert len(connections) == 1  # nothing was tried again
    for connection in connections:
        connection.close()
