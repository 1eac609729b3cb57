"""Padded, masked batches of tasks.

Shape suffixes: T tasks, S support rows, Q query rows, N rows of either, I items, U users, P encoded features, D dim.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metarec.tasks.sparse_columns import SparseColumns, sparse_columns


@dataclass(frozen=True, kw_only=True)
class EntityTable:
    """Encoded features of a set of entities (all users, or all items); rows are addressed by position.

    `code_N` (int64) is 0 for entities training has not seen, else 1..num_codes: the row of an id embedding.
    `dense_NP` (float32) is the encoded content: one-hot, multi-hot, standardised numbers, missing indicators, vectors.
    `blocks` names the column ranges of `dense_NP`, one per schema field, in order. `sparse` is the same content in a form that is
    cheaper to map; it counts only as long as `dense_NP` is the tensor it was made of.
    """

    code_N: Tensor
    dense_NP: Tensor
    blocks: tuple[tuple[str, int, int], ...]
    num_codes: int
    sparse: SparseColumns | None = None

    def __len__(self) -> int:
        return int(self.code_N.shape[0])

    def to(self, device: torch.device | str) -> "EntityTable":
        """The same table on `device`."""
        return replace(self, code_N=self.code_N.to(device), dense_NP=self.dense_NP.to(device), sparse=None)

    def with_sparse(self) -> "EntityTable":
        """The same table, ready to be mapped many times."""
        return replace(self, sparse=sparse_columns(self.dense_NP))

    def mapped(self, map_PE: Tensor, row_N: Tensor | None = None) -> Tensor:
        """Content times `map_PE` (N, E), in the type of the map, of the rows at `row_N` (default: of all)."""
        if self.sparse is not None and self.sparse.source_NP is self.dense_NP:
            return self.sparse.mapped(map_PE, row_N)
        dense_NP = self.dense_NP if row_N is None else self.dense_NP.index_select(0, row_N)
        return dense_NP.to(map_PE.dtype) @ map_PE

    def at(self, row_N: Tensor | slice) -> "EntityTable":
        """These rows of the table, in this order."""
        return replace(self, code_N=self.code_N[row_N], dense_NP=self.dense_NP[row_N], sparse=None)

    def append(self, other: "EntityTable") -> "EntityTable":
        """This table followed by the rows of `other`, which must have the same blocks."""
        assert self.blocks == other.blocks
        code_N, dense_NP = torch.cat([self.code_N, other.code_N]), torch.cat([self.dense_NP, other.dense_NP])
        return replace(self, code_N=code_N, dense_NP=dense_NP, sparse=None)


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The entity side (`tasks`) and the row side (`rows`) of a task kind: users and items for kind `user`, swapped for `item`."""

    tasks: EntityTable
    rows: EntityTable


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of T tasks: a support set or a query set.

    `task_T` (int64) are rows of `tables.tasks`; `row_TN` (int64) rows of `tables.rows`, 0 where padded; `label_TN` (float32)
    0 where padded; `mask_TN` (bool) true where there is a row. `timestamp_TN` (float64, seconds) is None without timestamps.
    `target_TN` (int64) says of which target the label is: 0 the schema's label, k its k-th further target; None: all 0. An
    interaction with several labels is that many rows.
    """

    tables: Tables
    task_T: Tensor
    row_TN: Tensor
    label_TN: Tensor
    mask_TN: Tensor
    timestamp_TN: Tensor | None = None
    target_TN: Tensor | None = None

    @property
    def targets_TN(self) -> Tensor:  # noqa: N802  # shape suffix
        """`target_TN`, or zeros."""
        return torch.zeros_like(self.row_TN) if self.target_TN is None else self.target_TN

    @property
    def num_tasks(self) -> int:
        """T."""
        return int(self.task_T.shape[0])


@dataclass(frozen=True, kw_only=True)
class TaskBatch:
    """One draw of T tasks: what adaptation sees and what it is judged on. `weight_T` weighs the tasks in the outer loss."""

    support: Batch
    query: Batch
    weight_T: Tensor
