"""The feature store: one definition of user and item features for training and serving, kept by Feast.

Training reads through `get_historical_features` (point in time). The hot calls of serving (`read_user`, `write_user_adaptation`,
`read_items`) use Feast's OnlineStore interface with the views resolved once, which spares each request the registry walk of
`get_online_features`; an integration test holds the two, and the historical retrieval, equal. declarations.py imports Feast.
"""

import contextlib
import io
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from metarec.data.schema import Schema
from metarec.errors import FailedPreconditionError, InvalidInputError, NotFoundError
from metarec.features.declarations import definitions, open_feast, wire_types
from metarec.features.frame_names import frames_by_number
from metarec.features.manifest import StoreManifest, store_name
from metarec.features.online import OnlineRows
from metarec.features.records import OnlineUser, content, statistics, whole
from metarec.features.sources import BEGINNING, REVISION, Stats, first_id, remove_rows, write_sources
from metarec.features.wire import KEYS, SERVICES, Row, ViewName, raw, view_features
from metarec.types import Features, Item, User

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class FeatureStore:
    """A feature store directory, opened. Calls are thread-safe; several processes may read and write at once."""

    def __init__(self, path: Path, online: str = "sqlite", *, patience_seconds: float | None = None) -> None:
        """Use `build` or `open`."""
        self.path = path
        self._online = online
        self._manifest = StoreManifest.read(path)
        self.schema = Schema.from_dict(self._manifest.schema)
        self._kinds = view_features(self.schema)
        self._feast = open_feast(path, online, patience_seconds=patience_seconds)
        self._declare()
        new_key, new_value = wire_types()
        online_store = self._feast._get_provider().online_store
        self._rows = OnlineRows(
            store=online_store,
            config=self._feast.config,
            views={name: self._feast.get_feature_view(name) for name in KEYS},
            kinds=self._kinds,
            new_key=new_key,
            new_value=new_value,
        )
        # Feast loads views through it, in batches (LOAD_ROWS) between which others have their turn.
        online_store.online_write_batch = self._rows.in_turn(online_store.online_write_batch)

    @staticmethod
    def build(dataset: "Dataset", path: Path, online: str = "sqlite") -> "FeatureStore":
        """Write the offline sources of `dataset` under `path` and declare entities, views and services.

        Does nothing when `path` already holds this dataset (by fingerprint). Online rows are loaded by `materialize`.
        """
        path = Path(path)
        try:
            known = StoreManifest.read(path).fingerprint
        except NotFoundError:
            known = ""
        if known != dataset.fingerprint:
            write_sources(dataset, path / "offline")
            StoreManifest(schema=dataset.schema.to_dict(), fingerprint=dataset.fingerprint).write(path)
        return FeatureStore(path, online)

    @staticmethod
    def open(path: Path, online: str = "sqlite", *, patience_seconds: float | None = None) -> "FeatureStore":
        """Open a store that `build` made; NotFoundError when there is none. See `open_feast` for `patience_seconds`."""
        return FeatureStore(Path(path), online, patience_seconds=patience_seconds)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the dataset that the offline sources hold."""
        return self._manifest.fingerprint

    @property
    def loaded(self) -> bool:
        """Whether `materialize` has loaded the online store before."""
        return store_name(self._online) in self._manifest.materialized

    def emptied(self) -> bool:
        """Whether the online store has lost what `materialize` had loaded, as a Redis that keeps nothing on disk does: a row
        that was loaded is not there. Asked of statistics, which nobody else writes; False once the directory was built anew."""
        if not self.loaded or self._built_anew():
            return False
        first = first_id(self.path / "offline" / "item_stats.parquet", KEYS["item_stats"])
        return first is not None and not self.read_item_stats([first])

    def _built_anew(self) -> bool:
        """Whether the directory holds another dataset than when it was opened."""
        return StoreManifest.read(self.path).fingerprint != self.fingerprint

    def _declare(self) -> None:
        database = self.path / "online.db"
        fresh = self._online == "sqlite" and not database.exists()
        manifest = self._manifest
        if manifest.applied == manifest.fingerprint and not fresh:
            return
        with _quiet():
            self._feast.apply(definitions(self._kinds))
        loaded = dict(manifest.materialized)
        if fresh:
            loaded.pop("sqlite", None)
            # In this mode readers and a writer in several processes do not block each other; the file remembers it.
            with contextlib.closing(sqlite3.connect(database)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
        self._manifest = replace(manifest, applied=manifest.fingerprint, materialized=loaded)
        self._manifest.write(self.path)

    def training_frames(
        self, user_ids: Sequence[str], item_ids: Sequence[str], as_of: float | None = None
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Users and items as known at `as_of` (seconds, now by default): no later event is in the statistics.

        Rows are in the order of the ids. Columns: the id as the schema names it, the schema's fields (raw values, None where
        missing), the statistics as `metarec_count`, `metarec_mean_label`, `metarec_last_timestamp`, and `graph` for items.
        """
        # Feast drops rows that repeat any one key at the same time (after joining that key's views, before the others'), so every
        # id appears once, and the shorter side is filled up with ids that nobody has.
        users, items = list(dict.fromkeys(map(str, user_ids))), list(dict.fromkeys(map(str, item_ids)))
        size = max(len(users), len(items))
        table = pd.DataFrame(
            {
                KEYS["user_profile"]: users + [f"metarec-none-{k}" for k in range(len(users), size)],
                KEYS["item_content"]: items + [f"metarec-none-{k}" for k in range(len(items), size)],
                "event_timestamp": pd.Series([_moment(time.time() if as_of is None else as_of)] * size),
            }
        )
        if size:
            with _quiet(), frames_by_number():
                service = self._feast.get_feature_service("training_v1")
                table = self._feast.get_historical_features(table, service, full_feature_names=True).to_df()
        return (
            self._frame(table, user_ids, self.schema.user_id, "user_profile", "user_stats"),
            self._frame(table, item_ids, self.schema.item_id, "item_content", "item_stats"),
        )

    def _frame(self, table: pd.DataFrame, ids: Sequence[str], key: str, content: ViewName, stats: ViewName) -> pd.DataFrame:
        row_of = {str(entity_id): row for row, entity_id in enumerate(table[KEYS[content]])}
        rows = [row_of[str(entity_id)] for entity_id in ids]
        columns: dict[str, list[object]] = {key: list(map(str, ids))}
        for view, prefix in ((content, ""), (stats, "metarec_")):
            for name, kind in self._kinds[view].items():
                if name != REVISION:
                    values = table[f"{view}__{name}"].tolist() if rows else []
                    columns[prefix + name] = [raw(kind, values[row], name) for row in rows]
        return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})

    def materialize(
        self,
        end: float | None = None,
        *,
        restart: bool = False,
        progress: Callable[[float, float | None, str], None] | None = None,
    ) -> None:
        """Load the online store with what was known at `end` (seconds; now by default). Others read and write meanwhile,
        and what they write through this object stays.

        Continues from the last call; `restart` loads everything again, which undoes profiles and contents written since.
        FailedPreconditionError when the directory was built anew since it was opened: its files have other fields.
        """
        if self._built_anew():
            raise FailedPreconditionError(f"feature store '{self.path}' was built anew since it was opened; open it again")
        name = store_name(self._online)
        done = None if restart else self._manifest.materialized.get(name)
        until = time.time() if end is None else end
        # Profiles and contents hold from the beginning on, so only the first call has any to load.
        views: Sequence[ViewName] = SERVICES["training_v1"] if done is None else ("user_stats", "item_stats")
        if done is not None and until <= done:
            views = ()
        start = BEGINNING - timedelta(days=1) if done is None else _moment(done)
        with self._rows.loading():
            for step, view in enumerate(views):
                if progress is not None:
                    progress(step, len(views), view)
                with _quiet(), frames_by_number():
                    self._feast.materialize(start, _moment(until), feature_views=[view])
        if progress is not None:
            progress(len(views), len(views), "")
        reached = until if done is None else max(done, until)
        self._manifest = replace(self._manifest, materialized={**self._manifest.materialized, name: reached})
        self._manifest.write(self.path)

    def read_user(self, user_id: str) -> OnlineUser | None:
        """The user's profile, statistics and fast weights; None when the store knows nothing of them."""
        (profile,), (stats,), (adapted,) = (self._rows.read(view, [user_id]) for view in SERVICES["serving_user_v1"])
        return OnlineUser.of(profile, stats, adapted)

    def write_user_profile(self, users: Iterable[User], revision: int = 1) -> None:
        """Replace the profiles of `users`; InvalidInputError names a field of the wrong type, and then nothing is written."""
        rows = {user.user_id: self._content_row("user_profile", user.features, revision) for user in users}
        self._rows.write("user_profile", rows)

    def write_user_adaptation(self, user_id: str, blob: bytes, shots: int, checkpoint: str, revision: int) -> None:
        """Replace the user's fast weights; visible to every process when this returns."""
        row: Row = {"state": blob, "shots": shots, "checkpoint": checkpoint, "revision": revision}
        self._rows.write("user_adaptation", {user_id: row})

    def delete_user(self, user_id: str) -> None:
        """Forget a user: blank their online rows and remove their offline ones.

        Feast's online stores cannot delete the rows of one entity, so those stay as nulls under the user's key.
        """
        for view in SERVICES["serving_user_v1"]:
            self._rows.write(view, {user_id: {}})
            remove_rows(self.path / "offline" / f"{view}.parquet", KEYS[view], user_id)

    def read_items(self, item_ids: Sequence[str]) -> dict[str, Item]:
        """The items that the store knows, by id; their features are the schema's fields and `graph`."""
        return {
            item_id: Item(item_id=item_id, features=features, revision=whole(row[REVISION]))
            for item_id, row in zip(item_ids, self._rows.read("item_content", item_ids), strict=True)
            if (features := content(row)) is not None
        }

    def read_item_stats(self, item_ids: Sequence[str]) -> dict[str, Stats]:
        """Statistics of the items that have any, by id."""
        rows = zip(item_ids, self._rows.read("item_stats", item_ids), strict=True)
        return {item_id: stats for item_id, row in rows if (stats := statistics(row)) is not None}

    def write_items(self, items: Iterable[Item]) -> None:
        """Replace the content of `items`; InvalidInputError names a field of the wrong type, and then nothing is written."""
        rows = {item.item_id: self._content_row("item_content", item.features, item.revision) for item in items}
        self._rows.write("item_content", rows)

    def _content_row(self, view: ViewName, features: Features, revision: int) -> Row:
        kinds = {name: kind for name, kind in self._kinds[view].items() if name != REVISION}
        for name in features:
            if name not in kinds:
                raise InvalidInputError(f"unknown feature '{name}'; the schema has {', '.join(sorted(kinds))}", field=name)
        return {REVISION: revision, **{name: raw(kind, features.get(name), name) for name, kind in kinds.items()}}

    def close(self) -> None:
        """Let go of the online store's connection."""
        connection = getattr(self._feast._get_provider().online_store, "_conn", None)
        if connection is not None:
            with self._rows.lock:
                connection.close()


def _moment(seconds: float) -> datetime:
    return EPOCH + timedelta(microseconds=round(seconds * 1e6))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Feast prints, progress bars included, out of our output."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
