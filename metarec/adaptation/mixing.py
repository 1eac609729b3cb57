"""Heads under weights of their targets: a weighted sum of them is linear in the user's vector as each of them is.

    sum_t lambda_t score_t(u, i) = sum_t lambda_t offset_t(i) + phi(i)' (sum_t lambda_t L_t') w_u

Weights come as one number for each target of a head, those that are left out at the end being 0.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch

from metarec.adaptation.view import Floats, row_vectors
from metarec.errors import InvalidInputError
from metarec.meta.contract import TargetsLearner, takes_targets
from metarec.meta.prior import Head, Prior
from metarec.tasks.batch import EntityTable

Weights = Sequence[float]


def mixed_rows(head: Head, rows: EntityTable, weights: Weights) -> tuple[Floats, Floats]:
    """Vectors (I, D) of `rows` under a prepared head of a vector learner, and the weighted sum (I,) of their offsets."""
    phi_ID, bias_I = row_vectors(head, rows)
    if len(weights) == 1:
        return phi_ID, np.float32(weights[0]) * bias_I
    with torch.no_grad():
        offset_IK = cast(TargetsLearner, head.learner).target_offsets(head.model, head.theta, rows)
    return phi_ID, offset_IK.float().numpy()[:, : len(weights)] @ np.asarray(weights, np.float32)


def mixed_vector(head: Head, weights: Weights, vector_D: Floats) -> Floats:
    """(sum_t lambda_t L_t') w of a user's vector."""
    return cast(Floats, np.float32(weights[0]) * vector_D) if len(weights) == 1 else cast(Floats, vector_D @ _map(head, weights))


def mixed_features(head: Head, weights: Weights, phi_ND: Floats) -> Floats:
    """(sum_t lambda_t L_t) phi of rows: what a user's vector itself is multiplied with."""
    return cast(Floats, np.float32(weights[0]) * phi_ND) if len(weights) == 1 else cast(Floats, phi_ND @ _map(head, weights).T)


def num_targets(head: Head) -> int:
    """How many targets a head has."""
    if not takes_targets(head.learner):
        return 1
    return len(cast(TargetsLearner, head.learner).target_maps(head.model, head.theta))


def explicit_target(prior: Prior, name: str) -> int:
    """The number of a target of the explicit head. InvalidInputError lists those there are."""
    labels = prior.schema.labels[: num_targets(prior.heads["explicit"])] if "explicit" in prior.heads else ()
    names = [label.column for label in labels]
    if name not in names:
        raise InvalidInputError(
            f"'{name}' is no target that checkpoint '{prior.checkpoint}' predicts; it predicts: {', '.join(names) or 'none'}",
            field="target",
        )
    return names.index(name)


def _map(head: Head, weights: Weights) -> Floats:
    """sum_t lambda_t L_t (D, D)."""
    map_KDD = cast(TargetsLearner, head.learner).target_maps(head.model, head.theta)[: len(weights)]
    return cast(Floats, np.einsum("k,kde->de", np.asarray(weights, np.float32), map_KDD.detach().float().numpy()))
