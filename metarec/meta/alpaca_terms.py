"""Terms of the closed form that adaptation, prediction and explanations share (metarec.meta.alpaca).

Shapes: T tasks, S support rows, Q query rows, N rows of either, D + 1 features with the constant last.
"""

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from metarec.meta.decay import decay
from metarec.models.contract import FastWeights, MetaParams
from metarec.tasks.batch import Batch


def choice(theta: MetaParams, phi_TSD: Tensor, support: Batch, unknown_TS: Tensor) -> Tensor:
    """(C phi_j + y_j) / sqrt(1 + |S|) of each support row (T, S, D + 1), y_j only where known; 0 for padded rows."""
    mask_TS = support.mask_TN.to(phi_TSD.dtype)
    y_TSD = theta["row.choice"][support.tables.rows.code_N[support.row_TN]] * (1 - unknown_TS)[..., None]
    scale_TS = mask_TS * (1 + mask_TS.sum(1, keepdim=True)).rsqrt()
    return (phi_TSD @ theta["task.choice"] + y_TSD) * scale_TS[..., None]


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
