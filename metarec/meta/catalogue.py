"""The items a process can score: those of the checkpoint plus emerging items, addressed by id.

Readers never lock: the whole state is one immutable object, replaced at once by `upsert`.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from metarec.meta.prior import Prior
from metarec.tasks.batch import EntityTable
from metarec.tasks.tables import encode_unknown_items
from metarec.types import Features, Item


@dataclass(frozen=True, kw_only=True)
class CatalogueSnapshot:
    """One consistent view: row k of `items` is `ids[k]`; rows are never removed or moved, so row numbers stay valid."""

    ids: tuple[str, ...]
    row_of: Mapping[str, int]
    items: EntityTable
    upserted: Mapping[str, Item]
    version: int

    def rows(self, ids: Iterable[str]) -> NDArray[np.int64]:
        """Row of each id, -1 for unknown ones."""
        return np.fromiter((self.row_of.get(item_id, -1) for item_id in ids), np.int64)


class Catalogue:
    """Item ids and their encoded rows for one prior; grows and changes by `upsert` (thread-safe)."""

    def __init__(self, prior: Prior) -> None:
        self.prior = prior
        self._write = threading.Lock()
        self._snapshot = CatalogueSnapshot(
            ids=prior.item_ids,
            row_of={item_id: row for row, item_id in enumerate(prior.item_ids)},
            items=prior.items,
            upserted={},
            version=0,
        )

    @property
    def snapshot(self) -> CatalogueSnapshot:
        """The current state; take it once per request when several values must agree."""
        return self._snapshot

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids by row."""
        return self._snapshot.ids

    @property
    def items(self) -> EntityTable:
        """Encoded items by row."""
        return self._snapshot.items

    @property
    def version(self) -> int:
        """Grows by one with each upsert: caches over rows are valid for one version."""
        return self._snapshot.version

    def __len__(self) -> int:
        return len(self._snapshot.ids)

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._snapshot.row_of

    def rows(self, ids: Iterable[str]) -> NDArray[np.int64]:
        """Row of each id (int64), -1 for unknown ones."""
        return self._snapshot.rows(ids)

    def features(self, item_id: str) -> Features | None:
        """Raw features of an upserted item; None for unknown items and those known from training alone."""
        item = self._snapshot.upserted.get(item_id)
        return None if item is None else item.features

    def revision(self, item_id: str) -> int | None:
        """Revision of an item, 0 for items known from training alone, None for unknown ones."""
        snapshot = self._snapshot
        item = snapshot.upserted.get(item_id)
        return item.revision if item is not None else (0 if item_id in snapshot.row_of else None)

    def upsert(self, items: Sequence[Item]) -> NDArray[np.int64]:
        """Add new items and replace the content of known ones, keeping their id code; returns their rows.

        Of several entries with one id the last wins. InvalidInputError when a feature has the wrong type; then nothing changes.
        """
        if not items:
            return np.zeros(0, np.int64)
        latest = {item.item_id: item for item in items}
        encoded = encode_unknown_items(self.prior.encoder, [item.features for item in latest.values()])
        with self._write:
            old = self._snapshot
            row_of, dense = dict(old.row_of), old.items.dense_NP.clone()
            fresh = [k for k, item_id in enumerate(latest) if item_id not in row_of]
            for k, item_id in enumerate(latest):
                if item_id in old.row_of:
                    dense[old.row_of[item_id]] = encoded.dense_NP[k]
                else:
                    row_of[item_id] = len(row_of)
            new_ids = list(latest)
            table = replace(old.items, dense_NP=dense)
            if fresh:
                table = table.append(encoded.at(torch.tensor(fresh)))
            self._snapshot = CatalogueSnapshot(
                ids=old.ids + tuple(new_ids[k] for k in fresh),
                row_of=row_of,
                items=table,
                upserted={**old.upserted, **latest},
                version=old.version + 1,
            )
            return self._snapshot.rows(item.item_id for item in items)
