"""Kernels between encoded items: linear plus squared-exponential, a weight per field (Rasmussen & Williams 2006, 4.2, 5.1)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Encoded items (N, P), centred and with every block scaled to a mean square of 1, and the block of each column."""

    value_NP: Tensor
    block_P: Tensor

    def scaled(self, log_weight_B: Tensor) -> Tensor:
        """Columns times the root of their block's weight."""
        return self.value_NP * torch.exp(0.5 * log_weight_B)[self.block_P]

    def rows(self, row_N: Tensor) -> "Blocks":
        """Some of the items."""
        return Blocks(value_NP=self.value_NP[row_N], block_P=self.block_P)


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """Weights (B blocks) of the linear and of the squared-exponential part, the latter's variance, and that of a constant; all in
    units of the noise, and as logarithms."""

    linear_B: Tensor
    squared_B: Tensor
    variance: Tensor
    constant: Tensor

    @property
    def parameters(self) -> list[Tensor]:
        """In the order of the fields."""
        return [self.linear_B, self.squared_B, self.variance, self.constant]

    def __call__(self, left: Blocks, right: Blocks) -> Tensor:
        """The kernel (N, M) between two sets of items."""
        linear_NM = left.scaled(self.linear_B) @ right.scaled(self.linear_B).mT
        one_NP, two_MP = left.scaled(self.squared_B), right.scaled(self.squared_B)
        return self._sum(linear_NM, one_NP @ two_MP.mT, one_NP.square().sum(1), two_MP.square().sum(1))

    def of_grams(self, gram_BNN: Tensor) -> Tensor:
        """The kernel (N, N) of items whose blocks have these Gram matrices."""
        linear_NN = torch.tensordot(torch.exp(self.linear_B), gram_BNN, 1)
        product_NN = torch.tensordot(torch.exp(self.squared_B), gram_BNN, 1)
        return self._sum(linear_NN, product_NN, product_NN.diagonal(), product_NN.diagonal())

    def _sum(self, linear_NM: Tensor, product_NM: Tensor, square_N: Tensor, square_M: Tensor) -> Tensor:
        distance_NM = square_N[:, None] + square_M - 2 * product_NM
        return linear_NM + torch.exp(self.variance - 0.5 * distance_NM.clamp_min(0)) + torch.exp(self.constant)
