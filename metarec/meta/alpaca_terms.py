"""The closed form that `alpaca` and `alpaca_targets` share: posterior, prediction and explanations (metarec.meta.alpaca).

Shapes: T tasks, S support rows, Q query rows, N rows of either, D + 1 features with the constant last.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, huber_loss

from metarec.meta.decay import decay
from metarec.meta.posterior_mean import posterior_mean
from metarec.models.contract import FastWeights, MetaParams
from metarec.tasks.batch import Batch

NLL_ROWS = 64
"""Query rows of a task, at most, on which the scales of the predictive variance are trained."""


IN_LABELS = (
    "mu",
    "row.id_bias",
    "row.content_bias",
    "axes.bias",
    "task.content",
    "task.content_bias",
    "task.mean",
    "task.choice",
    "row.choice",
)
"""Of theta: what is in units of the label. Vectors of rows have no unit, those of tasks have the label's."""

LOG_VARIANCES = ("prior.log_var", "noise.log_var")
"""Of theta: logarithms of squared labels."""


def rescaled(theta: MetaParams, scale: float) -> MetaParams:
    """Theta that predicts `scale` times what `theta` does from labels `scale` times as large."""
    found = dict(theta)
    for name in IN_LABELS:
        if name in theta:
            found[name] = theta[name] * scale
    for name in LOG_VARIANCES:
        found[name] = theta[name] + 2 * math.log(scale)
    return found


def choice(theta: MetaParams, phi_TSD: Tensor, support: Batch, unknown_TS: Tensor) -> Tensor:
    """(C phi_j + y_j) / sqrt(1 + |S|) of each support row (T, S, D + 1), y_j only where known; 0 for padded rows."""
    mask_TS = support.mask_TN.to(phi_TSD.dtype)
    y_TSD = theta["row.choice"][support.tables.rows.code_N[support.row_TN]] * (1 - unknown_TS)[..., None]
    scale_TS = mask_TS * (1 + mask_TS.sum(1, keepdim=True)).rsqrt()
    return (phi_TSD @ theta["task.choice"] + y_TSD) * scale_TS[..., None]


def pooled_choice(theta: MetaParams, phi_ND: Tensor, y_ND: Tensor, at_TS: Tensor, support: Batch) -> Tensor:
    """`choice` summed over the support (T, D + 1), of rows that are at `at_TS` among N distinct ones.

    `y_ND` is y_j of each, 0 where unknown. M are the support rows that are there, without padding.
    """
    count_T = support.mask_TN.sum(1)
    at_M = at_TS.reshape(-1)[support.mask_TN.reshape(-1).nonzero()[:, 0]]
    both_TE = embedding_bag(at_M, torch.cat([phi_ND, y_ND], 1), count_T.cumsum(0) - count_T, mode="sum")
    phi_TD, y_TD = torch.split(both_TE, [phi_ND.shape[1], y_ND.shape[1]], 1)
    return (phi_TD @ theta["task.choice"] + y_TD) * (1 + count_T.to(phi_ND.dtype)).rsqrt()[:, None]


def noise(theta: MetaParams, batch: Batch) -> Tensor:
    """Noise variance of each row (T, N): one level for known entities, one for unknown ones."""
    return torch.exp(theta["noise.log_var"])[unknown(batch)]


def support_noise(theta: MetaParams, support: Batch) -> Tensor:
    """Noise variance of each support row (T, S), by its age too where the head has learned that."""
    noise_TS, decay_TS = noise(theta, support), decay(theta, support)
    return noise_TS if decay_TS is None else noise_TS * decay_TS


def unknown(batch: Batch) -> Tensor:
    """1 for rows whose entity has no id (T, N), else 0."""
    return (batch.tables.rows.code_N[batch.row_TN] == 0).to(torch.int64)


def residual(theta: MetaParams, phi_TSD: Tensor, bias_TS: Tensor, prior_TD: Tensor, support: Batch) -> Tensor:
    """What each support label (T, S) is beyond the prior's prediction."""
    return support.label_TN.to(phi_TSD.dtype) - theta["mu"] - bias_TS - torch.einsum("tsd,td->ts", phi_TSD, prior_TD)


def posterior(
    theta: MetaParams,
    phi_TSD: Tensor,
    bias_TS: Tensor,
    noise_TS: Tensor,
    prior_TD: Tensor,
    support: Batch,
    *,
    noise_shape: float,
) -> FastWeights:
    """Primal form: `mean` (T, D + 1), `factor` (T, D + 1, D + 1) with Cov[w] = factor factor', and `noise_scale` (T,).

    `noise_shape` are prior rows of evidence on a task's noise level; 0 keeps it the same for all tasks. Gradients flow through
    the mean alone.
    """
    scale_D = torch.exp(0.5 * theta["prior.log_var"])
    mask_TS = support.mask_TN.to(phi_TSD.dtype)
    weight_TS = mask_TS / noise_TS
    residual_TS = residual(theta, phi_TSD, bias_TS, prior_TD, support)
    shift_TD, inverse_TDD, half_TD = posterior_mean(phi_TSD * scale_D, weight_TS, residual_TS)
    mean_TD = prior_TD + scale_D * shift_TD
    with torch.no_grad():
        # r' (Z Z' + R)^-1 r by the matrix inversion lemma; negative only by rounding.
        fit_T = ((weight_TS * residual_TS.square()).sum(1) - half_TD.square().sum(1)).clamp_min(0.0)
        count_T = mask_TS.sum(1)
        scale_T = (noise_shape + fit_T) / (noise_shape + count_T) if noise_shape > 0 else torch.ones_like(count_T)
        factor_TDD = scale_D[:, None] * inverse_TDD.mT
    return {"mean": mean_TD, "factor": factor_TDD, "noise_scale": scale_T}


def contributions(
    theta: MetaParams,
    support_rows: tuple[Tensor, Tensor],
    query_rows: tuple[Tensor, Tensor],
    noise_TS: Tensor,
    profile_TD: Tensor,
    choice_TSD: Tensor,
    support: Batch,
) -> dict[str, Tensor]:
    """Exact terms of the mean by the dual form; `support_rows` and `query_rows` are features and bias of the rows.

    mu, b(q), phi(q)' W0 x and, for each support row j, alpha_j k(q, j) + phi(q)' (C phi_j + y_j) / sqrt(1 + |S|).
    """
    (phi_TSD, bias_TS), (phi_TQD, bias_TQ) = support_rows, query_rows
    var_D, mask_TS = torch.exp(theta["prior.log_var"]), support.mask_TN.to(phi_TSD.dtype)
    residual_TS = residual(theta, phi_TSD, bias_TS, profile_TD + choice_TSD.sum(1), support)
    z_TSD = phi_TSD * mask_TS[..., None]
    kernel_TSS = (z_TSD * var_D) @ z_TSD.mT + torch.diag_embed(noise_TS)
    alpha_TS = torch.cholesky_solve((residual_TS * mask_TS)[..., None], torch.linalg.cholesky(kernel_TSS))[..., 0]
    return {
        "global": theta["mu"].expand_as(bias_TQ),
        "item": bias_TQ,
        "profile": torch.einsum("tqd,td->tq", phi_TQD, profile_TD),
        "support": ((phi_TQD * var_D) @ z_TSD.mT) * alpha_TS[:, None, :] + phi_TQD @ choice_TSD.mT,
    }


def mean(theta: MetaParams, fast: FastWeights, phi_TQD: Tensor, bias_TQ: Tensor) -> Tensor:
    """Predicted label (T, Q)."""
    return theta["mu"] + bias_TQ + torch.einsum("tqd,td->tq", phi_TQD, fast["mean"])


def variance(fast: FastWeights, phi_TQD: Tensor, noise_TQ: Tensor) -> Tensor:
    """Uncalibrated variance of the label (T, Q)."""
    return (phi_TQD @ fast["factor"]).square().sum(-1) + noise_TQ * fast["noise_scale"][:, None]


def bounded_squares(error_TQ: Tensor, unit_TQ: Tensor, bound: float) -> Tensor:
    """Squared errors that grow linearly beyond `bound` units of the label they are of (Huber 1964); 0: nowhere."""
    if not bound:
        return error_TQ.square()
    cost_TQ = huber_loss(error_TQ / unit_TQ, torch.zeros_like(error_TQ), reduction="none", delta=bound)
    return 2 * cost_TQ * unit_TQ.square()


def few_of_each(mask_TQ: Tensor, target_TQ: Tensor, most: int) -> Tensor:
    """Places (T, F) of up to `most` rows of each task, the first ones of every target in turn, padded ones last."""
    number_TQ = torch.zeros_like(target_TQ)
    for target in range(int(target_TQ.max()) + 1):
        mine_TQ = mask_TQ & (target_TQ == target)
        number_TQ = torch.where(mine_TQ, mine_TQ.cumsum(1), number_TQ)
    return torch.argsort(torch.where(mask_TQ, number_TQ, target_TQ.shape[1] + 1), dim=1, stable=True)[:, :most]
