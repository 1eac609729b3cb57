"""Interactions as arrays, and how a dataset directory's interactions.parquet becomes them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metarec.data.contents import streamed
from metarec.data.schema import Schema

INTERACTION_TYPES = {"user": np.int32, "item": np.int32, "label": np.float32, "timestamp": np.float64, "scenario": np.int16}


def target_columns(schema: Schema) -> tuple[str, ...]:
    """Columns of interactions.parquet that hold the labels of the schema's further targets (float32, NaN where missing)."""
    return tuple(f"target_{number}" for number in range(1, len(schema.targets) + 1))


@dataclass(frozen=True, kw_only=True)
class Interactions:
    """N events. `user_N`, `item_N` (int32) are rows of the entity tables; `label_N` float32; `timestamp_N` float64 seconds (UTC),
    one constant without timestamps; `scenario_N` (int16) indexes `scenarios` (0 everywhere when that is empty). `extra_NK` are
    the labels (float32) of the schema's further targets in their order, NaN where missing; None without any."""

    user_N: NDArray[np.int32]
    item_N: NDArray[np.int32]
    label_N: NDArray[np.float32]
    timestamp_N: NDArray[np.float64]
    scenario_N: NDArray[np.int16]
    scenarios: tuple[str, ...] = ()
    extra_NK: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.user_N)

    def select(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> "Interactions":
        """The events under a mask or at these positions."""
        return Interactions(
            user_N=self.user_N[rows],
            item_N=self.item_N[rows],
            label_N=self.label_N[rows],
            timestamp_N=self.timestamp_N[rows],
            scenario_N=self.scenario_N[rows],
            scenarios=self.scenarios,
            extra_NK=None if self.extra_NK is None else self.extra_NK[rows],
        )

    def followed_by(self, other: "Interactions") -> "Interactions":
        """These events and then those of another part of the same dataset."""
        extra = [part.extra_NK for part in (self, other) if part.extra_NK is not None]
        return Interactions(
            user_N=np.concatenate([self.user_N, other.user_N]),
            item_N=np.concatenate([self.item_N, other.item_N]),
            label_N=np.concatenate([self.label_N, other.label_N]),
            timestamp_N=np.concatenate([self.timestamp_N, other.timestamp_N]),
            scenario_N=np.concatenate([self.scenario_N, other.scenario_N]),
            scenarios=self.scenarios,
            extra_NK=np.concatenate(extra) if extra else None,
        )


def read_interactions(path: Path, scenarios: tuple[str, ...], targets: tuple[str, ...]) -> Interactions:
    """Those of a dataset's file, with its columns of further `targets`; ValueError where one lacks values."""
    with streamed(path) as file:
        # Filled in pieces: the file and its arrays are never in memory side by side.
        size = file.metadata.num_rows
        arrays = {name: np.empty(size, kind) for name, kind in INTERACTION_TYPES.items()}
        extra_NK = np.empty((size, len(targets)), np.float32)
        every = arrays | {name: extra_NK[:, number] for number, name in enumerate(targets)}
        start = 0
        for batch in file.iter_batches(batch_size=1 << 20, columns=list(every)):
            for name, array in every.items():
                values = batch[name]
                if values.null_count:
                    raise ValueError(f"interactions.parquet lacks values in column '{name}'")
                array[start : start + len(batch)] = values.to_numpy()
            start += len(batch)
    named = {f"{name}_N": array for name, array in arrays.items()}
    return Interactions(**named, scenarios=scenarios, extra_NK=extra_NK if targets else None)
