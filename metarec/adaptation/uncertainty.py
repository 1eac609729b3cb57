"""How uncertain a user's scores are, and how alike items are: what exploration and diversity work with.

Two things are uncertain. The user's vector, whose posterior the closed-form learners know (DESIGN 4.1); that of the implicit head
is in units of its learned confidences and not calibrated, which a budget makes harmless. And the vector of an item without an id
of its own: its id part may lie wherever those of known items lie around content, diag(s), so that for a user w its score has
variance w' diag(s) w + s_b besides, less what its first labels say. Ids of known items are taken as known.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from metarec.adaptation.adapted import Adapted, fast_weights
from metarec.adaptation.mixing import mixed_features, mixed_vector
from metarec.adaptation.view import EngineView, Floats, is_vector_learner, row_vectors
from metarec.meta.implicit import ImplicitAlpaca
from metarec.models.neighbour_axes import without_neighbours
from metarec.types import Target


def directions(adapted: Adapted, item_ids: Sequence[str]) -> Floats:
    """Vectors of the items (N, E) whose products are their likeness: the mean of their cosines under the heads that count.

    Each head has the same say, whatever the unit of its labels and the number of its dimensions, neither of which says anything
    about likeness. Contents take the place of a score that is not linear. Lengths are 1, and 0 for unknown ids.
    """
    view = adapted.view
    row_N = view.catalogue.rows(item_ids)
    parts: list[Floats] = []
    if adapted.mix is not None or view.vectors is not None:
        vectors = _head_vectors(adapted, row_N)
        parts = [without_neighbours(view.heads[target].theta, part_NE) for target, part_NE in vectors.items()]
    units = [_apart(part_NE, row_N >= 0) for part_NE in parts or [view.content_IE[row_N]]]
    return np.concatenate([unit_NE / np.float32(np.sqrt(len(units))) for unit_NE in units], 1)


def _apart(vector_NE: Floats, known_N: NDArray[np.bool_]) -> Floats:
    """Unit vectors of what tells the rows apart; 0 for unknown ones."""
    vector_NE = vector_NE * known_N[:, None]
    # A coordinate that all share, the constant of offsets, says nothing about likeness.
    shared_E = np.ptp(vector_NE[known_N], axis=0) == 0 if known_N.any() else np.zeros(vector_NE.shape[1], bool)
    vector_NE = vector_NE[:, ~shared_E]
    norm_N1 = np.linalg.norm(vector_NE, axis=1, keepdims=True)
    return cast(Floats, (vector_NE / np.maximum(norm_N1, 1e-12)).astype(np.float32))


def score_spread(adapted: Adapted, item_ids: Sequence[str], *, cold: bool) -> tuple[Floats, Floats]:
    """Standard deviations of ranking scores: (N, K) along K shared directions of the user's vector, and (N,) of the items' own.

    K is 0 unless `cold`, or where the scores are not linear in a vector of the user.
    """
    view = adapted.view
    row_N = view.catalogue.rows(item_ids)
    if view.vectors is None or adapted.vector is None:
        return np.zeros((len(row_N), 0), np.float32), np.zeros(len(row_N), np.float32)
    return (_user_spread(adapted, row_N) if cold else np.zeros((len(row_N), 0), np.float32)), _own_spread(adapted, row_N)


def _user_spread(adapted: Adapted, row_N: NDArray[np.int64]) -> Floats:
    view = adapted.view
    support = adapted.support()
    fast = fast_weights(view, adapted.profile, [adapted.used], targets=tuple(adapted.weights))
    parts = []
    for target, phi_ND in _head_vectors(adapted, row_N).items():
        head = view.heads[target]
        factor = fast[target].get("factor")
        if factor is None and isinstance(head.learner, ImplicitAlpaca):
            with torch.no_grad():
                factor = head.learner.factor(head.model, head.theta, support)
        if factor is not None:
            parts.append(phi_ND @ factor[0].float().numpy())
    spread_NK = np.concatenate(parts, 1) if parts else np.zeros((len(row_N), 0), np.float32)
    return cast(Floats, spread_NK * (row_N >= 0)[:, None])


def _head_vectors(adapted: Adapted, row_N: NDArray[np.int64]) -> dict[Target, Floats]:
    """Vectors of items times the weight of their head, for each linear head that counts in the user's scores."""
    view, place_N = adapted.view, np.maximum(row_N, 0)
    if adapted.mix is not None:
        linear = {target: view.heads[target] for target in adapted.mix if is_vector_learner(view.heads[target])}
        return {
            target: mixed_features(head, adapted.mix[target], row_vectors(head, view.rows)[0][place_N])
            for target, head in linear.items()
        }
    assert view.vectors is not None
    parts: dict[Target, Floats] = {}
    first = 0
    for target in view.weights:
        size = len(adapted.state.weights[target]["vector"])
        parts[target] = view.vectors.phi_IE[place_N, first : first + size]
        first += size
    return parts


def _own_spread(adapted: Adapted, row_N: NDArray[np.int64]) -> Floats:
    view = adapted.view
    variance_N = np.zeros(len(row_N))
    left_N = np.array([_left(view, row) for row in row_N.tolist()])
    for target, weights in adapted.weights.items():
        spread_E = view.spreads[target]
        if len(spread_E) and is_vector_learner(view.heads[target]):
            vector_D = mixed_vector(view.heads[target], weights, adapted.state.weights[target]["vector"])
            # The constant that ends a vector of some learners is no part of the id.
            ids_D = vector_D[: len(spread_E) - 1]
            prior = float(np.square(ids_D) @ spread_E[:-1] + weights[0] ** 2 * spread_E[-1])
            variance_N += prior * (left_N if target == "explicit" else 1.0)
    unknown_N = view.rows.code_N.numpy()[np.maximum(row_N, 0)] == 0
    return cast(Floats, (np.sqrt(variance_N) * (unknown_N & (row_N >= 0))).astype(np.float32))


def _left(view: EngineView, row: int) -> float:
    """The share of the explicit head's variance of an item that its own labels leave."""
    shift = view.shifts.get(view.catalogue.ids[row]) if view.shifts and 0 <= row < len(view.catalogue.ids) else None
    return 1.0 if shift is None else shift.left
