"""What every worker trains on: encoded entities and interactions, split into training tasks and validation tasks.

Prepared once by the driver (features come through the feature store), written beside the run, read by every worker: so all
workers, and a run that is resumed, see the same numbers.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metarec.data.dataset import Dataset
from metarec.data.interactions import Interactions
from metarec.features.encoder import FeatureEncoder
from metarec.tasks.batch import EntityTable, Tables
from metarec.tasks.layout import TaskLayout
from metarec.tasks.tables import entity_table
from metarec.training.files import write_atomically
from metarec.training.recipe import Recipe
from metarec.training.tensors import arrays_to_tensors, read_tensors, tensor_bytes
from metarec.types import TaskKind

VALIDATION_STREAM = 7
"""Keeps the draw of validation users apart from every other use of the seed."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Encoded users and items and the interactions among them.

    `validation_user_U` (bool) marks the users held out from every head, `validation_item_I` (bool) the items held out from heads
    of kind `item`; none where no head has that kind of task.
    """

    users: EntityTable
    items: EntityTable
    interactions: Interactions
    validation_user_U: NDArray[np.bool_]
    validation_item_I: NDArray[np.bool_]

    def tables(self, kind: TaskKind) -> Tables:
        """Tables with users as tasks, or items."""
        return Tables(tasks=self.users, rows=self.items) if kind == "user" else Tables(tasks=self.items, rows=self.users)

    def layout(self, kind: TaskKind, *, validation: bool, targets: bool = False) -> TaskLayout:
        """The tasks of one side of the split: held-out users, or held-out items among the users that training may see.

        `targets` says whether they come with the labels of further targets.
        """
        user_N = self.validation_user_U[self.interactions.user_N]
        item_N = self.validation_item_I[self.interactions.item_N]
        chosen = self.interactions.select(user_N == validation if kind == "user" else ~user_N & (item_N == validation))
        if not targets:
            chosen = replace(chosen, extra_NK=None)
        sizes = (len(self.users), len(self.items))
        num_tasks, num_rows = sizes if kind == "user" else sizes[::-1]
        return TaskLayout.from_interactions(chosen, kind=kind, num_tasks=num_tasks, num_rows=num_rows)

    @property
    def popularity_I(self) -> NDArray[np.float32]:  # noqa: N802  # shape suffix
        """Interactions of training users per item."""
        mine = ~self.validation_user_U[self.interactions.user_N]
        return np.bincount(self.interactions.item_N[mine], minlength=len(self.items)).astype(np.float32)

    def save(self, directory: Path) -> None:
        """Write all of it; the last file marks it as complete."""
        directory.mkdir(parents=True, exist_ok=True)
        events = self.interactions
        arrays = {
            "users": self.users.dense_NP.numpy(),
            "users.code": self.users.code_N.numpy(),
            "items": self.items.dense_NP.numpy(),
            "items.code": self.items.code_N.numpy(),
            "validation_user": self.validation_user_U,
            "validation_item": self.validation_item_I,
            "user": events.user_N,
            "item": events.item_N,
            "label": events.label_N,
            "timestamp": events.timestamp_N,
            "scenario": events.scenario_N,
        }
        if events.extra_NK is not None:
            arrays["extra"] = events.extra_NK
        described = {
            "user_blocks": self.users.blocks,
            "item_blocks": self.items.blocks,
            "user_codes": self.users.num_codes,
            "item_codes": self.items.num_codes,
            "scenarios": events.scenarios,
        }
        write_atomically(directory / "inputs.safetensors", tensor_bytes(arrays_to_tensors(arrays)))
        write_atomically(directory / "inputs.json", json.dumps(described).encode())

    @classmethod
    def load(cls, directory: Path) -> "Inputs":
        """What `save` wrote."""
        described = json.loads((directory / "inputs.json").read_bytes())
        tensors, _ = read_tensors(directory / "inputs.safetensors")
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}

        def table(name: str, blocks: list[tuple[str, int, int]], codes: int) -> EntityTable:
            return EntityTable(
                code_N=tensors[f"{name}.code"],
                dense_NP=tensors[name],
                blocks=tuple((field, start, stop) for field, start, stop in blocks),
                num_codes=codes,
            )

        return cls(
            users=table("users", described["user_blocks"], described["user_codes"]),
            items=table("items", described["item_blocks"], described["item_codes"]),
            interactions=Interactions(
                user_N=arrays["user"],
                item_N=arrays["item"],
                label_N=arrays["label"],
                timestamp_N=arrays["timestamp"],
                scenario_N=arrays["scenario"],
                scenarios=tuple(described["scenarios"]),
                extra_NK=arrays.get("extra"),
            ),
            validation_user_U=arrays["validation_user"],
            validation_item_I=arrays["validation_item"],
        )


def prepare(dataset: Dataset, encoder: FeatureEncoder, recipe: Recipe, seed: int) -> Inputs:
    """Encode the dataset's entities and hold out validation tasks. Ids become known through training users alone."""
    kinds = {head.kind for head in recipe.heads}
    events, none_U, none_I = dataset.interactions, np.zeros(len(dataset.user_ids), bool), np.zeros(len(dataset.item_ids), bool)
    held_out_U = hold_out_users(events, len(none_U), recipe, seed) if "user" in kinds else none_U
    held_out_I = _hold_out(events.item_N, len(none_I), recipe, [seed, VALIDATION_STREAM, 1]) if "item" in kinds else none_I
    mine = ~held_out_U[dataset.interactions.user_N]
    known_U = np.zeros(len(dataset.user_ids), bool)
    known_I = np.zeros(len(dataset.item_ids), bool)
    known_U[dataset.interactions.user_N[mine]] = True
    known_I[dataset.interactions.item_N[mine]] = True
    return Inputs(
        users=entity_table(encoder.encode_users(dataset.users), encoder.user_blocks, known_U),
        items=entity_table(encoder.encode_items(dataset.items), encoder.item_blocks, known_I),
        interactions=dataset.interactions,
        validation_user_U=held_out_U,
        validation_item_I=held_out_I,
    )


def hold_out_users(interactions: Interactions, num_users: int, recipe: Recipe, seed: int) -> NDArray[np.bool_]:
    """Mask (U) of the validation users, drawn from those with two interactions or more; at least one user stays for training."""
    return _hold_out(interactions.user_N, num_users, recipe, [seed, VALIDATION_STREAM])


def _hold_out(task_N: NDArray[np.int32], num_tasks: int, recipe: Recipe, seed: list[int]) -> NDArray[np.bool_]:
    candidates = np.flatnonzero(np.bincount(task_N, minlength=num_tasks) >= 2)
    wanted = min(round(recipe.validation_fraction * len(candidates)), recipe.max_validation_users)
    count = max(1, min(wanted, len(candidates) - 1)) if len(candidates) > 1 else 0
    mask = np.zeros(num_tasks, bool)
    mask[np.random.default_rng(seed).permutation(candidates)[:count]] = True
    return mask


def split(dataset: Dataset, held_out_U: NDArray[np.bool_]) -> tuple[Dataset, Dataset]:
    """The dataset with the events of training users, and the one with those of validation users."""
    held_out_N = held_out_U[dataset.interactions.user_N]
    events = dataset.interactions
    return dataset.with_interactions(events.select(~held_out_N)), dataset.with_interactions(events.select(held_out_N))
