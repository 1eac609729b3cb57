"""How far scenarios lie apart: kappa, the variance between scenarios over that between users (metarec.meta.scenario).

The marginal likelihood of what users did, given kappa, needs the eigenvalues of each scenario's own block of the precision alone.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

KAPPAS = tuple(10.0**power for power in (-4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0, 0.5, 1))
"""Candidate ratios of the variance between scenarios to that between users."""

RATE = 4.6
"""How fast the prior of log kappa falls with the root of kappa: kappa = 1, scenarios as far apart as users, is taken for a
hundredth as likely as none."""

Spectra = Mapping[int, tuple[Tensor, Tensor]]
"""Eigenvalues (E,) and eigenvectors (E, E) of each scenario's own block of the precision."""


def spectrum(block_EE: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of a block of the precision."""
    value_E, root_EE = torch.linalg.eigh(block_EE)
    # Negative only by rounding.
    return value_E.clamp_min(0), root_EE


def weigh(own: Spectra, moment: Mapping[int, Tensor], kappas: Sequence[float]) -> Tensor:
    """Posterior weights (C,) of the kappas: how well each explains what users did, times its prior."""
    log_C = [sum(_evidence(*own[k], moment[k], kappa) for k in own) - RATE * math.sqrt(kappa) for kappa in kappas]
    return torch.softmax(torch.tensor(log_C, dtype=torch.float64), 0)


def _evidence(value_E: Tensor, root_EE: Tensor, moment_E: Tensor, kappa: float) -> float:
    """Log marginal likelihood of the users' rows at this kappa, up to a constant."""
    explained = (root_EE.T @ moment_E).square() / (value_E + 1 / kappa)
    return float((explained - torch.log1p(kappa * value_E)).sum()) / 2
