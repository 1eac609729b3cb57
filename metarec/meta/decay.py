"""Newer support weighs more: the noise of a support row grows with its age, by as much as the outer loss asks for.

    sigma_j^2 = sigma^2 (1 + age_j / tau)^gamma

with age_j the time from row j to the newest row of the same support set, tau in days. What somebody said long before they were
last seen tells less about them: a power law, since forgetting has no one scale (Wixted & Ebbesen 1991); in the closed form a row
of twice the noise counts half. Without `noise.decay` in theta all rows count alike. Explanations and uncertainty follow, for they
are made of the same noise.
"""

import torch
from torch import Tensor

from metarec.models.contract import MetaParams
from metarec.tasks.batch import Batch

NAME = "noise.decay"
"""Of theta: gamma and the logarithm of tau in days."""
SECONDS_PER_DAY = 86_400.0


def ages(support: Batch) -> Tensor:
    """Days (T, S) from each row to the newest of its task; 0 where padded, and everywhere without timestamps."""
    if support.timestamp_TN is None or not support.mask_TN.shape[1]:
        return torch.zeros(support.mask_TN.shape, dtype=torch.float64)
    newest_T1 = support.timestamp_TN.masked_fill(~support.mask_TN, -torch.inf).amax(1, keepdim=True)
    return torch.where(support.mask_TN, newest_T1 - support.timestamp_TN, 0.0) / SECONDS_PER_DAY


def decay(theta: MetaParams, support: Batch) -> Tensor | None:
    """By how much the noise of each support row (T, S) is multiplied; None for a head without decay."""
    if NAME not in theta or support.timestamp_TN is None:
        return None
    return growth(theta[NAME], ages(support))


def growth(decay_2: Tensor, age_TS: Tensor) -> Tensor:
    """(1 + age / tau)^gamma in the type of the parameters."""
    gamma, log_tau = decay_2
    return torch.exp(gamma * torch.log1p(age_TS.to(decay_2.dtype) * torch.exp(-log_tau)))
