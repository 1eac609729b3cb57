"""The interaction log: once per event, all or nothing, whatever the order, and durable."""

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarec.data.schema import Label
from metarec.errors import FailedPreconditionError, InvalidInputError, UnavailableError
from metarec.interactions.database import Database, connect
from metarec.interactions.history import import_history, rows_left
from metarec.interactions.log import InteractionLog
from metarec.types import Interaction, User

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset


def event(
    event_id: str, user: str = "u", item: str = "i", label: float = 1.0, time: float = 0.0, scenario: str = ""
) -> Interaction:
    return Interaction(event_id=event_id, user_id=user, item_id=item, label=label, timestamp=time, scenario=scenario)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[InteractionLog]:
    opened = InteractionLog(tmp_path / "log.db", max_support=3)
    yield opened
    opened.close()


events = st.lists(
    st.builds(
        event,
        event_id=st.integers(0, 12).map(lambda number: f"e{number}"),
        user=st.sampled_from(["u", "v"]),
        item=st.sampled_from(["a", "b", "c", "d", "e"]),
        label=st.sampled_from([1.0, 2.0, 3.0]),
        time=st.integers(0, 4).map(float),
    ),
    max_size=14,
)


def distinct(found: list[Interaction]) -> list[Interaction]:
    """The first event of each id."""
    first: dict[str, Interaction] = {}
    for entry in found:
        first.setdefault(entry.event_id, entry)
    return list(first.values())


def expected_support(found: list[Interaction], user: str, size: int) -> list[Interaction]:
    latest: dict[str, Interaction] = {}
    for entry in sorted(distinct(found), key=lambda entry: (entry.timestamp, entry.event_id)):
        if entry.user_id == user:
            latest[entry.item_id] = entry
    return sorted(latest.values(), key=lambda entry: (entry.timestamp, entry.event_id))[-size:]


@settings(deadline=None, max_examples=40)
@given(found=events, cuts=st.lists(st.integers(0, 14), max_size=3))
def test_every_event_counts_once_and_the_latest_label_stands(
    found: list[Interaction], cuts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = InteractionLog(tmp_path_factory.mktemp("log") / "log.db", max_support=3)
    edges = [0, *sorted(min(cut, len(found)) for cut in cuts), len(found)]
    parts = [found[start:stop] for start, stop in pairwise(edges)]
    results = [log.append(part) for part in parts]
    assert sum(result.recorded for result in results) == len(distinct(found)) == log.count()
    assert sum(result.recorded + result.duplicates for result in results) == len(found)
    for user in ("u", "v"):
        record = log.user(user)
        expected = expected_support(found, user, 3)
        assert list(record.support if record else ()) == expected
        assert results[-1].support_sizes.get(user, len(expected)) == len(expected)
    log.close()


@settings(deadline=None, max_examples=30)
@given(found=events, data=st.data())
def test_the_support_set_does_not_depend_on_the_order_of_arrival(
    found: list[Interaction], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = distinct(found)
    shuffled = data.draw(st.permutations(found))
    supports = []
    for order in (found, shuffled):
        log = InteractionLog(tmp_path_factory.mktemp("log") / "log.db", max_support=3)
        for entry in order:
            log.append([entry])
        supports.append([record.support if (record := log.user(user)) else () for user in ("u", "v")])
        log.close()
    assert supports[0] == supports[1]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("event_id", ""),
        ("user_id", ""),
        ("item_id", "i" * 257),
        ("event_id", "é" * 129),
        ("label", float("nan")),
        ("timestamp", float("inf")),
    ],
)
def test_one_wrong_event_and_nothing_is_recorded(log: InteractionLog, field: str, value: object) -> None:
    with pytest.raises(InvalidInputError) as raised:
        log.append([event("good"), replace(event("bad"), **{field: value})])  # type: ignore[arg-type]  # by name
    assert raised.value.field == f"interactions[1].{field}"
    assert log.count() == 0
    assert log.user("u") is None


def test_a_failure_in_the_middle_undoes_the_whole_call(log: InteractionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append([event("before", time=1.0)])

    def fail(*_: object) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr("metarec.interactions.log.support_size", fail)
    with pytest.raises(RuntimeError):
        log.append([event("e1", item="a"), event("e2", user="v")])
    monkeypatch.undo()
    record = log.user("u")
    assert record is not None
    assert ([entry.event_id for entry in record.support], record.revision, log.count()) == (["before"], 1, 1)
    assert log.user("v") is None
    assert log.append([event("e1", item="a")]).recorded == 1


def test_an_event_sent_again_has_no_effect_even_with_other_content(log: InteractionLog) -> None:
    log.append([event("e", label=5.0)])
    result = log.append([event("e", label=1.0, item="other", time=9.0)])
    assert (result.recorded, result.duplicates, dict(result.support_sizes)) == (0, 1, {"u": 1})
    record = log.user("u")
    assert record is not None
    assert (record.support[0].label, record.revision) == (5.0, 1)


def test_items_beyond_the_support_set_are_still_seen(log: InteractionLog) -> None:
    result = log.append([event(f"e{k}", item=f"i{k}", time=float(k)) for k in range(5)])
    record = log.user("u")
    assert record is not None
    assert [entry.item_id for entry in record.support] == ["i2", "i3", "i4"]
    assert record.seen == ("i1", "i0")
    assert result.support_sizes == {"u": 3}


def test_pages_go_from_new_to_old_and_meet_every_event_once(log: InteractionLog) -> None:
    log.append([event(f"e{k}", item=f"i{k % 2}", time=float(k // 3)) for k in range(8)])
    log.append([event("other", user="v")])
    seen, token, pages = [], "", 0
    while True:
        page = log.page("u", 3, token)
        seen += [entry.event_id for entry in page.interactions]
        token, pages = page.next_token, pages + 1
        if not token:
            break
        log.append([event(f"late{pages}", time=99.0)])
    assert seen == [f"e{k}" for k in (7, 6, 5, 4, 3, 2, 1, 0)]
    assert pages == 3
    assert log.page("nobody", 3).interactions == ()
    for bad in ("nonsense", "1:x", ":"):
        with pytest.raises(InvalidInputError, match="page_token"):
            log.page("u", 3, bad)


def test_a_user_is_dirty_until_their_newest_revision_is_confirmed(log: InteractionLog) -> None:
    log.append([event("e1")])
    log.append([event("e2", item="j"), event("e3", user="v")])
    assert log.dirty_users() == ["u", "v"]
    log.confirm({"u": 1, "v": 1}, "c-1")
    assert log.dirty_users() == ["u"]
    log.confirm({"u": 2}, "c-1")
    assert log.dirty_users() == []
    assert log.users_with_stale("c-1") == []
    assert log.users_with_stale("c-2") == ["u", "v"]
    assert log.users_with_stale("c-2", after="u") == ["v"]
    assert log.users_with_stale("c-2", limit=1) == ["u"]
    log.mark_dirty("v")
    log.mark_dirty("nobody")
    assert log.dirty_users() == ["v"]
    log.mark_all_dirty()
    # Writes that were under way confirm what they wrote, which the store may have lost since.
    log.confirm({"u": 2, "v": 2}, "c-1")
    assert log.dirty_users() == ["u", "v"]
    log.confirm({"u": 3, "v": 3}, "c-1")
    assert log.dirty_users() == []


def test_a_log_keeps_its_id(log: InteractionLog, tmp_path: Path) -> None:
    again, other = InteractionLog(tmp_path / "log.db"), InteractionLog(tmp_path / "other.db")
    assert again.id == log.id != other.id
    again.close()
    other.close()


def test_profiles_are_kept_and_make_a_user_dirty(log: InteractionLog) -> None:
    log.upsert_users([User(user_id="u", features={"age": 3.0, "tags": ("a", "b"), "name": None})])
    log.append([event("e1")])
    record = log.user("u")
    assert record is not None
    assert (record.profile, record.revision, record.dirty) == ({"age": 3.0, "tags": ("a", "b"), "name": None}, 2, True)
    log.upsert_users([User(user_id="u", features={})])
    record = log.user("u")
    assert record is not None
    assert (record.profile, len(record.support), record.revision) == ({}, 1, 3)


def test_a_deleted_user_is_gone_and_the_deletion_stays_pending(log: InteractionLog) -> None:
    log.append([event("e1"), event("e2", user="v"), event("e3", item="j")])
    assert log.delete_user("u") == 2
    assert log.user("u") is None
    assert log.page("u", 10).interactions == ()
    assert [entry.user_id for entry in log.item_support("i")] == ["v"]
    assert log.pending_deletions() == ["u"]
    assert log.delete_user("u") == 0
    log.confirm_deletion("u")
    assert log.pending_deletions() == []
    assert log.delete_user("u") is None
    assert log.pending_deletions() == []
    assert log.delete_user("u", known=True) == 0
    assert log.pending_deletions() == ["u"]
    assert log.append([event("e1")]).recorded == 1


def test_an_items_support_set_is_its_latest_label_of_each_user(log: InteractionLog) -> None:
    log.append([event(f"e{k}", user=f"u{k % 4}", label=float(k), time=float(k)) for k in range(6)])
    assert [(entry.user_id, entry.label) for entry in log.item_support("i")] == [("u3", 3.0), ("u0", 4.0), ("u1", 5.0)]


def test_a_history_is_imported_once_and_continues_where_it_stopped(log: InteractionLog, tiny_dataset: "Dataset") -> None:
    total = len(tiny_dataset.interactions)
    assert rows_left(log, tiny_dataset.path) == total
    assert import_history(log, tiny_dataset, chunk=500, watch=lambda done, _: done < 1_000) == 1_000
    assert rows_left(log, tiny_dataset.path) == total - 1_000
    assert import_history(log, tiny_dataset, chunk=500) == total - 1_000
    assert rows_left(log, tiny_dataset.path) == 0
    assert import_history(log, tiny_dataset) == 0
    assert log.count() == total
    record = log.user("u3")
    assert record is not None
    own = tiny_dataset.interactions.user_N == 3
    assert len(record.support) + len(record.seen) == own.sum()
    assert {"u0", "u79"} <= set(log.dirty_users())


def test_a_history_does_not_bring_a_deleted_user_back(log: InteractionLog, tiny_dataset: "Dataset") -> None:
    import_history(log, tiny_dataset, chunk=75, watch=lambda *_: False)
    assert log.delete_user("u5") == 5
    log.delete_user("u40", known=True)
    import_history(log, tiny_dataset)
    assert log.user("u5") is None
    assert log.user("u40") is None
    assert log.user("u41") is not None


def test_many_threads_record_every_event_once(log: InteractionLog) -> None:
    counts: list[int] = []

    def write(offset: int) -> None:
        for k in range(40):
            counts.append(log.append([event(f"e{(k + offset) % 50}", user=f"u{k % 3}", item=f"i{k}", time=float(k))]).recorded)
            log.user(f"u{k % 3}")

    threads = [threading.Thread(target=write, args=(10 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == log.count() == 50


def test_another_process_locking_the_file_is_unavailable(log: InteractionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(log._database.path)
    other = connect(log._database.path)
    other.execute("BEGIN IMMEDIATE")
    database._writer.execute("PRAGMA busy_timeout = 1")
    with pytest.raises(UnavailableError, match="locked"), database.transaction():
        pass
    other.execute("ROLLBACK")
    other.close()
    with database.transaction():
        pass
    database.close()


def test_a_log_of_a_later_format_is_refused(tmp_path: Path) -> None:
    connection = connect(tmp_path / "log.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(FailedPreconditionError, match="format 99"):
        InteractionLog(tmp_path / "log.db")


WRITER = """
import sys
from pathlib import Path
from metarec.interactions.log import InteractionLog
from metarec.types import Interaction
log = InteractionLog(Path(sys.argv[1]))
for k in range(1_000_000):
    ids = [(f"e{k}.{n}", f"u{k % 5}", f"i{n}-{k % 7}") for n in range(3)]
    log.append([Interaction(event_id=e, user_id=u, item_id=i, label=float(k), timestamp=float(k)) for e, u, i in ids])
    print(k, flush=True)
"""


def test_kill_9_loses_no_acknowledged_event(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    acknowledged = -1
    for line in writer.stdout:
        acknowledged = int(line)
        if acknowledged >= 150:
            break
    writer.send_signal(signal.SIGKILL)
    for line in writer.stdout:
        acknowledged = int(line) if line.endswith("\n") else acknowledged
    writer.wait()
    writer.stdout.close()
    log = InteractionLog(path)
    count = log.count()
    assert count % 3 == 0
    assert count >= 3 * (acknowledged + 1)
    for user in range(5):
        record = log.user(f"u{user}")
        assert record is not None
        ids = {entry.event_id for entry in record.support}
        last = max(k for k in range(count // 3) if k % 5 == user)
        assert {f"e{last}.{n}" for n in range(3)} <= ids
        assert record.dirty
    log.close()


def test_labels_of_further_targets_are_kept_and_the_latest_event_stands(log: InteractionLog) -> None:
    log.append([replace(event("e1", time=1.0), labels={"bought": 1.0}), event("e2", item="j", time=2.0)])
    record = log.user("u")
    assert record is not None
    assert [entry.labels for entry in record.support] == [{"bought": 1.0}, {}]
    log.append([replace(event("e3", time=3.0), labels={"stars": 4.0}), replace(event("e0", time=0.0), labels={"bought": 0.0})])
    record = log.user("u")
    assert record is not None
    assert [(entry.item_id, entry.labels) for entry in record.support] == [("j", {}), ("i", {"stars": 4.0})]
    assert [entry.labels for entry in log.page("u", 10).interactions] == [{"stars": 4.0}, {}, {"bought": 1.0}, {"bought": 0.0}]
    with pytest.raises(InvalidInputError, match="'stars' must be a finite number") as caught:
        log.append([replace(event("e4"), labels={"stars": float("nan")})])
    assert caught.value.field == "interactions[0].labels.stars"


FIRST_FORMAT = """
CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL UNIQUE, user_id TEXT NOT NULL,
  item_id TEXT NOT NULL, label REAL NOT NULL, time REAL NOT NULL, scenario TEXT NOT NULL);
CREATE TABLE support (user_id TEXT NOT NULL, item_id TEXT NOT NULL, label REAL NOT NULL, time REAL NOT NULL,
  event_id TEXT NOT NULL, scenario TEXT NOT NULL, PRIMARY KEY (user_id, item_id)) WITHOUT ROWID;
CREATE TABLE users (user_id TEXT PRIMARY KEY, revision INTEGER NOT NULL, dirty INTEGER NOT NULL, checkpoint TEXT NOT NULL,
  profile TEXT) WITHOUT ROWID;
INSERT INTO events VALUES (7, 'e1', 'u', 'i', 4.0, 10.0, 'home');
INSERT INTO support VALUES ('u', 'i', 4.0, 10.0, 'e1', 'home');
INSERT INTO users VALUES ('u', 3, 0, 'c-1', NULL);
PRAGMA user_version = 1;
"""
"""A log as metarec wrote it before interactions had further labels."""


def test_a_log_of_the_first_format_is_read_and_written_on(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "log.db")
    connection.executescript(FIRST_FORMAT)
    connection.close()
    for _ in range(2):  # the second time it is of the present format
        opened = InteractionLog(tmp_path / "log.db")
        record = opened.user("u")
        assert record is not None
        old = record.support[0]
        assert (old.item_id, old.label, old.scenario, old.labels, old.event_id) == ("i", 4.0, "home", {}, "e1")
        opened.append([replace(event("e2", item="j", time=11.0), labels={"bought": 1.0})])
        record = opened.user("u")
        assert record is not None
        assert (len(record.support), record.support[1].labels, record.dirty) == (2, {"bought": 1.0}, True)
        assert [entry.event_id for entry in opened.page("u", 5).interactions] == ["e2", "e1"]
        opened.close()


def test_a_history_brings_labels_of_further_targets(log: InteractionLog, tiny_dataset: "Dataset") -> None:
    events = tiny_dataset.interactions
    extra_NK = np.full((len(events), 2), np.nan, np.float32)
    extra_NK[1] = (1, np.nan)
    targets = (Label(column="bought", kind="binary"), Label(column="stars", kind="rating", minimum=1, maximum=5))
    several = replace(
        tiny_dataset,
        schema=replace(tiny_dataset.schema, targets=targets),
        interactions=replace(events, extra_NK=extra_NK).select(np.arange(3)),
    )
    import_history(log, several)
    found = log.page(str(tiny_dataset.user_ids[events.user_N[0]]), 10).interactions
    assert sorted((entry.event_id[-1], dict(entry.labels)) for entry in found) == [("0", {}), ("1", {"bought": 1.0}), ("2", {})]


def test_scenarios_are_counted_without_the_default_one_and_know_their_newest_users(log: InteractionLog) -> None:
    log.append(
        [
            event("a", user="ann", item="x", time=1.0, scenario="web"),
            event("b", user="bob", item="x", time=5.0, scenario="web"),
            event("c", user="ann", item="y", time=9.0, scenario="app"),
            event("d", user="eve", item="y", time=3.0),
            event("e", user="eve", item="z", time=3.0, scenario="web"),
        ]
    )
    assert log.scenarios(5) == {"web": 3, "app": 1}
    assert log.scenarios(1) == {"web": 3}
    assert log.scenario_users("web", 5) == ["bob", "eve", "ann"]
    assert log.scenario_users("web", 1) == ["bob"]
    assert log.scenario_users("", 5) == []
    # Of one item the latest interaction counts, where it took place.
    log.append([event("f", user="bob", item="x", time=6.0, scenario="app")])
    assert log.scenarios(5) == {"app": 2, "web": 2}
    log.delete_user("eve")
    assert log.scenarios(5) == {"app": 2, "web": 1}
    assert log.scenario_users("web", 5) == ["ann"]
