"""An item as a task: its vector from content, and a posterior from its first ratings (DESIGN 4.1, the same maths mirrored).

With the users' vectors w_u known, a rating is linear in the item's vector and offset: y_u = mu + w_u' [phi, 1] + b + noise. The
prior is what content tells, with the spread that id vectors have around content in training; a user's own uncertainty adds to
the noise of their rating. Bayesian linear regression (Bishop 2006, eqs. 3.50-3.51) does the rest. The item's id, if training knew
it, is not used, as users' ids are not: the support set is all there is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from metarec.adaptation.adapted import fast_weights
from metarec.adaptation.view import EngineView, Floats
from metarec.errors import FailedPreconditionError
from metarec.meta.alpaca import Alpaca
from metarec.meta.prior import Head
from metarec.models.linear_gaussian import LinearGaussian
from metarec.tasks.batch import EntityTable
from metarec.types import Interaction

Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TaskUsers:
    """Users as the rows of an item task: profiles (row k is user k) and their own support sets of known items."""

    profiles: EntityTable
    supports: Sequence[Sequence[Interaction]]


def predict_item(
    view: EngineView, item: EntityTable, raters: TaskUsers, labels: Sequence[float], others: TaskUsers
) -> tuple[Floats, Floats]:
    """Predictive mean and variance of the labels that `others` would give the one `item`, after `labels` of `raters`.

    FailedPreconditionError when the checkpoint has no explicit closed-form head.
    """
    head = _closed_form(view)
    theta = {name: value.double() for name, value in head.theta.items() if value.is_floating_point()}
    phi_1E, bias_1 = cast(LinearGaussian, head.model).row_features(head.theta, item, known_N=torch.zeros(1))
    phi_E = phi_1E[0].double().numpy()
    dim = len(phi_E) - 1
    mean_E = np.append(phi_E[:dim], float(bias_1[0]))
    variance_E = np.append(_spread(theta["row.id"].numpy()), _spread(theta["row.id_bias"].numpy()[:, None]))
    sigma2, mu = math.exp(float(theta["noise.log_var"][0])), float(theta["mu"])
    precision_EE = np.diag(1 / np.maximum(variance_E, 1e-9))
    moment_E = precision_EE @ mean_E
    if labels:
        x_UE, level_U, noise_U = _rows(view, raters, phi_E)
        weight_U = 1 / (noise_U + sigma2)
        precision_EE = precision_EE + (x_UE * weight_U[:, None]).T @ x_UE
        moment_E = moment_E + x_UE.T @ (weight_U * (np.asarray(labels, np.float64) - mu - level_U))
    covariance_EE = np.linalg.inv(precision_EE)
    posterior_E = covariance_EE @ moment_E
    if not len(others.supports):
        return np.zeros(0, np.float32), np.zeros(0, np.float32)
    x_UE, level_U, noise_U = _rows(view, others, np.append(posterior_E[:dim], 1.0))
    mean_U = mu + level_U + x_UE @ posterior_E
    variance_U = np.einsum("ue,ef,uf->u", x_UE, covariance_EE, x_UE) + noise_U + sigma2
    return mean_U.astype(np.float32), variance_U.astype(np.float32)


def _closed_form(view: EngineView) -> Head:
    head = view.heads.get("explicit")
    if head is None or head.learner.name != Alpaca.name:
        found = "no explicit head" if head is None else f"an explicit head of learner '{head.learner.name}'"
        raise FailedPreconditionError(
            f"checkpoint '{view.prior.checkpoint}' has {found}; item tasks need one of learner '{Alpaca.name}'",
            metadata={"checkpoint": view.prior.checkpoint},
        )
    return head


def _rows(view: EngineView, users: TaskUsers, phi_E: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Users as rows: [w_u, 1] against an item's vector and offset, their level, and the variance of phi' w_u."""
    fast = fast_weights(view, users.profiles, users.supports, targets=("explicit",))["explicit"]
    w_UE, factor_UEE = fast["mean"].double().numpy(), fast["factor"].double().numpy()
    x_UE = np.column_stack([w_UE[:, :-1], np.ones(len(w_UE))])
    return x_UE, w_UE[:, -1], np.square(phi_E @ factor_UEE).sum(1)


def _spread(id_CD: Doubles) -> Doubles:
    """Variance of the id vectors of known entities around 0, the vector of an unknown one."""
    return np.square(id_CD[1:]).mean(0) if len(id_CD) > 1 else np.zeros(id_CD.shape[1])
