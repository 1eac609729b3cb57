"""Entity tables from a dataset: encoded content plus the code of an id embedding for entities that training knows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from metarec.tasks.batch import EntityTable, Tables
from metarec.types import Features, TaskKind

if TYPE_CHECKING:
    import pandas as pd

    from metarec.data.dataset import Dataset
    from metarec.features.encoder import FeatureEncoder

Mask = NDArray[np.bool_]


def build_tables(
    dataset: "Dataset",
    encoder: "FeatureEncoder",
    known_items_mask: Mask | None = None,
    known_users_mask: Mask | None = None,
    kind: TaskKind = "user",
) -> Tables:
    """Tables of all users and items of `dataset`, in the order of `user_ids` and `item_ids`.

    The masks (length U and I) say which entities get an id code; by default those with an interaction in `dataset`.
    """
    seen = dataset.interactions
    users = entity_table(
        encoder.encode_users(dataset.users),
        encoder.user_blocks,
        _seen(seen.user_N, len(dataset.user_ids)) if known_users_mask is None else known_users_mask,
    )
    items = entity_table(
        encoder.encode_items(dataset.items),
        encoder.item_blocks,
        _seen(seen.item_N, len(dataset.item_ids)) if known_items_mask is None else known_items_mask,
    )
    return Tables(tasks=users, rows=items) if kind == "user" else Tables(tasks=items, rows=users)


def entity_table(dense_NP: NDArray[np.float32], blocks: tuple[tuple[str, int, int], ...], known_N: Mask) -> EntityTable:
    """A table of encoded entities; those of `known_N` get codes 1..num_codes in order, the others 0."""
    known = np.asarray(known_N, bool)
    code_N = np.where(known, np.cumsum(known), 0).astype(np.int64)
    return EntityTable(
        code_N=torch.from_numpy(code_N),
        dense_NP=torch.from_numpy(np.ascontiguousarray(dense_NP, np.float32)),
        blocks=tuple(blocks),
        num_codes=int(known.sum()),
    )


def encode_unknown_users(encoder: "FeatureEncoder", users: "Sequence[Features] | pd.DataFrame") -> EntityTable:
    """A table of users that training has not seen (code 0), for adaptation at serving time."""
    dense = encoder.encode_users(users)
    return entity_table(dense, encoder.user_blocks, np.zeros(len(dense), bool))


def encode_unknown_items(encoder: "FeatureEncoder", items: "Sequence[Features] | pd.DataFrame") -> EntityTable:
    """A table of items that training has not seen (code 0): emerging items."""
    dense = encoder.encode_items(items)
    return entity_table(dense, encoder.item_blocks, np.zeros(len(dense), bool))


def _seen(index_N: NDArray[np.int32], size: int) -> Mask:
    mask = np.zeros(size, bool)
    mask[index_N] = True
    return mask
