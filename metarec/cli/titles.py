"""Titles of items for people: from a dataset directory, and for items newer than it from the running catalogue."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metarec.errors import DataError, MetarecError, NotFoundError

if TYPE_CHECKING:
    from metarec.client import Client

data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    envvar="METAREC_DATA",
    help="Dataset directory, for the titles of items.  [env: METAREC_DATA]",
)


class Titles:
    """Titles by item id; without a dataset, or where the schema names no title, there are none."""

    def __init__(self, data: Path | None) -> None:
        """Reads the ids and titles alone, for the rest of a dataset may be large. NotFoundError when there is no dataset."""
        self._titles: dict[str, str] = {}
        self._field: str | None = None
        if data is None:
            return
        import pyarrow.parquet as pq
        from pyarrow import ArrowException

        from metarec.data.schema import Schema

        if not (data / "dataset.json").exists():
            raise NotFoundError(f"no dataset at '{data}'; make one with: metarec data import, or metarec data fetch ml-100k")
        schema = Schema.read(data / "schema.yaml")
        self._field = schema.item_title
        if self._field is not None:
            try:
                table = pq.read_table(data / "items.parquet", columns=[schema.item_id, self._field])
            except (OSError, ArrowException) as error:
                raise DataError(f"cannot be read ({error}); import the data again", file=str(data)) from error
            pairs = zip(*(table[name].to_pylist() for name in (schema.item_id, self._field)), strict=True)
            self._titles = {str(item_id): str(title) for item_id, title in pairs if title}

    @property
    def known(self) -> bool:
        """Whether a table should have a column of titles."""
        return self._field is not None

    def look_up(self, item_ids: Iterable[str], client: "Client") -> None:
        """Ask the catalogue for items that the dataset lacks: those upserted since. What it does not know stays without title."""
        if self._field is None:
            return
        for item_id in item_ids:
            if item_id and item_id not in self._titles:
                try:
                    title = client.get_item(item_id, timeout=1).features.get(self._field)
                except NotFoundError:
                    title = None
                except MetarecError:
                    # Whoever cannot answer for one item would keep us waiting for each.
                    return
                self._titles[item_id] = title if isinstance(title, str) else ""

    def column(self, item_id: str) -> dict[str, object]:
        """The title as a cell of a table row; nothing when there are no titles."""
        return {"title": self._titles.get(item_id) or None} if self.known else {}
