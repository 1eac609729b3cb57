"""The ranking score of a prior over the catalogue, and the weight of its explicit part.

ranking score = implicit score + blend * explicit mean (DESIGN 4.1). The weight is in units of the two scores' spreads, so that
one grid fits every data set. It is the usual one unless validation users show another to be better: they are few, and the best of
five weights on a dozen users is mostly luck (docs/adr/0028-the-usual-blend.md).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from metarec.errors import ConfigError
from metarec.meta.contract import VectorLearner
from metarec.meta.prior import Head, Prior
from metarec.tasks.batch import Batch, EntityTable, Tables
from metarec.types import Target

GRID = (0.0, 0.05, 0.1, 0.2, 0.4)
"""Candidate weights: standard deviations of the implicit score per standard deviation of the explicit mean."""

USUAL = 0.1
"""The candidate that stands unless another is better by one standard error."""

CHUNK = 256
"""Tasks scored at once: bounds memory to CHUNK x items scores."""


def head_scores(head: Head, supports: Batch) -> NDArray[np.float32]:
    """Scores (T, I) of all rows of the batch's tables under one head of kind `user`."""
    learner, rows = head.learner, supports.tables.rows
    with torch.no_grad():
        fast = learner.adapt(head.model, head.theta, supports)
        if hasattr(learner, "row_vectors"):
            vectors = cast(VectorLearner, learner)
            phi_ID, bias_I = vectors.row_vectors(head.model, head.theta, rows)
            return cast(NDArray[np.float32], (bias_I + vectors.task_vector(fast) @ phi_ID.T).float().numpy())
        everything = Batch(
            tables=supports.tables,
            task_T=supports.task_T,
            row_TN=torch.arange(len(rows)).expand(supports.num_tasks, -1),
            label_TN=torch.zeros(supports.num_tasks, len(rows)),
            mask_TN=torch.ones(supports.num_tasks, len(rows), dtype=torch.bool),
        )
        mean_TI = learner.predict(head.model, head.theta, fast, everything).mean_TQ
        return cast(NDArray[np.float32], mean_TI.float().numpy())


def catalogue_scores(heads: Mapping[Target, Head], blend: float, supports: Batch) -> NDArray[np.float32]:
    """Ranking scores (T, I); with one head missing, the other's alone. Pass prepared heads when calling repeatedly."""
    if "implicit" not in heads or "explicit" not in heads:
        return head_scores(next(iter(heads.values())), supports)
    score_TI = head_scores(heads["implicit"], supports)
    return score_TI + np.float32(blend) * head_scores(heads["explicit"], supports) if blend else score_TI


def prior_scores(prior: Prior, users: EntityTable, support: "Sequence[SupportRows]") -> NDArray[np.float32]:
    """Ranking scores (U, I) of `prior.item_ids` for users (rows of `users`, in order) with these support rows."""
    tables = Tables(tasks=users, rows=prior.items)
    heads = {target: head.prepared(prior.items) for target, head in prior.heads.items()}
    parts = [
        catalogue_scores(heads, prior.blend, support_batch(tables, range(first, min(first + CHUNK, len(support))), support))
        for first in range(0, len(support), CHUNK)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, len(prior.items)), np.float32)


SupportRows = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float64] | None]
"""Item rows, labels and times (None without timestamps) of one user's support set, oldest first."""


def support_batch(tables: Tables, tasks: Sequence[int], support: Sequence[SupportRows]) -> Batch:
    """The support sets of these tasks (positions in `tables.tasks` and in `support`), padded."""
    width = max(1, max((len(support[task][0]) for task in tasks), default=1))
    row_TN = np.zeros((len(tasks), width), np.int64)
    label_TN = np.zeros((len(tasks), width), np.float32)
    mask_TN = np.zeros((len(tasks), width), bool)
    time_TN = np.zeros((len(tasks), width), np.float64)
    timed = all(support[task][2] is not None for task in tasks)
    for place, task in enumerate(tasks):
        rows, labels, times = support[task]
        row_TN[place, : len(rows)], label_TN[place, : len(rows)], mask_TN[place, : len(rows)] = rows, labels, True
        if timed and times is not None:
            time_TN[place, : len(rows)] = times
    return Batch(
        tables=tables,
        task_T=torch.tensor(list(tasks), dtype=torch.int64),
        row_TN=torch.from_numpy(row_TN),
        label_TN=torch.from_numpy(label_TN),
        mask_TN=torch.from_numpy(mask_TN),
        timestamp_TN=torch.from_numpy(time_TN) if timed else None,
    )


def choose_blend(
    heads: Mapping[Target, Head],
    supports: Sequence[Batch],
    quality: Callable[[int, NDArray[np.float32]], NDArray[np.float64]],
    grid: Sequence[float] = GRID,
    usual: float = USUAL,
) -> float:
    """The weight of the explicit mean in the ranking score: `usual`, or another of the grid that is better by a standard error.

    `supports` are batches of validation support sets over one item table, and `quality(n, score_TI)` the quality (T,) of each
    ranking of batch n (higher is better); a user may be in several batches and counts once. The result is in units of the scores:
    grid value * sd(implicit) / sd(explicit), the spreads being over items; 0 where a head is missing, there is nobody to ask, or
    the explicit head has no opinion. ConfigError when `usual` is not in `grid`.
    """
    if usual not in grid:
        raise ConfigError(f"the grid of blend weights must hold the usual one, {usual:g}", field="grid")
    if "implicit" not in heads or "explicit" not in heads or not supports:
        return 0.0
    prepared = {target: head.prepared(supports[0].tables.rows) for target, head in heads.items()}
    implicit = [head_scores(prepared["implicit"], batch) for batch in supports]
    explicit = [head_scores(prepared["explicit"], batch) for batch in supports]
    spread = float(np.mean([part.std(1).mean() for part in explicit]))
    # A head without an opinion gives equal scores up to rounding; their spread must not become a unit.
    rounding = 1e-5 * float(np.mean([np.abs(part).mean() for part in explicit]))
    if spread <= rounding:
        return 0.0
    unit = float(np.mean([part.std(1).mean() for part in implicit])) / spread
    _, user_N = np.unique(np.concatenate([batch.task_T.numpy() for batch in supports]), return_inverse=True)

    def reached(share: float) -> NDArray[np.float64]:
        """Mean quality (U,) of each user's rankings."""
        weight = np.float32(share * unit)
        quality_N = np.concatenate(
            [quality(n, one + weight * two) for n, (one, two) in enumerate(zip(implicit, explicit, strict=True))]
        )
        return np.bincount(user_N, quality_N) / np.bincount(user_N)

    usual_U = reached(usual)
    best, best_gain = usual, 0.0
    for share in grid:
        gain_U = reached(share) - usual_U
        gain = float(gain_U.mean())
        error = float(gain_U.std(ddof=1)) / np.sqrt(len(gain_U)) if len(gain_U) > 1 else np.inf
        # Where one user alone is ranked otherwise, gain and error are equal up to rounding: nothing is shown.
        if gain > max(best_gain, error * (1 + 1e-6)):
            best, best_gain = share, gain
    return best * unit
