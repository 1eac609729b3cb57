"""Batches on the device where theta lives."""

from dataclasses import replace

import torch
from torch import Tensor

from metarec.errors import ConfigError
from metarec.tasks.batch import Batch, Tables, TaskBatch


def batch_on(batch: Batch, tables: Tables) -> Batch:
    """The batch on the device of `tables`, which hold the same entities as its own."""
    device = tables.rows.dense_NP.device

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    return replace(
        batch,
        tables=tables,
        task_T=move(batch.task_T),
        row_TN=move(batch.row_TN),
        label_TN=move(batch.label_TN),
        mask_TN=move(batch.mask_TN),
        timestamp_TN=None if batch.timestamp_TN is None else move(batch.timestamp_TN),
        target_TN=None if batch.target_TN is None else move(batch.target_TN),
    )


def tasks_on(tasks: TaskBatch, tables: Tables) -> TaskBatch:
    """The same for both sets of a draw."""
    device = tables.rows.dense_NP.device
    return TaskBatch(
        support=batch_on(tasks.support, tables), query=batch_on(tasks.query, tables), weight_T=tasks.weight_T.to(device)
    )


def tables_on(tables: Tables, device: torch.device) -> Tables:
    """Both tables on `device`, the rows ready to be mapped at every step."""
    return replace(tables, tasks=tables.tasks.to(device), rows=tables.rows.to(device).with_sparse())


def pick_device(name: str) -> torch.device:
    """`cpu`, or the first GPU for `gpu`. ConfigError when there is none."""
    if name == "cpu":
        return torch.device("cpu")
    if name != "gpu":
        raise ConfigError(f"device must be 'cpu' or 'gpu', not '{name}'", field="device")
    if not torch.cuda.is_available():
        raise ConfigError("device 'gpu' needs a CUDA device and this process sees none; use 'cpu'", field="device")
    return torch.device("cuda", torch.cuda.current_device())
