"""A scenario as a task: what all of its users have in common against the users of training (DESIGN 4.1, one level up).

A new platform, market or surface has users of its own. Their vectors are w_u = w0(x_u) + m + e_u with e_u ~ N(0, V) as ever and
one shift m ~ N(0, kappa V) that they share. With every e_u integrated out, m has a Gaussian posterior in closed form (the
hierarchical linear model of Lindley & Smith 1972, section 2): in coordinates whitened by V, a user whose posterior under m = 0
has mean w0 + d and covariance F F' tells about m with precision I - V^(-1/2) F F' V^(-1/2) and moment V^(-1/2) d. So a scenario
adapts from the posteriors that adaptation gives anyway, in one sum over its users; kappa maximises the marginal likelihood of
what they did (MacKay 1992). The shifted prior is a head like any other: users of the scenario adapt from it, explanations stay
exact, and without users it is the old one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from metarec.errors import ConfigError
from metarec.meta.alpaca import Alpaca
from metarec.meta.alpaca_terms import choice, unknown
from metarec.meta.prior import Head
from metarec.models.linear_gaussian import LinearGaussian
from metarec.tasks.batch import Batch

KAPPAS = tuple(10.0**power for power in (-4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0, 0.5, 1))
"""Candidate ratios of the variance between scenarios to that between users."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What a scenario's users have in common: the mean of m (E,), its covariance (E, E), and the kappa chosen."""

    mean_E: Tensor
    covariance_EE: Tensor
    kappa: float
    num_users: int

    def head(self, head: Head) -> Head:
        """`head` for users of the scenario: its prior mean moved by the mean of m."""
        moved = head.theta["task.mean"] + self.mean_E.to(head.theta["task.mean"].dtype)
        return replace(head, theta={**head.theta, "task.mean": moved})


def adapt_scenario(head: Head, supports: Iterable[Batch]) -> Scenario:
    """The posterior of a scenario from the support sets of its users, in batches; ConfigError for a head not in closed form."""
    if head.learner.name != Alpaca.name or head.kind != "user":
        raise ConfigError(
            f"scenarios are tasks of learner '{Alpaca.name}', kind 'user', not of '{head.learner.name}', kind '{head.kind}'",
            field="learner",
        )
    scale_E = torch.exp(0.5 * head.theta["prior.log_var"]).double()
    width = len(scale_E)
    eye_EE = torch.eye(width, dtype=torch.float64)
    precision_EE, moment_E, users = torch.zeros(width, width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64), 0
    for support in supports:
        with torch.no_grad():
            fast = head.learner.adapt(head.model, head.theta, support)
            moved_TE = (fast["mean"] - _prior_mean(head, support)).double() / scale_E
        root_TEE = fast["factor"].double() / scale_E[:, None]
        precision_EE += support.num_tasks * eye_EE - torch.einsum("tef,tgf->eg", root_TEE, root_TEE)
        moment_E += moved_TE.sum(0)
        users += support.num_tasks
    kappa = max(KAPPAS, key=lambda value: _evidence(precision_EE, moment_E, value)) if users else KAPPAS[0]
    covariance_EE = torch.linalg.inv(precision_EE + eye_EE / kappa)
    return Scenario(
        mean_E=scale_E * (covariance_EE @ moment_E),
        covariance_EE=scale_E[:, None] * covariance_EE * scale_E,
        kappa=kappa,
        num_users=users,
    )


def _prior_mean(head: Head, support: Batch) -> Tensor:
    """w0 of each task (T, E), what its choice of rows says included."""
    linear = cast(LinearGaussian, head.model)
    phi_TSE, _ = linear.batch_features(head.theta, support)
    profile_TE = linear.task_prior(head.theta, support.tables.tasks, support.task_T)
    return profile_TE + choice(head.theta, phi_TSE, support, unknown(support)).sum(1)


def _evidence(precision_EE: Tensor, moment_E: Tensor, kappa: float) -> float:
    """Log marginal likelihood of the users' rows at this kappa, up to a constant."""
    eye_EE = torch.eye(len(moment_E), dtype=torch.float64)
    explained = moment_E @ torch.linalg.solve(precision_EE + eye_EE / kappa, moment_E)
    return float(explained - torch.logdet(eye_EE + kappa * precision_EE)) / 2
