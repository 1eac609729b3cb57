"""What single items are like given their raters: what the item side is learned from (metarec.meta.item_side)."""

import numpy as np
from numpy.typing import NDArray

from metarec.meta.prior_users import UserVectors

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

MIN_ROWS = 20
"""Labels below which an item says too little about what its content makes likely."""
MAX_ITEMS = 1500
"""Cost of a process grows with the cube of its anchors."""
MAX_ROWS = 1000
"""Of an item."""


def well_known_items(users: UserVectors, rng: np.random.Generator) -> Ints:
    """Items of MIN_ROWS and more, in order; of more than MAX_ITEMS some at random."""
    count_I = np.bincount(users.item_N, minlength=users.num_items)
    enough = np.flatnonzero(count_I >= MIN_ROWS)
    return np.sort(rng.permutation(enough)[:MAX_ITEMS]).astype(np.int64)


def item_vectors(users: UserVectors, anchor_N: Ints, rng: np.random.Generator) -> tuple[Doubles, Doubles, Doubles]:
    """theta (N, E) of the anchors given their raters under a broad prior, E[x x'] of the raters (E, E), and their mean taste.

    Tastes are taken from their mean (D,), so that x is uncorrelated with its constant.
    """
    order = rng.permutation(len(users.item_N))
    order = order[np.argsort(users.item_N[order], kind="stable")]
    first_I1 = np.searchsorted(users.item_N[order], np.arange(users.num_items + 1))
    parts = [order[first_I1[item] : min(first_I1[item] + MAX_ROWS, first_I1[item + 1])] for item in anchor_N]
    width = users.mean_UE.shape[1]
    taste_D = users.mean_UE[users.user_N[np.concatenate(parts)], :-1].mean(0)
    theta_NE, second_EE, variance = np.zeros((len(anchor_N), width)), np.zeros((width, width)), users.label_variance
    moments = []
    for part in parts:
        x_UE, level_U, noise_U = users.without(part)
        x_UE = x_UE - np.append(taste_D, 0.0)
        weighted_UE = x_UE / noise_U[:, None]
        moments.append((weighted_UE.T @ x_UE, weighted_UE.T @ (users.label_N[part] - users.mu - level_U)))
        second_EE += x_UE.T @ x_UE
    second_EE /= sum(len(part) for part in parts)
    # A tenth of the labels' variance to the offset, another to all of the taste together.
    square_E = np.maximum(np.diag(second_EE), 1e-12)
    broad_E = 0.1 * max(variance, 1e-12) / (square_E * np.append(np.full(width - 1, width - 1), 1))
    for place, (precision_EE, moment_E) in enumerate(moments):
        theta_NE[place] = np.linalg.solve(precision_EE + np.diag(1 / broad_E), moment_E)
    return theta_NE, second_EE, taste_D
