"""What a dataset allows: the kinds of task and question it has, how much of each there is, and what stands in the way.

Pure figures of the interactions, read once; `metarec advise` decides on them which learners are worth a trial.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from metarec.data.dataset import Dataset
from metarec.types import Target

Question = Literal["ratings", "clicks", "lists"]
"""What is asked of a learner: a grade, yes or no of given items, or the items that a user will take out of all of them."""

SHOTS = (1, 3, 5, 10)
FEW = 5
"""Entities with fewer interactions than this are called cold."""
ASKED = 5
"""Interactions of a user that must be left after the shots, to be asked for."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Figures of one dataset.

    `events_per_user` and `events_per_item` are quartiles (25, 50, 75 %) over those that have any. Cold ones have fewer than FEW
    interactions, in the training data that is. `users_with_shots` counts, for each number of shots k, the users with k
    interactions and ASKED more; repeated interactions of a pair count once. `scenarios` counts events by scenario;
    `further_targets` are columns to be predicted beside the label.
    """

    users: int
    items: int
    events: int
    density: float
    label_kind: str
    labels: Mapping[str, float]
    varied: bool
    events_per_user: tuple[float, float, float]
    events_per_item: tuple[float, float, float]
    cold_users: float
    cold_items: float
    users_with_shots: Mapping[int, int]
    timestamped: bool
    days: float | None
    scenarios: Mapping[str, int]
    user_fields: int
    item_fields: int
    graph: bool
    further_targets: tuple[str, ...] = ()

    @property
    def targets(self) -> tuple[Target, ...]:
        """What can be predicted here: whether there is an interaction, always; its label where labels differ."""
        return ("explicit", "implicit") if self.varied else ("implicit",)

    @property
    def shots(self) -> tuple[int, ...]:
        """Support sizes to compare learners at: 0 and as many more as half of the users have the interactions for."""
        most = max((k for k in SHOTS if self.users_with_shots[k] >= self.users_with_shots[SHOTS[0]] / 2), default=0)
        return (0, *(k for k in SHOTS if k <= most and self.users_with_shots[k]))

    def question(self, target: Target) -> Question:
        """What is asked of a head of this target."""
        if target == "implicit":
            return "lists"
        return "clicks" if self.label_kind == "binary" else "ratings"

    def to_dict(self) -> dict[str, object]:
        """JSON-able."""
        return {**asdict(self), "targets": list(self.targets), "shots": list(self.shots)}


def inspect(dataset: Dataset) -> Findings:
    """The findings of a dataset as it is."""
    events, schema = dataset.interactions, dataset.schema
    users, items = len(dataset.user_ids), len(dataset.item_ids)
    pair_P = np.unique(events.user_N.astype(np.int64) * max(items, 1) + events.item_N)
    pairs_U = np.bincount(pair_P // max(items, 1), minlength=users)
    per_item_I = np.bincount(events.item_N, minlength=items)
    times = events.timestamp_N
    per_scenario = np.bincount(events.scenario_N, minlength=len(events.scenarios)).tolist() if events.scenarios else []
    return Findings(
        users=users,
        items=items,
        events=len(events),
        density=len(pair_P) / (users * items) if users and items else 0.0,
        label_kind=schema.label.kind,
        labels=_labels(events.label_N),
        # Not has_varied_labels: further targets may differ where the label, which learners are judged by, does not.
        varied=bool(np.any(events.label_N != events.label_N[:1])),
        events_per_user=_quartiles(pairs_U),
        events_per_item=_quartiles(per_item_I),
        cold_users=float((pairs_U < FEW).mean()) if users else 0.0,
        cold_items=float((per_item_I < FEW).mean()) if items else 0.0,
        users_with_shots={k: int((pairs_U >= k + ASKED).sum()) for k in SHOTS},
        timestamped=dataset.has_timestamps,
        days=float(times.max() - times.min()) / 86_400 if dataset.has_timestamps else None,
        scenarios=dict(zip(events.scenarios, per_scenario, strict=True)),
        user_fields=len(schema.users),
        item_fields=len(schema.items),
        graph=dataset.graph is not None,
        further_targets=tuple(target.column for target in schema.targets),
    )


def _quartiles(count_E: NDArray[np.int64]) -> tuple[float, float, float]:
    present = count_E[count_E > 0]
    low, middle, high = np.quantile(present, (0.25, 0.5, 0.75)) if len(present) else (0.0, 0.0, 0.0)
    return float(low), float(middle), float(high)


def _labels(label_N: NDArray[np.float32]) -> dict[str, float]:
    """Shares of the labels where there are at most ten, else their quantiles."""
    values, counts = np.unique(label_N, return_counts=True)
    if len(values) <= 10:
        return {f"{value:g}": float(count) / len(label_N) for value, count in zip(values, counts, strict=True)}
    shown = (0.0, 0.25, 0.5, 0.75, 1.0)
    return {f"{100 * q:g} %": float(value) for q, value in zip(shown, np.quantile(label_N, shown), strict=True)}
