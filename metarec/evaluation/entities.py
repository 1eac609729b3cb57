"""The users and items of an evaluation: those the checkpoint knows, those of the dataset's tables, and complete strangers.

Rows of known items come first, encoded and coded as the checkpoint has them; items that training has not seen get code 0, with
their content where the dataset's table has it and with everything missing where it has not. Users always come as strangers: a
learner knows their profile and their support set.

Where items are the tasks, the same tables stand in each other's place: what is called a user is an item there, of which a learner
knows the content and the support set, and the other way round.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from metarec.meta.prior import Prior
from metarec.tasks.batch import EntityTable, Tables
from metarec.tasks.tables import encode_unknown_items, encode_unknown_users
from metarec.types import TaskKind

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Entities:
    """Tables of an evaluation. `user_ids` and `item_ids` name their rows; `item_of_row` maps the dataset's items to item rows.

    For `kind` item they are those of the mirrored dataset, and `contents` are its users (the dataset's items) in their order.
    """

    users: EntityTable
    items: EntityTable
    user_ids: tuple[str, ...]
    item_ids: NDArray[np.object_]
    item_of_row: Ints
    kind: TaskKind = "user"
    contents: EntityTable | None = None

    @property
    def tables(self) -> Tables:
        """Users as tasks."""
        return Tables(tasks=self.users, rows=self.items)

    def user_rows(self, ids: Sequence[str] | NDArray[np.object_]) -> Ints:
        """Row of each user; every id must be there."""
        return _rows(self.user_ids, ids)

    def item_rows(self, ids: Sequence[str] | NDArray[np.object_]) -> Ints:
        """Row of each item; every id must be there."""
        return _rows(self.item_ids, ids)


def entities(prior: Prior, dataset: "Dataset", user_ids: Iterable[str], item_ids: Iterable[str] = ()) -> Entities:
    """Tables for these users (in order, once each) and for all items of checkpoint, dataset and `item_ids`."""
    wanted = tuple(dict.fromkeys(user_ids))
    known = pd.Index(np.asarray(prior.item_ids, object))
    of_dataset = np.asarray([str(item_id) for item_id in dataset.item_ids], object)
    row_N = known.get_indexer(of_dataset)
    new_N = np.flatnonzero(row_N < 0)
    row_N[new_N] = len(known) + np.arange(len(new_N))
    everything = np.concatenate([np.asarray(prior.item_ids, object), of_dataset[new_N]])
    strangers = list(dict.fromkeys(str(i) for i in item_ids))
    strangers = [strangers[k] for k in np.flatnonzero(pd.Index(everything).get_indexer(strangers) < 0)] if strangers else []
    items = prior.items
    if len(new_N):
        items = _append(items, encode_unknown_items(prior.encoder, dataset.items.iloc[new_N]))
    if strangers:
        items = _append(items, encode_unknown_items(prior.encoder, [{}] * len(strangers)))
    return Entities(
        users=_users(prior, dataset, wanted),
        items=items,
        user_ids=wanted,
        item_ids=np.concatenate([everything, np.asarray(strangers, object)]),
        item_of_row=row_N.astype(np.int64),
    )


def mirrored_entities(prior: Prior, dataset: "Dataset", item_ids: Iterable[str], user_ids: Iterable[str]) -> Entities:
    """Tables with these items as tasks (in order, once each) and all users of the dataset and `user_ids` as rows."""
    wanted = tuple(dict.fromkeys(item_ids))
    everyone = tuple(dict.fromkeys([*(str(user) for user in dataset.user_ids), *(str(user) for user in user_ids)]))
    plain = entities(prior, dataset, everyone, wanted)
    row_N = torch.from_numpy(plain.item_rows(wanted))
    unknown = torch.zeros(len(wanted), dtype=torch.int64)
    return Entities(
        users=replace(plain.items, code_N=unknown, dense_NP=plain.items.dense_NP[row_N]),
        items=plain.users,
        user_ids=wanted,
        item_ids=np.asarray(everyone, object),
        item_of_row=np.arange(len(dataset.user_ids), dtype=np.int64),
        kind="item",
        contents=replace(
            plain.items,
            code_N=torch.zeros(len(dataset.item_ids), dtype=torch.int64),
            dense_NP=plain.items.dense_NP[torch.from_numpy(plain.item_of_row)],
        ),
    )


def _users(prior: Prior, dataset: "Dataset", ids: Sequence[str]) -> EntityTable:
    """Profiles from the dataset's table, all missing for users that it does not have."""
    row_U = pd.Index(np.asarray([str(user) for user in dataset.user_ids], object)).get_indexer(np.asarray(ids, object))
    table = encode_unknown_users(prior.encoder, dataset.users.iloc[np.maximum(row_U, 0)])
    if (row_U < 0).any():
        stranger = encode_unknown_users(prior.encoder, [{}])
        missing_U1 = torch.from_numpy(row_U < 0)[:, None]
        table = replace(table, dense_NP=torch.where(missing_U1, stranger.dense_NP, table.dense_NP))
    return table


def _append(table: EntityTable, other: EntityTable) -> EntityTable:
    return table.append(replace(other, num_codes=table.num_codes))


def _rows(names: Sequence[str] | NDArray[np.object_], ids: Sequence[str] | NDArray[np.object_]) -> Ints:
    row_N = pd.Index(np.asarray(names, object)).get_indexer(np.asarray(ids, object))
    assert (row_N >= 0).all(), "an id is missing from the tables of the evaluation"
    return np.asarray(row_N, np.int64)
