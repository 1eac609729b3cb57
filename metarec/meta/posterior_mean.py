"""The mean of a Bayesian linear regression, with its gradient in closed form.

For whitened features Z (S, D), row precisions W = diag(weight) and residuals r,

    w = A^-1 Z' W r,    A = I + Z' W Z.

With g = dL/dw and l = A^-1 g, implicit differentiation of A w = Z' W r gives (e = r - Z w)

    dL/dr = W Z l,    dL/dZ = W e l' - W Z l w',    dL/dweight = (Z l) e,

so that nothing is differentiated through a decomposition: two products of a D x D matrix and a vector instead.

Shapes: T tasks, S support rows, D features.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def posterior_mean(z_TSD: Tensor, weight_TS: Tensor, residual_TS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """w (T, D), the inverse L^-1 of the Cholesky factor of A (T, D, D), and L^-1 Z' W r (T, D).

    Gradients flow through w alone.
    """
    return cast(tuple[Tensor, Tensor, Tensor], _PosteriorMean.apply(z_TSD, weight_TS, residual_TS))  # type: ignore[no-untyped-call]  # torch's


class _PosteriorMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z_TSD: Tensor, weight_TS: Tensor, residual_TS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        zw_TDS = (z_TSD * weight_TS[..., None]).mT
        eye_DD = torch.eye(z_TSD.shape[2], dtype=z_TSD.dtype, device=z_TSD.device)
        chol_TDD = torch.linalg.cholesky(zw_TDS @ z_TSD + eye_DD)
        moment_TD = torch.einsum("tds,ts->td", zw_TDS, residual_TS)
        inverse_TDD = torch.linalg.solve_triangular(chol_TDD, eye_DD.expand_as(chol_TDD), upper=False)
        half_TD = torch.einsum("tde,te->td", inverse_TDD, moment_TD)
        w_TD = torch.einsum("ted,te->td", inverse_TDD, half_TD)
        ctx.save_for_backward(z_TSD, weight_TS, residual_TS, inverse_TDD, w_TD)
        ctx.mark_non_differentiable(inverse_TDD, half_TD)
        return w_TD, inverse_TDD, half_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_TD: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z_TSD, weight_TS, residual_TS, inverse_TDD, w_TD = ctx.saved_tensors
        l_TD = torch.einsum("ted,te->td", inverse_TDD, torch.einsum("tde,te->td", inverse_TDD, gradient_TD))
        both_TD2 = torch.stack([l_TD, w_TD], 2)
        zl_TS, zw_TS = (z_TSD @ both_TD2).unbind(2)
        error_TS = residual_TS - zw_TS
        to_residual_TS = weight_TS * zl_TS
        to_z_TSD = torch.stack([weight_TS * error_TS, -to_residual_TS], 2) @ both_TD2.mT
        return to_z_TSD, zl_TS * error_TS, to_residual_TS
