"""`metarec features` from build to get, on a small dataset and SQLite."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from metarec.cli.features import features
from metarec.data.dataset import Dataset
from metarec.data.interactions import Interactions
from metarec.data.schema import Field, Label, Schema
from metarec.errors import InvalidInputError, NotFoundError

DATASET = Dataset(
    path=Path("unused"),
    schema=Schema(
        user_id="user",
        item_id="item",
        label=Label(column="rating", kind="rating", minimum=1.0, maximum=5.0),
        timestamp="time",
        scenario=None,
        users=(Field(name="age", kind="numeric"),),
        items=(Field(name="genres", kind="multi_categorical"),),
        item_title=None,
        graph=False,
    ),
    user_ids=np.array(["ann", "bob"], dtype=object),
    item_ids=np.array(["x"], dtype=object),
    users=pd.DataFrame({"age": [31.0, np.nan]}),
    items=pd.DataFrame({"genres": pd.Series([("a", "b")], dtype=object)}),
    interactions=Interactions(
        user_N=np.array([0, 0], np.int32),
        item_N=np.array([0, 0], np.int32),
        label_N=np.array([2.0, 4.0], np.float32),
        timestamp_N=np.array([100.0, 200.0]),
        scenario_N=np.zeros(2, np.int16),
        scenarios=(),
    ),
    graph=None,
    fingerprint="f",
)


def _run(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(features, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_build_materialize_and_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Dataset, "open", staticmethod(lambda path: DATASET))
    store = str(tmp_path / "features")
    assert _run("build", "--data", "d", "--out", store, "--json")["users"] == 2
    with pytest.raises(NotFoundError, match="materialize"):
        _run("get", "--store", store, "--user", "ann", "--json")
    _run("materialize", "--store", store, "--end", "1970-01-01T00:02:30Z", "--json")
    assert _run("get", "--store", store, "--user", "ann", "--json") == {
        "user": "ann",
        "age": 31.0,
        "interactions": 1,
        "mean_label": 2.0,
    }
    _run("materialize", "--store", store, "--json")
    item = _run("get", "--store", store, "--item", "x", "--json")
    assert (item["genres"], item["interactions"], item["mean_label"]) == (["a", "b"], 2, 3.0)


def test_a_time_that_is_none_is_refused(tmp_path: Path):
    with pytest.raises(InvalidInputError, match="'yesterday'"):
        CliRunner().invoke(features, ["materialize", "--store", str(tmp_path), "--end", "yesterday"], catch_exceptions=False)


def test_get_wants_one_of_user_and_item(tmp_path: Path):
    result = CliRunner().invoke(features, ["get", "--store", str(tmp_path)])
    assert result.exit_code == 2
    assert "either --user or --item" in result.output


@pytest.mark.parametrize("command", ["build", "materialize", "get"])
def test_every_help_has_an_example(command: str):
    assert "Example: metarec features" in CliRunner().invoke(features, [command, "--help"]).output
