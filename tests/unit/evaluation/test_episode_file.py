"""Episode files: what is read, in which order, and how bad files are refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metarec.data.schema import Label, Schema
from metarec.errors import DataError
from metarec.evaluation.entities import Entities
from metarec.evaluation.episode_file import EpisodeRows, read_episodes
from metarec.tasks.tables import entity_table

SCHEMA = Schema(user_id="who", item_id="what", label=Label(column="stars", kind="rating", minimum=1, maximum=5))
ROWS = [
    (7, 30, 4, "query", 0),
    (7, 10, 5, "support", 0),
    (8, 10, 2, "support", 0),
    (7, 20, 1, "support", 0),
    (8, 30, 3, "query", 0),
    (7, 10, 2, "query", 1),
]


def frame() -> pd.DataFrame:
    return pd.DataFrame(ROWS, columns=["who", "what", "stars", "role", "seed"])


def written(data: pd.DataFrame, directory: Path, kind: str = "parquet") -> Path:
    path = directory / f"episodes.{kind}"
    if kind == "csv":
        data.to_csv(path, index=False)
    else:
        data.to_parquet(path)
    return path


def resolved(rows: EpisodeRows) -> tuple[Entities, "object"]:
    users, items = tuple(dict.fromkeys(rows.user_T)), np.array(sorted(set(rows.item_N)), object)
    table = {
        name: entity_table(np.zeros((n, 0), np.float32), (), np.zeros(n, bool))
        for name, n in (("u", len(users)), ("i", len(items)))
    }
    entities = Entities(users=table["u"], items=table["i"], user_ids=users, item_ids=items, item_of_row=np.arange(len(items)))
    return entities, rows.resolve(entities)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_rows_of_one_user_and_seed_are_an_episode_with_its_support_in_file_order(tmp_path: Path, kind: str) -> None:
    entities, episodes = resolved(read_episodes(written(frame(), tmp_path, kind), SCHEMA))
    tasks = episodes.tasks
    assert list(zip(episodes.name_T, episodes.seed_T, strict=True)) == [("7", "0"), ("8", "0"), ("7", "1")]
    assert entities.item_ids[tasks.support_item_S].tolist() == ["10", "20", "10"]
    assert tasks.support_label_S.tolist() == [5, 1, 2]
    assert tasks.support_start_T1.tolist() == [0, 2, 3, 3]
    assert tasks.query_label_Q.tolist() == [4, 3, 2]
    assert episodes.first_shots(1).tasks.support_label_S.tolist() == [5, 2]
    assert set(episodes.protocol_T) == {"episodes"}


def test_where_items_are_the_tasks_rows_group_by_item_and_are_users(tmp_path: Path) -> None:
    data = frame().drop(columns="seed").assign(role=["query", "support", "support", "query", "query", "query"])
    rows = read_episodes(written(data, tmp_path), SCHEMA, "item")
    assert (rows.kind, rows.name_T.tolist(), rows.user_T.tolist()) == ("item", ["30", "10", "20"], ["30", "10", "20"])
    assert rows.item_N.tolist() == ["7", "7", "8", "7", "8", "7"]
    assert any("a user of their own support set" in note for note in rows.notes)
    lonely = data.assign(role=["query", "support", "support", "support", "query", "support"])
    with pytest.raises(DataError, match="the episode of item '10' that begins here has no query row"):
        read_episodes(written(lonely, tmp_path), SCHEMA, "item")


def test_episode_ids_split_the_rows_of_a_user_and_the_rest_falls_back_to_the_user(tmp_path: Path) -> None:
    data = frame().drop(columns="seed").assign(protocol="p", episode_id=["a", "a", None, "b", None, "b"])
    rows = read_episodes(written(data, tmp_path), SCHEMA)
    assert rows.name_T.tolist() == ["a", "8", "b"]
    assert rows.protocol_T.tolist() == ["p"] * 3


def test_the_order_of_query_rows_does_not_depend_on_the_file(tmp_path: Path) -> None:
    data = pd.DataFrame({"who": 1, "what": range(30), "stars": 3, "role": "query"})
    orders = []
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        entities, episodes = resolved(
            read_episodes(written(data.sample(frac=1, random_state=seed), tmp_path / str(seed)), SCHEMA)
        )
        orders.append(entities.item_ids[episodes.tasks.query_item_Q].tolist())
    assert orders[0] == orders[1] != sorted(orders[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.drop(columns="role"), "column 'role': there is no such column, but episodes need it"),
        (lambda d: d.drop(columns="stars"), "column 'stars': there is no such column"),
        (lambda d: d.replace({"role": {"support": "train"}}), "column 'role', row 2: is 'train', must be 'support' or 'query'"),
        (lambda d: d.assign(stars=[4, 5, 9, 1, 3, 2]), r"column 'stars', row 3: label is above the schema's maximum 5: '9'"),
        (lambda d: d.assign(stars=[4, 5, 2, 1, None, 2]), "column 'stars', row 5: label is missing"),
        (lambda d: d.assign(who=[7, None, 8, 7, 8, 7]), "column 'who', row 2: id is missing"),
        (lambda d: d[d.role == "support"], "column 'role', row 1: the episode of user '7' that begins here has no query row"),
        (lambda d: d.assign(episode_id="e"), "column 'who', row 3: user '8' shares an episode with '7'"),
        (lambda d: d.assign(timestamp=["x"] * 6), "column 'timestamp', row 2: timestamp is neither a number nor"),
        (lambda d: d[:0], "has no rows"),
    ],
)
def test_bad_files_are_refused_with_file_column_and_row(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    path = written(change(frame()), tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        read_episodes(path, SCHEMA)
    assert caught.value.file == str(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.parquet"):
        read_episodes(tmp_path / "nowhere.parquet", SCHEMA)


def test_what_is_not_used_and_what_is_odd_is_said(tmp_path: Path) -> None:
    data = frame().assign(epsiode_id="x", scenario="home")
    data.loc[1, "what"] = 30
    notes = " ".join(read_episodes(written(data, tmp_path), SCHEMA).notes)
    assert "columns not used: epsiode_id" in notes
    assert "column 'scenario' is not used" in notes
    assert "1 query rows ask for an item of their own support set" in notes


def test_times_are_read_in_any_unit_and_only_needed_for_the_support(tmp_path: Path) -> None:
    times = [None, "2001-01-01", "2001-01-02", "2001-01-03", None, None]
    rows = read_episodes(written(frame().assign(timestamp=times), tmp_path), SCHEMA)
    assert rows.time_N is not None
    assert (rows.time_N[3] - rows.time_N[1]) == pytest.approx(2 * 86400)
