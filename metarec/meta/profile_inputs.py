"""What heads of profiles read of users: posterior mean vectors, after adaptation with a part of the profile known."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from metarec.meta.blend import SupportRows, support_batch
from metarec.meta.contract import VectorLearner
from metarec.meta.prior import Head
from metarec.tasks.batch import EntityTable, Tables
from metarec.types import Target

Floats = NDArray[np.float32]

CHUNK_ROWS = 65_536
"""Padded support rows adapted to at once."""


def linear_heads(heads: Mapping[Target, Head]) -> tuple[Target, ...]:
    """The heads whose tasks are users and whose scores are linear in a vector of the user."""
    return tuple(sorted(t for t, head in heads.items() if head.kind == "user" and hasattr(head.learner, "row_vectors")))


def user_vectors(
    heads: Mapping[Target, Head], profiles: EntityTable, items: EntityTable, supports: Sequence[SupportRows]
) -> dict[Target, Floats]:
    """Posterior mean vectors (N, E) by head of users with these profiles (row k is user k) and support sets.

    The heads are linear and prepared for `items`.
    """
    tables = Tables(tasks=profiles, rows=items)
    size_N = np.maximum(1, [len(rows) for rows, _, _ in supports])
    order = np.argsort(size_N, kind="stable")
    parts: dict[Target, list[Floats]] = {target: [] for target in heads}
    first = 0
    while first < len(order):
        # Users of like size share a batch, so that little is padded.
        size_M = size_N[order[first : first + CHUNK_ROWS]]
        count = max(1, int(np.searchsorted(size_M * np.arange(1, len(size_M) + 1), CHUNK_ROWS, side="right")))
        batch = support_batch(tables, order[first : first + count].tolist(), supports)
        for target, head in heads.items():
            with torch.no_grad():
                fast = head.learner.adapt(head.model, head.theta, batch)
                parts[target].append(cast(VectorLearner, head.learner).task_vector(fast).float().numpy())
        first += count
    back = np.argsort(order, kind="stable")
    return {target: np.concatenate(found)[back] for target, found in parts.items()}


def moved_vectors(
    heads: Mapping[Target, Head], profiles: EntityTable, items: EntityTable, supports: Sequence[SupportRows]
) -> dict[Target, Floats]:
    """How far these users' vectors (N, E) have moved from the prior of their profiles, by head."""
    nothing = np.zeros(0, np.int64), np.zeros(0, np.float32), None
    before = user_vectors(heads, profiles, items, [nothing] * len(supports))
    after = user_vectors(heads, profiles, items, supports)
    return {target: after[target] - before[target] for target in heads}


def known_fields(profiles: EntityTable) -> Floats:
    """Encoded profiles (N, P) less the encoding of one without any field."""
    known_NP = profiles.dense_NP.numpy().copy()
    known_NP[:, [stop - 1 for _, _, stop in profiles.blocks]] -= 1.0
    return cast(Floats, known_NP)


def with_hidden(users: EntityTable, user_N: NDArray[np.int64], names: Sequence[str], hidden_NK: NDArray[np.bool_]) -> EntityTable:
    """Rows of a table as strangers with the fields `names` missing where `hidden_NK`: columns 0 but the indicator, the last."""
    dense_NP = users.dense_NP[torch.from_numpy(user_N)].clone()
    span = {name: (start, stop) for name, start, stop in users.blocks}
    for k, name in enumerate(names):
        start, stop = span[name]
        hidden_N = torch.from_numpy(np.ascontiguousarray(hidden_NK[:, k]))
        dense_NP[hidden_N, start:stop] = 0.0
        dense_NP[hidden_N, stop - 1] = 1.0
    return replace(users, code_N=torch.zeros(len(user_N), dtype=torch.int64), dense_NP=dense_NP)
