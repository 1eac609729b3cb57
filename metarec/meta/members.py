"""Several trainings of one closed form as one: an ensemble that adapts, explains and serves as a single head does.

Trainings from different seeds find different features, and the mean over them errs less (Lakshminarayanan et al. 2017). For
Bayesian linear regression no second model is needed. Put the features of M members side by side,

    phi(i) = [phi_1(i), ..., phi_M(i)]        V = diag(V_1, ..., V_M) / M        w0 = [w0_1, ..., w0_M] / M

and the prior mean phi' w0 is the mean of the members' prior means, the kernel phi' V phi the mean of their kernels: one Gaussian
process with the averaged kernel (a mean of kernels is one: Rasmussen & Williams 2006, section 4.2.4), exact like each of them.
All members share the constant, whose coordinate is kept once, with the mean variance and the sum of the shares of its mean.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from metarec.meta.alpaca import Alpaca
from metarec.meta.prior import Head
from metarec.meta.row_axes import fold_axes
from metarec.models.contract import MetaParams
from metarec.models.linear_gaussian import LinearGaussian

AVERAGED = ("mu", "row.id_bias", "row.content_bias", "task.content_bias", "noise.log_var", "predict.log_scale")


def has_members(learner: str) -> bool:
    """Whether trainings of this learner can be made one."""
    return learner == Alpaca.name


def merged(thetas: Sequence[MetaParams]) -> MetaParams:
    """One theta of `alpaca`, as wide as all together, from those of trainings on the same tables; axes are folded in.

    A single theta comes back as it is.
    """
    if len(thetas) == 1:
        return thetas[0]
    members, share = [fold_axes(theta) for theta in thetas], 1 / len(thetas)

    def side_by_side(name: str) -> Tensor:
        return torch.cat([theta[name] for theta in members], 1)

    def mean(parts: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(parts)).mean(0)

    def with_constant(parts: Sequence[Tensor]) -> Tensor:
        """Last dimension: the tastes of all members, then the constant they have in common; each with its share."""
        return torch.cat([*(part[..., :-1] * share for part in parts), mean([part[..., -1:] for part in parts])], -1)

    choice = [theta["task.choice"] for theta in members]  # rows: a member's features; columns: its part of w
    taste_DE = torch.block_diag(*(part[:-1, :-1] * share for part in choice))  # type: ignore[no-untyped-call]  # torch has no types for it
    offset_D = torch.cat([part[:-1, -1] * share for part in choice])
    log_vars = [theta["prior.log_var"] for theta in members]
    return {
        **{name: mean([theta[name] for theta in members]) for name in AVERAGED},
        "row.id": side_by_side("row.id"),
        "row.content": side_by_side("row.content"),
        "row.choice": with_constant([theta["row.choice"] for theta in members]),
        "task.content": side_by_side("task.content") * share,
        "task.mean": with_constant([theta["task.mean"] for theta in members]),
        "task.choice": torch.cat(
            [torch.cat([taste_DE, offset_D[:, None]], 1), with_constant([part[-1] for part in choice])[None]]
        ),
        "prior.log_var": torch.cat(
            [*(part[:-1] + math.log(share) for part in log_vars), _log_mean([part[-1:] for part in log_vars])]
        ),
    }


def as_wide(head: Head) -> Head:
    """The head with a model of its theta's dimensions, which are those of all members; others as they are."""
    if head.learner.name != Alpaca.name or "task.mean" not in head.theta:
        return head
    model = cast(LinearGaussian, head.model)
    return replace(head, model=replace(model, embedding_dim=len(head.theta["task.mean"]) - 1))


def _log_mean(logs: Sequence[Tensor]) -> Tensor:
    return torch.logsumexp(torch.stack(list(logs)), 0) - math.log(len(logs))
