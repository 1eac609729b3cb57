"""The item side of an explicit closed-form head: what an item that nobody has rated is like, and how sure that is (DESIGN 4.1).

With users' vectors w_u known, a label is linear in the item's vector and offset theta = [phi, b]: y = mu + l_u + [w_u, 1]' theta
+ noise, so an item is a task whose rows are users. Its prior is a Gaussian process over content: a linear and a
squared-exponential kernel, each over the encoder's blocks with weights of their own (automatic relevance determination), one pair
for b and one for phi; the spread around its mean is a full covariance, learned as well. The posterior from labels is Bayesian
linear regression.

Learned after the head, from items with enough rows: theta of every item given its raters' vectors, each rater taken without
the very row (a rank-one downdate of their posterior: evidence must not count twice); then the kernels' weights by
the leave-one-out error that they imply for a label (Rasmussen & Williams 2006, eqs. 5.10-5.12, weighed by E[x x'] of the raters).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarec.meta.content_kernel import Blocks, Kernel
from metarec.meta.item_vectors import item_vectors, well_known_items
from metarec.meta.place_prior import PlacePrior, learn_place_prior
from metarec.meta.prior_users import UserVectors
from metarec.tasks.batch import EntityTable

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

MIN_ITEMS = 40
TUNING_ITEMS = 700
OFFSET_SHARE, VECTOR_SHARE = 0.5, 0.3
"""What the second opinion counts."""
VECTOR_ROWS = 150.0
"""Raters with whom what they tell of an item's vector counts as much as what the head has learned of it."""
STEPS = 50
STEP_SIZE = 0.15
JITTER = 1e-8
SMALLEST_SCALE = 1e-6
"""Of a block that does not vary among the anchors."""


@dataclass(frozen=True, kw_only=True)
class ItemSide:
    """The prior of items: theta ~ N(mean(content), spread_EE), E = D + 1 with the offset b last.

    `anchor_NP` are the encoded items it was learned from, `centre_P` and `scale_P` what makes blocks of content of them,
    `level_E` the mean of theta, `weight_NE` the process's weights of the anchors; `offset` and `taste` the kernels of b and phi.
    Inside, b is the offset for a rater of mean taste `taste_D`: so it hardly depends on what is not known of phi. `places` is a
    second opinion on the mean (metarec.meta.place_prior); checkpoints of before have none.
    """

    anchor_NP: Tensor
    centre_P: Tensor
    scale_P: Tensor
    block_P: Tensor
    level_E: Tensor
    taste_D: Tensor
    weight_NE: Tensor
    spread_EE: Tensor
    offset: Kernel
    taste: Kernel
    places: PlacePrior | None = None

    def mean(self, items: EntityTable, phi_ID: Tensor | None = None) -> Doubles:
        """Prior mean of theta (I, E) of items by their content; ids are not used.

        `phi_ID` are their vectors where the head has a process for them (metarec.meta.content_process), which is the better mean:
        it is conditioned on all known items; else they come from the anchors.
        """
        here, anchors = self.blocks(items.dense_NP.double()), self.blocks(self.anchor_NP.double())
        if phi_ID is None:
            phi_ID = self.level_E[:-1] + self.taste(here, anchors) @ self.weight_NE[:, :-1]
        offset_I1 = self.level_E[-1:] + self.offset(here, anchors) @ self.weight_NE[:, -1:]
        theta_IE = torch.cat([phi_ID, offset_I1], 1)
        if self.places is not None:
            share_E = torch.tensor([VECTOR_SHARE] * phi_ID.shape[1] + [OFFSET_SHARE], dtype=torch.float64)
            theta_IE = theta_IE + share_E * (self.places.mean(items) - theta_IE)
        return cast(Doubles, (theta_IE @ self._outside_EE.mT).numpy())

    @property
    def spread(self) -> Doubles:
        """Covariance of theta (E, E) around its prior mean."""
        return cast(Doubles, (self._outside_EE @ self.spread_EE @ self._outside_EE.mT).numpy())

    @property
    def _outside_EE(self) -> Tensor:  # noqa: N802  # shape suffix
        """From the offset for the mean taste to that for no taste: b - phi' taste."""
        found_EE = torch.eye(len(self.level_E), dtype=torch.float64)
        found_EE[-1, :-1] = -self.taste_D
        return found_EE

    def blocks(self, dense_NP: Tensor) -> Blocks:
        """Encoded items (N, P) as the kernels take them; a block that never varied among the anchors says nothing of any item."""
        return Blocks(value_NP=(dense_NP - self.centre_P) * self.column_P, block_P=self.block_P)

    @property
    def column_P(self) -> Tensor:  # noqa: N802  # shape suffix
        """What brings columns to their block's unit, 0 where the block never varied."""
        return torch.where(self.scale_P > SMALLEST_SCALE, 1 / self.scale_P, 0.0)

    def to_arrays(self) -> dict[str, Tensor]:
        """As named tensors; `from_arrays` reads them back."""
        plain = {name: getattr(self, name) for name in PLAIN}
        plain |= {
            f"{part}.{place}": value for part in ("offset", "taste") for place, value in enumerate(getattr(self, part).parameters)
        }
        return plain | ({} if self.places is None else {f"places.{name}": v for name, v in self.places.to_arrays().items()})

    @classmethod
    def from_arrays(cls, arrays: dict[str, Tensor]) -> "ItemSide":
        """What `to_arrays` gave."""

        def kernel(part: str) -> Kernel:
            linear_B, squared_B, variance, constant = (arrays[f"{part}.{place}"] for place in range(4))
            return Kernel(linear_B=linear_B, squared_B=squared_B, variance=variance, constant=constant)

        places = {name.removeprefix("places."): value for name, value in arrays.items() if name.startswith("places.")}
        return cls(
            **{name: arrays[name] for name in PLAIN},
            offset=kernel("offset"),
            taste=kernel("taste"),
            places=PlacePrior.from_arrays(places) if places else None,
        )


PLAIN = ("anchor_NP", "centre_P", "scale_P", "block_P", "level_E", "taste_D", "weight_NE", "spread_EE")


def learn_item_side(users: UserVectors, items: EntityTable, kinds: Sequence[str], seed: int) -> ItemSide | None:
    """The item side of a head with these users' vectors and rows; None when too few items have enough of them, or no content.

    `kinds` are those of the fields of `items.blocks`.
    """
    rng = np.random.default_rng(seed)
    anchor_N = well_known_items(users, rng)
    if len(anchor_N) < MIN_ITEMS or not items.blocks:
        return None
    theta_NE, second_EE, taste_D = item_vectors(users, anchor_N, rng)
    dense_NP = items.dense_NP[torch.from_numpy(anchor_N)].double()
    sizes = [end - start for _, start, end in items.blocks]
    block_P = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    centre_P = dense_NP.mean(0)
    square_B = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, block_P, (dense_NP - centre_P).square().mean(0))
    scale_P = square_B.sqrt().clamp_min(SMALLEST_SCALE)[block_P]
    anchors = Blocks(value_NP=(dense_NP - centre_P) / scale_P, block_P=block_P)
    level_E = torch.from_numpy(theta_NE.mean(0))
    target_NE = torch.from_numpy(theta_NE) - level_E
    second = torch.from_numpy(second_EE)
    few_N = torch.from_numpy(np.sort(rng.permutation(len(anchor_N))[:TUNING_ITEMS]))
    taste = _tuned(anchors.rows(few_N), target_NE[few_N, :-1], second[:-1, :-1], len(sizes))
    offset = _tuned(anchors.rows(few_N), target_NE[few_N, -1:], second[-1:, -1:], len(sizes))
    taste_ND, taste_rest_ND = _solved(taste, anchors, target_NE[:, :-1])
    offset_N1, offset_rest_N1 = _solved(offset, anchors, target_NE[:, -1:])
    rest_NE = torch.cat([taste_rest_ND, offset_rest_N1], 1)
    count_I = np.bincount(users.item_N, minlength=users.num_items)
    # Vectors of few raters are noise where the head's are shrunken; its offsets are so even with many, and off the level.
    told_N1 = (count_I / (count_I + VECTOR_ROWS))[anchor_N, None]
    vector_ND = told_N1 * theta_NE[:, :-1] + (1 - told_N1) * users.phi_IE[anchor_N, :-1]
    known_NE = torch.from_numpy(np.column_stack([vector_ND, theta_NE[:, -1]]))
    places = learn_place_prior(items, kinds, count_I, anchor_N, known_NE)
    # Off the diagonal a covariance of few items is noise: as if E more items had been seen without any correlation.
    square_EE, width = rest_NE.mT @ rest_NE, rest_NE.shape[1]
    diagonal_EE = torch.diag(square_EE.diagonal() / len(rest_NE)) * width
    spread_EE = (square_EE + diagonal_EE) / (len(rest_NE) + width) + JITTER * torch.eye(width, dtype=torch.float64)
    return ItemSide(
        anchor_NP=items.dense_NP[torch.from_numpy(anchor_N)].clone(),
        centre_P=centre_P,
        scale_P=scale_P,
        block_P=block_P,
        level_E=level_E,
        taste_D=torch.from_numpy(taste_D),
        weight_NE=torch.cat([taste_ND, offset_N1], 1),
        spread_EE=spread_EE,
        offset=offset,
        taste=taste,
        places=places,
    )


def posterior(
    mean_E: Doubles, spread_EE: Doubles, x_UE: Doubles, residual_U: Doubles, noise_U: Doubles
) -> tuple[Doubles, Doubles]:
    """Mean and covariance of theta after labels with these residuals (label - mu - the rater's level) and noise variances."""
    precision_EE = np.linalg.inv(spread_EE)
    weighted_UE = x_UE / noise_U[:, None]
    covariance_EE = np.asarray(np.linalg.inv(precision_EE + weighted_UE.T @ x_UE), np.float64)
    return covariance_EE @ (precision_EE @ mean_E + weighted_UE.T @ residual_U), covariance_EE


def _tuned(items: Blocks, target_NE: Tensor, second_EE: Tensor, num_blocks: int) -> Kernel:
    """The kernel of smallest leave-one-out error tr(R second R') over the items."""
    start = {"linear_B": -2.0, "squared_B": -1.0}
    live = {name: torch.full((num_blocks,), value, requires_grad=True) for name, value in start.items()}
    live |= {"variance": torch.tensor(0.0, requires_grad=True), "constant": torch.tensor(-4.0, requires_grad=True)}
    kernel = Kernel(**live)
    # Formed once: the weights of blocks are all that changes.
    parts = [items.value_NP[:, items.block_P == block] for block in range(num_blocks)]
    gram_BNN = torch.stack([part_NP @ part_NP.mT for part_NP in parts]).float()
    scale = target_NE.square().mean().sqrt().clamp_min(1e-12)
    target_NE, second_EE = (target_NE / scale).float(), (second_EE / second_EE.diagonal().sum()).float()
    optimizer = torch.optim.Adam(kernel.parameters, lr=STEP_SIZE)
    for _ in range(STEPS):
        _, rest_NE = _left_out(kernel.of_grams(gram_BNN), target_NE)
        loss = ((rest_NE.mT @ rest_NE) * second_EE).sum() / len(rest_NE)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no type for it
        optimizer.step()
    return Kernel(**{name: value.detach().double() for name, value in live.items()})


def _left_out(kernel_NN: Tensor, target_NE: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the items, and what each item's own prediction from all others leaves of its target."""
    eye_NN = torch.eye(len(kernel_NN), dtype=kernel_NN.dtype)
    inverse_NN = torch.cholesky_inverse(torch.linalg.cholesky(kernel_NN + eye_NN))
    weight_NE = inverse_NN @ target_NE
    return weight_NE, weight_NE / inverse_NN.diagonal()[:, None]


def _solved(kernel: Kernel, items: Blocks, target_NE: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return _left_out(kernel(items, items), target_NE)
