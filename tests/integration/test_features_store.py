"""The feature store against real Feast: SQLite always, Redis where a redis-server is installed."""

import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from redis import Redis

from metarec.cli.checks_data import check_features
from metarec.cli.main import cli
from metarec.data.dataset import Dataset, Graph
from metarec.data.interactions import Interactions
from metarec.data.schema import Field, Label, Schema
from metarec.errors import ConfigError, FailedPreconditionError, InvalidInputError, NotFoundError, UnavailableError
from metarec.features.manifest import StoreManifest, shown, store_name
from metarec.features.records import OnlineUser
from metarec.features.sources import Stats
from metarec.features.store import FeatureStore
from metarec.types import Item, User
from services.runtime.features import LazyStore

SCHEMA = Schema(
    user_id="uid",
    item_id="iid",
    label=Label(column="rating", kind="rating", minimum=1.0, maximum=5.0),
    timestamp="time",
    scenario=None,
    users=(Field(name="gender", kind="categorical"), Field(name="age", kind="numeric")),
    items=(
        Field(name="title", kind="text"),
        Field(name="year", kind="numeric"),
        Field(name="genres", kind="multi_categorical", separator="|"),
        Field(name="look", kind="vector", columns=("look_1", "look_2", "look_3")),
    ),
    item_title="title",
    graph=True,
)
END = 2_000.0
NUM_USERS, NUM_ITEMS = 12, 20


def make_dataset(fingerprint: str = "f1", extra: tuple[tuple[int, int, float, float], ...] = ()) -> Dataset:
    """12 users and 20 items with missing values of every kind; `extra` events are (user, item, label, time)."""
    rng = np.random.default_rng(3)
    events = [(u, i, float(rng.integers(1, 6)), float(t)) for t, (u, i) in enumerate(rng.integers(0, (8, 16), (150, 2)))]
    events += list(extra)
    user, item, label, time = zip(*events, strict=True)
    return Dataset(
        path=Path("unused"),
        schema=SCHEMA,
        user_ids=np.array([f"u{k}" for k in range(NUM_USERS)], dtype=object),
        item_ids=np.array([f"i{k}" for k in range(NUM_ITEMS)], dtype=object),
        users=pd.DataFrame(
            {
                "gender": ["F" if k % 2 else None for k in range(NUM_USERS)],
                "age": [np.nan if k % 3 == 0 else 20.0 + k for k in range(NUM_USERS)],
            }
        ),
        items=pd.DataFrame(
            {
                "title": [f"Title {k}" for k in range(NUM_ITEMS)],
                "year": [np.nan if k % 5 == 0 else 1950.5 + k for k in range(NUM_ITEMS)],
                "genres": pd.Series([None if k % 4 == 0 else ("a", "b")[: 1 + k % 2] for k in range(NUM_ITEMS)], dtype=object),
                "look": pd.Series(
                    [None if k % 3 == 0 else np.array([0.1, k, -k], np.float32) for k in range(NUM_ITEMS)], dtype=object
                ),
            }
        ),
        interactions=Interactions(
            user_N=np.array(user, np.int32),
            item_N=np.array(item, np.int32),
            label_N=np.array(label, np.float32),
            timestamp_N=np.array(time, np.float64),
            scenario_N=np.zeros(len(events), np.int16),
            scenarios=(),
        ),
        graph=Graph(
            head_N=np.array(["e1", "e1"]), relation_N=np.array(["by", "of"]), tail_N=np.array(["d", "s"]), links={"i1": "e1"}
        ),
        fingerprint=fingerprint,
    )


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("REDIS NOT TESTED: no redis-server on this machine; run `apt-get install redis-server`")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path_factory.mktemp("redis"))],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "Ready to accept connections" in line:
            break
    yield f"redis://127.0.0.1:{port}/0"
    process.terminate()
    process.communicate()


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def online(request: pytest.FixtureRequest) -> str:
    return "sqlite" if request.param == "sqlite" else request.getfixturevalue("redis_url")


@pytest.fixture(scope="module")
def store(online: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    opened = FeatureStore.build(make_dataset(), tmp_path_factory.mktemp("store") / "features", online)
    opened.materialize(END)
    yield opened
    opened.close()


def _plain(value: object) -> object:
    return tuple(map(float, value)) if isinstance(value, np.ndarray) else value


def _stats(row: pd.Series) -> Stats:
    return Stats(count=row["metarec_count"], mean_label=row["metarec_mean_label"], last_timestamp=row["metarec_last_timestamp"])


def test_training_and_serving_retrieve_equal_users(store: FeatureStore):
    ids = [f"u{k}" for k in range(NUM_USERS)]
    users, _ = store.training_frames(ids, [], END)
    for _, row in users.iterrows():
        served = store.read_user(row["uid"])
        assert served is not None
        assert dict(served.features or {}) == {name: _plain(row[name]) for name in ("gender", "age")}
        assert served.stats == _stats(row)


def test_training_and_serving_retrieve_equal_items(store: FeatureStore):
    ids = [f"i{k}" for k in range(NUM_ITEMS)]
    _, items = store.training_frames([], ids, END)
    served, stats = store.read_items(ids), store.read_item_stats(ids)
    for _, row in items.iterrows():
        names = ("title", "year", "genres", "look", "graph")
        assert dict(served[row["iid"]].features) == {name: _plain(row[name]) for name in names}
        assert stats[row["iid"]] == _stats(row)


def test_the_fast_reads_equal_get_online_features_of_the_feature_services(store: FeatureStore):
    feast = store._feast
    user = feast.get_online_features(
        feast.get_feature_service("serving_user_v1"), [{"metarec_user": "u4"}], full_feature_names=True
    )
    item = feast.get_online_features(
        feast.get_feature_service("serving_item_v1"), [{"metarec_item": "i7"}], full_feature_names=True
    )
    wanted = {**user.to_dict(), **item.to_dict()}
    served = store.read_user("u4")
    assert served is not None
    assert served.stats is not None
    assert served.features is not None
    assert wanted["user_profile__age"] == [served.features["age"]]
    assert wanted["user_stats__count"] == [served.stats.count]
    assert wanted["user_stats__mean_label"] == [served.stats.mean_label]
    assert wanted["item_content__look"] == [list(store.read_items(["i7"])["i7"].features["look"])]
    assert wanted["item_stats__count"] == [store.read_item_stats(["i7"])["i7"].count]


def test_frames_keep_the_order_of_the_ids_and_leave_unknown_ones_empty(store: FeatureStore):
    users, items = store.training_frames(["u5", "nobody", "u1", "u5"], ["i3"], END)
    assert users["uid"].tolist() == ["u5", "nobody", "u1", "u5"]
    assert users["gender"].tolist() == ["F", None, "F", "F"]
    assert users["metarec_count"].tolist()[1] is None
    assert items["title"].tolist() == ["Title 3"]


def test_fast_weights_written_are_read_back_and_leave_the_profile_alone(store: FeatureStore):
    blob = bytes(range(256)) * 8
    store.write_user_adaptation("u2", b"older", 1, "c-0", 1)
    store.write_user_adaptation("u2", blob, 5, "c-1", 2)
    user = store.read_user("u2")
    assert user is not None
    assert (user.adaptation, user.shots, user.checkpoint, user.revision) == (blob, 5, "c-1", 2)
    assert user.features == {"gender": None, "age": 22.0}


def test_a_new_user_and_a_new_item_are_readable_at_once(store: FeatureStore):
    store.write_user_profile([User(user_id="new", features={"age": 33})])
    store.write_items([Item(item_id="new", features={"title": "New", "look": (1, 2, 3)}, revision=4)])
    assert store.read_user("new") == OnlineUser(features={"gender": None, "age": 33.0})
    (item,) = store.read_items(["missing", "new"]).values()
    assert (item.item_id, item.revision, item.features["look"], item.features["genres"]) == ("new", 4, (1.0, 2.0, 3.0), None)


def test_an_unknown_user_is_none(store: FeatureStore):
    assert store.read_user("nobody") is None


def test_a_wrong_feature_is_refused_and_nothing_is_written(store: FeatureStore):
    users = [User(user_id="good", features={"age": 1.0}), User(user_id="bad", features={"age": "old"})]
    with pytest.raises(InvalidInputError, match="'age'"):
        store.write_user_profile(users)
    with pytest.raises(InvalidInputError, match="'height'"):
        store.write_user_profile([User(user_id="bad", features={"height": 1.0})])
    assert store.read_user("good") is None


def test_a_deleted_user_is_gone_online_and_offline(store: FeatureStore):
    store.write_user_adaptation("u9", b"secret", 1, "c-1", 1)
    store.delete_user("u9")
    assert store.read_user("u9") is None
    users, _ = store.training_frames(["u9", "u10"], [], END)
    assert users["metarec_count"].tolist() == [None, 0]
    store.materialize(END, restart=True)
    assert store.read_user("u9") is None


def test_another_process_reads_what_this_one_wrote_while_both_write(store: FeatureStore, online: str):
    """Two writers and a reader on one online store: no lock error, no lost row."""
    script = f"""
from pathlib import Path
from metarec.features.store import FeatureStore
store = FeatureStore.open(Path({str(store.path)!r}), {online!r})
print("ready", flush=True)
for k in range(200):
    store.write_user_adaptation(f"theirs-{{k}}", bytes([k]), k, "c", k)
assert store.read_user("mine-199").revision == 199 if input() == "check" else False
store.close()
"""
    arguments = [sys.executable, "-W", "error::ResourceWarning", "-c", script]
    other = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    for k in range(200):
        store.write_user_adaptation(f"mine-{k}", bytes([k]), k, "c", k)
    _, errors = other.communicate("check\n")
    assert other.returncode == 0, errors
    found = [store.read_user(f"theirs-{k}") for k in range(200)]
    assert [user.revision for user in found if user is not None] == list(range(200))


def test_a_later_event_never_reaches_the_statistics_of_an_earlier_cut(tmp_path: Path):
    cut = 100.0
    planted = ((0, 0, 5.0, cut + 1), (11, 19, 5.0, cut + 1), (11, 19, 5.0, cut + 500))
    with_leak = FeatureStore.build(make_dataset("leak", planted), tmp_path / "a")
    clean = FeatureStore.build(make_dataset("clean"), tmp_path / "b")
    users, items = [f"u{k}" for k in range(NUM_USERS)], [f"i{k}" for k in range(NUM_ITEMS)]
    for one, other in zip(with_leak.training_frames(users, items, cut), clean.training_frames(users, items, cut), strict=True):
        columns = [name for name in one.columns if name != "look"]
        pd.testing.assert_frame_equal(one[columns], other[columns])
    late, _ = with_leak.training_frames(["u11"], [], cut + 1)
    assert late["metarec_count"].tolist() == [1]
    with_leak.close()
    clean.close()


def test_building_again_changes_nothing_and_another_dataset_replaces_it(tmp_path: Path):
    first = FeatureStore.build(make_dataset("one"), tmp_path)
    first.materialize(END)
    first.write_user_adaptation("u1", b"kept", 1, "c", 1)
    before = (tmp_path / "offline" / "user_stats.parquet").stat().st_mtime_ns
    first.close()
    again = FeatureStore.build(make_dataset("one"), tmp_path)
    assert (tmp_path / "offline" / "user_stats.parquet").stat().st_mtime_ns == before
    again.close()
    other = FeatureStore.build(make_dataset("two", ((9, 9, 5.0, 900.0),)), tmp_path)
    other.materialize(END)
    user = other.read_user("u9")
    assert user is not None
    assert user.stats == Stats(count=1, mean_label=5.0, last_timestamp=900.0)
    kept = other.read_user("u1")
    assert kept is not None
    assert kept.adaptation == b"kept"
    other.close()


def test_materializing_in_steps_follows_time(tmp_path: Path):
    store = FeatureStore.build(make_dataset("steps", ((11, 0, 4.0, 300.0), (11, 1, 2.0, 400.0))), tmp_path)
    seen = []
    for end in (200.0, 350.0, 500.0):
        store.materialize(end)
        user = store.read_user("u11")
        assert user is not None
        assert user.stats is not None
        seen.append((user.stats.count, user.stats.mean_label))
    assert seen == [(0, None), (1, 4.0), (2, 3.0)]
    store.close()


def test_a_moved_store_still_works(tmp_path: Path):
    FeatureStore.build(make_dataset("moved"), tmp_path / "here").close()
    (tmp_path / "here").rename(tmp_path / "there")
    moved = FeatureStore.open(tmp_path / "there")
    moved.materialize(END)
    assert moved.read_user("u1") is not None
    assert moved.training_frames(["u1"], [], END)[0]["gender"].tolist() == ["F"]
    moved.close()


def test_opening_nothing_and_naming_no_online_store_are_refused(tmp_path: Path):
    with pytest.raises(NotFoundError, match="metarec features build"):
        FeatureStore.open(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="mysql"):
        FeatureStore.build(make_dataset(), tmp_path / "x", "mysql://h")


def test_an_online_store_that_lost_what_was_loaded_is_known_by_that(redis_url: str, tmp_path: Path):
    other = f"{redis_url[:-1]}1"  # a database of its own
    store = FeatureStore.build(make_dataset(), tmp_path / "features", other)
    assert not store.emptied()  # nothing was loaded
    store.materialize(END)
    assert not store.emptied()
    with Redis.from_url(other) as client:
        client.flushdb()
    assert store.emptied()
    (found,) = check_features(tmp_path / "features", other)
    assert found.status == "warn"
    assert found.advice == f"metarec features materialize --store {tmp_path / 'features'} --online {other} --restart"
    store.close()
    lazy = LazyStore(tmp_path / "features", other)
    assert lazy.materialize()
    assert lazy.read_items(["i0"])
    assert not lazy.materialize()
    shutil.rmtree(tmp_path / "features" / "offline")
    assert not lazy.materialize()  # without the files nothing can be said, nor loaded
    lazy.close()


def test_while_views_are_loaded_others_have_their_turn(online: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("metarec.features.declarations.LOAD_ROWS", 4)
    store = FeatureStore.build(make_dataset(), tmp_path / "features", f"{online[:-1]}3" if online != "sqlite" else online)
    engine = store._feast._get_provider().batch_engine
    materialize, sizes, answered = engine.materialize, [], []
    write = store._rows._store.online_write_batch

    def writing(*args: object, data: list[object], **more: object) -> None:
        sizes.append(len(data))
        write(*args, data=data, **more)

    def materializing(*args: object, **more: object) -> object:
        found = materialize(*args, **more)
        reader = threading.Thread(target=lambda: answered.append(store.read_user("u4")), daemon=True)
        reader.start()
        reader.join(20)
        return found

    monkeypatch.setattr(engine, "materialize", materializing)
    monkeypatch.setattr(store._rows._store, "online_write_batch", writing)
    store.materialize(END)
    assert max(sizes) == 4
    assert sum(sizes) > NUM_USERS + NUM_ITEMS
    assert len(answered) == 4
    assert answered[-1] is not None
    assert answered[-1].stats is not None
    store.close()


def test_what_is_written_or_deleted_while_views_are_loaded_stays(online: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("metarec.features.declarations.LOAD_ROWS", 4)
    store = FeatureStore.build(make_dataset(), tmp_path / "features", f"{online[:-1]}4" if online != "sqlite" else online)
    write, begun = store._rows._store.online_write_batch, set()

    def writing(config: object, table: SimpleNamespace, data: list[object], progress: object) -> None:
        """Feast has read the whole view when the first rows of it come."""
        if table.name not in begun:
            begun.add(table.name)
            for age in (80.0, 81.0) if table.name == "user_profile" else ():
                store.write_user_profile([User(user_id="u1", features={"age": age})], revision=2)
            store.delete_user("u2" if table.name == "user_profile" else "u3")
        write(config, table, data, progress)

    monkeypatch.setattr(store._rows._store, "online_write_batch", writing)
    store.materialize(END)
    monkeypatch.undo()
    written = store.read_user("u1")
    assert written is not None
    assert written.features == {"gender": None, "age": 81.0}
    assert (store.read_user("u2"), store.read_user("u3")) == (None, None)
    store.close()


@pytest.mark.parametrize("password", ["0123", "p@ss/word%", 'quo"te'])
def test_a_password_of_redis_may_be_of_any_characters(redis_url: str, tmp_path: Path, password: str):
    with Redis.from_url(redis_url) as client:
        client.acl_setuser("reader", enabled=True, reset=True, passwords=[f"+{password}"], keys=["*"], commands=["+@all"])
    online = redis_url.replace("://", f"://reader:{quote(password, safe='')}@")
    store = FeatureStore.build(make_dataset(), tmp_path / "features", online)
    store.write_user_adaptation("somebody", b"state", 1, "c-1", 1)
    found = store.read_user("somebody")
    assert found is not None
    assert found.adaptation == b"state"
    store.close()
    assert "reader" not in (tmp_path / "features" / "store.json").read_text()


def test_advice_about_a_redis_with_a_password_works_and_does_not_tell_it(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with Redis.from_url(redis_url) as client:
        client.acl_setuser("advised", enabled=True, reset=True, passwords=["+s3cret"], keys=["*"], commands=["+@all"])
    place = f"{redis_url[:-1]}2"
    online, wrong = (place.replace("://", f"://advised:{password}@") for password in ("s3cret", "gu3ss"))
    path = tmp_path / "features"
    store = FeatureStore.build(make_dataset(), path)
    store.materialize(END)
    store.close()
    (found,) = check_features(path, online)
    assert (found.status, found.detail) == ("warn", f"'{path}' opens, but nothing is loaded into '{place}', only into sqlite")
    advice = f"metarec features materialize --store {path} --online {place.replace('://', '://advised:PASSWORD@')}"
    assert found.advice == advice
    runner = CliRunner()
    result = runner.invoke(cli, shlex.split(advice.replace("PASSWORD", "gu3ss"))[1:])
    assert isinstance(result.exception, UnavailableError)
    assert f"'{place}' cannot be used: AuthenticationError: " in result.exception.message
    assert "METAREC_ONLINE_STORE=redis://USER:PASSWORD@HOST:PORT/DB" in result.exception.message
    monkeypatch.setenv("METAREC_ONLINE_STORE", online)
    (found,) = check_features(path, online)
    assert found.advice == f"metarec features materialize --store {path}"  # it takes the address from where doctor took it
    result = runner.invoke(cli, shlex.split(found.advice)[1:], catch_exceptions=False)
    assert result.exit_code == 0
    assert [found.status for found in check_features(path, online)] == ["ok"]
    (found,) = check_features(path, wrong)
    assert found.status == "fail"
    assert "AuthenticationError" in found.detail
    assert "USER:PASSWORD" in found.advice
    assert "gu3ss" not in found.detail + found.advice


def test_a_command_says_that_an_online_store_is_away(tmp_path: Path):
    FeatureStore.build(make_dataset(), tmp_path / "features").close()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        away = f"redis://:s3cret@127.0.0.1:{probe.getsockname()[1]}/0"
    for command in (["materialize"], ["get", "--user", "u0"]):
        result = CliRunner().invoke(cli, ["features", *command, "--store", str(tmp_path / "features"), "--online", away])
        assert isinstance(result.exception, UnavailableError)
        assert "see that Redis runs there" in result.exception.message
        assert "s3cret" not in result.output + result.exception.message


@pytest.mark.parametrize(
    ("address", "printed"),
    [
        ("redis://:a/b@h:1/0", "redis://:PASSWORD@h:1/0"),
        ("rediss://me:a@b@h/0", "rediss://me:PASSWORD@h/0"),
        ("redis//:a@h", "...@h"),
        ("redis://me:a://b@h:1/0", "redis://me:PASSWORD@h:1/0"),
        ("redis://h:1/0", "redis://h:1/0"),
        ("sqlite", "sqlite"),
    ],
)
def test_no_address_is_printed_with_its_password(address: str, printed: str):
    assert shown(address) == printed


@pytest.mark.parametrize("password", ["s3cret/12", "12/s3cret", "s3cret?a", "12#s3cret", "12?s3cret", "s3c[ret", "s3cret://b"])
def test_a_password_that_makes_an_address_no_url_is_not_told(tmp_path: Path, password: str):
    for login in (f":{password}", f"me:{password}"):
        address = f"redis://{login}@h:6379/0"
        for call in (store_name, lambda online: FeatureStore.build(make_dataset(), tmp_path / "features", online)):
            with pytest.raises(ConfigError, match=r"PASSWORD@h:6379/0' is no URL of Redis.*%2F") as refused:
                call(address)
            assert "s3c" not in refused.value.message
            assert "12" not in refused.value.message
        (found,) = check_features(tmp_path / "features", address)
        assert found.detail.endswith("PASSWORD@h:6379/0' is no URL of Redis, 'redis://:PASSWORD@HOST:PORT/DB'")
        assert found.advice == "in a password, / ? # [ ] are written %2F %3F %23 %5B %5D"  # nothing is to be built


def test_a_password_with_a_comma_is_refused_with_the_reason(tmp_path: Path):
    with pytest.raises(ConfigError, match="password of online store 'redis://h:6379/0' has a comma"):
        FeatureStore.build(make_dataset(), tmp_path / "features", "redis://:a%2Cb@h/0")


def test_a_directory_built_anew_is_neither_taken_for_lost_nor_written_over_by_who_opened_it_before(tmp_path: Path):
    path = tmp_path / "features"
    store = FeatureStore.build(make_dataset(), path)
    store.materialize(END)
    other = make_dataset("f2")
    other = replace(other, item_ids=np.array([f"other-{k}" for k in range(NUM_ITEMS)], dtype=object))
    FeatureStore.build(other, path).close()
    assert not store.emptied()
    with pytest.raises(FailedPreconditionError, match="built anew"):
        store.materialize(END)
    assert StoreManifest.read(path).fingerprint == "f2"
    store.close()


@pytest.mark.parametrize("address", ["redis://h:abc/0", "redis://[h/0"])
def test_an_address_of_an_online_store_that_is_no_url_is_refused(address: str):
    with pytest.raises(ConfigError, match="no URL of Redis"):
        store_name(address)
