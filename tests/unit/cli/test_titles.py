from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metarec.cli.titles import Titles
from metarec.data.schema import Field, Label, Schema
from metarec.errors import DataError, MetarecError, NotFoundError, UnavailableError
from metarec.types import Item


class Catalogue:
    """A client that knows item `new` and fails for others."""

    def __init__(self, error: MetarecError) -> None:
        self.error, self.asked = error, list[str]()

    def get_item(self, item_id: str, *, timeout: float) -> Item:
        self.asked.append(item_id)
        if item_id != "new":
            raise self.error
        return Item(item_id=item_id, features={"title": "Newest"})


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    label = Label(column="click", kind="binary")
    schema = Schema(user_id="u", item_id="i", label=label, items=(Field(name="title", kind="text"),), item_title="title")
    (tmp_path / "schema.yaml").write_text(schema.to_yaml())
    (tmp_path / "dataset.json").write_text("{}")
    pq.write_table(pa.table({"i": ["old"], "title": ["Oldest"]}), tmp_path / "items.parquet")
    return tmp_path


@pytest.mark.parametrize(
    ("error", "asked", "title"),
    [(NotFoundError("no such item"), ["gone", "new"], "Newest"), (UnavailableError("recall is down"), ["gone"], None)],
)
def test_items_that_the_dataset_lacks_are_asked_for_until_nobody_answers(
    dataset: Path, error: MetarecError, asked: list[str], title: str | None
) -> None:
    titles, client = Titles(dataset), Catalogue(error)
    titles.look_up(["old", "gone", "new"], client)  # type: ignore[arg-type]  # as much of a client as is needed
    assert client.asked == asked
    assert titles.column("old") == {"title": "Oldest"}
    assert titles.column("new") == {"title": title}


def test_a_damaged_table_of_items_is_named(dataset: Path) -> None:
    (dataset / "items.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="import the data again"):
        Titles(dataset)
