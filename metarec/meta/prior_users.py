"""What a closed-form head knows of its training users, as the rows of item tasks: their posteriors, and these without one row."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from metarec.meta.blend import SupportRows, support_batch
from metarec.meta.prior import Head
from metarec.models.linear_gaussian import LinearGaussian
from metarec.tasks.batch import EntityTable, Tables
from metarec.tasks.layout import TaskLayout

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

CHUNK_ROWS = 65_536
"""Padded support rows adapted to at once."""
MAX_USERS = 50_000
"""Most users whose posteriors are held at once: E^2 numbers each, 1 GiB of them for three members of 24 dimensions."""
MIN_REST = 0.2
"""Smallest share of a row's noise that a downdate divides by: a row that decides its user's vector alone cannot be taken away."""


@dataclass(frozen=True, kw_only=True)
class UserVectors:
    """Posteriors of U users under a head, N(mean_UE, factor_UEE factor_UEE'), offset last, and their N training rows.

    `phi_IE`, `bias_I` and `noise_I` are the items as the head adapted with them.
    """

    mean_UE: Doubles
    factor_UEE: NDArray[np.float32]
    user_N: Ints
    item_N: Ints
    label_N: Doubles
    phi_IE: Doubles
    bias_I: Doubles
    noise_I: Doubles
    mu: float

    @property
    def num_items(self) -> int:
        """I."""
        return len(self.bias_I)

    @property
    def label_variance(self) -> float:
        """Of the training labels."""
        return float(self.label_N.var())

    def without(self, row_N: Ints) -> tuple[Doubles, Doubles, Doubles]:
        """The users of these rows as if the row had not been: [w, 1] (N, E), their level (N,), and the noise of the label (N,).

        Gaussian downdate by one observation (Sherman & Morrison 1950).
        """
        user_N, item_N = self.user_N[row_N], self.item_N[row_N]
        phi_NE, noise_N, factor_NEE = self.phi_IE[item_N], self.noise_I[item_N], self.factor_UEE[user_N]
        gain_NE = np.einsum("nef,nf->ne", factor_NEE, np.einsum("nef,ne->nf", factor_NEE, phi_NE)).astype(np.float64)
        own_N = (gain_NE * phi_NE).sum(1)
        rest_N = np.maximum(noise_N - own_N, MIN_REST * noise_N)
        error_N = self.label_N[row_N] - self.mu - self.bias_I[item_N] - (phi_NE * self.mean_UE[user_N]).sum(1)
        mean_NE = self.mean_UE[user_N] - gain_NE * (error_N / rest_N)[:, None]
        return as_rows(mean_NE), mean_NE[:, -1], noise_N + own_N * (1 + own_N / rest_N)


def as_rows(mean_UE: Doubles) -> Doubles:
    """Users' vectors [w, 1] against an item's vector and offset."""
    return np.column_stack([mean_UE[:, :-1], np.ones(len(mean_UE))])


def user_vectors(head: Head, users: EntityTable, items: EntityTable, layout: TaskLayout) -> UserVectors:
    """Posteriors of the users of `layout` (kind `user`) from all their rows, under an explicit closed-form head.

    Of more than MAX_USERS with rows, so many spread evenly over their places in the layout.
    """
    head = head.prepared(items)
    known = np.flatnonzero(layout.counts)
    if len(known) > MAX_USERS:
        chosen = known[np.linspace(0, len(known) - 1, MAX_USERS).astype(np.int64)]
        layout = layout.select(chosen)
        layout = replace(layout, start_T1=np.append(layout.start_T1[chosen], layout.start_T1[-1]))
        users = users.at(torch.from_numpy(chosen))
    mean_UE, factor_UEE = adapted_users(head, Tables(tasks=users, rows=items), layout)
    with torch.no_grad():
        phi_IE, bias_I = LinearGaussian.row_features(head.model, head.theta, items)  # type: ignore[arg-type]  # checked by callers
    unknown_I = (items.code_N == 0).to(torch.int64)
    return UserVectors(
        mean_UE=mean_UE,
        factor_UEE=factor_UEE,
        user_N=layout.row_tasks.astype(np.int64),
        item_N=layout.row_N,
        label_N=layout.label_N.astype(np.float64),
        phi_IE=phi_IE.double().numpy(),
        bias_I=bias_I.double().numpy(),
        noise_I=torch.exp(head.theta["noise.log_var"].double())[unknown_I].numpy(),
        mu=float(head.theta["mu"]),
    )


def adapted_users(head: Head, tables: Tables, layout: TaskLayout) -> tuple[Doubles, NDArray[np.float32]]:
    """Posterior mean (U, E) and factor (U, E, E) of every task of `layout`; `head` is prepared for the rows."""
    slices = [layout.rows_of(task) for task in range(len(layout))]
    support: list[SupportRows] = [
        (layout.row_N[rows], layout.label_N[rows], layout.timestamp_N[rows] if layout.has_timestamps else None) for rows in slices
    ]
    order = np.argsort(layout.counts, kind="stable")
    means, factors, first = [], [], 0
    while first < len(order):
        # Tasks of like size share a batch, so that little is padded.
        widest = np.maximum(1, layout.counts[order[first : first + CHUNK_ROWS]])
        count = max(1, int(np.searchsorted(widest * np.arange(1, len(widest) + 1), CHUNK_ROWS, side="right")))
        with torch.no_grad():
            fast = head.learner.adapt(
                head.model, head.theta, support_batch(tables, order[first : first + count].tolist(), support)
            )
        means.append(fast["mean"].double().numpy())
        factors.append(fast["factor"].float().numpy())
        first += count
    back = np.argsort(order, kind="stable")
    return np.concatenate(means)[back], np.concatenate(factors)[back]
