"""An item as a task: its vector from content, and a posterior from its first labels (DESIGN 4.1, the same maths mirrored).

With the users' vectors w_u known, a label is linear in the item's vector and offset. The prior is the checkpoint's item side;
where it has none (too few items to learn one from), what the head's content map tells, with the spread that id vectors have
around it in training. A user's own uncertainty adds to the noise of their label. The item's id, if training knew it, is not used,
as users' ids are not: the support set is all there is. Raters must come without what they said of the very item. What a user
leans to in content is a part of what is predicted of them (metarec.meta.leanings).
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metarec.adaptation.adapted import fast_weights
from metarec.adaptation.view import EngineView, Floats, row_at
from metarec.errors import NotFoundError
from metarec.meta.item_prior import closed_form, item_prior
from metarec.meta.item_side import posterior
from metarec.meta.leanings import History, learn_leanings
from metarec.meta.prior_users import as_rows
from metarec.tasks.batch import EntityTable
from metarec.tasks.tables import encode_unknown_items
from metarec.types import Features, Interaction

Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TaskUsers:
    """Users as the rows of an item task: profiles (row k is user k) and their own support sets of known items."""

    profiles: EntityTable
    supports: Sequence[Sequence[Interaction]]


def item_row(view: EngineView, item: Features | str, fields: Collection[str]) -> EntityTable:
    """The one row of an item: of the view by its id, else of its content, of which only these fields are read.

    NotFoundError for an unknown id.
    """
    if not isinstance(item, str):
        known = {name: value for name, value in item.items() if name in fields}
        return encode_unknown_items(view.prior.encoder, [known])
    if item not in view.catalogue.row_of:
        raise NotFoundError(f"item '{item}' is unknown; upsert it or send its features", metadata={"item_id": item})
    return row_at(view.rows, view.catalogue.row_of[item])


def predict_item(
    view: EngineView, item: EntityTable, raters: TaskUsers, labels: Sequence[float], others: TaskUsers
) -> tuple[Floats, Floats]:
    """Predictive mean and variance of the labels that `others` would give the one `item`, after `labels` of `raters`.

    FailedPreconditionError when the checkpoint has no explicit closed-form head.
    """
    head = closed_form(view.prior)
    mean_1E, spread_EE = item_prior(view.prior, item)
    mean_E = mean_1E[0]
    sigma2, mu = math.exp(float(head.theta["noise.log_var"][0])), float(head.theta["mu"])
    phi_E = np.append(mean_E[:-1], 1.0)
    posterior_E, covariance_EE = mean_E, spread_EE
    if labels:
        x_UE, level_U, noise_U = _rows(view, raters, phi_E)
        residual_U = np.asarray(labels, np.float64) - mu - level_U
        posterior_E, covariance_EE = posterior(mean_E, spread_EE, x_UE, residual_U, noise_U + sigma2)
    if not len(others.supports):
        return np.zeros(0, np.float32), np.zeros(0, np.float32)
    x_UE, level_U, noise_U = _rows(view, others, np.append(posterior_E[:-1], 1.0))
    mean_U = mu + level_U + x_UE @ posterior_E
    histories = [_history(view, support) for support in others.supports]
    leanings = learn_leanings(view.prior.item_side, view.heads["explicit"], view.rows, histories)
    if leanings is not None:
        mean_U = leanings.mixed(mean_U, posterior_E, item)
    variance_U = np.einsum("ue,ef,uf->u", x_UE, covariance_EE, x_UE) + noise_U + sigma2
    if view.prior.link is not None:
        mean_U, variance_U = view.prior.link.probability(mean_U), view.prior.link.variance(mean_U)
    return mean_U.astype(np.float32), variance_U.astype(np.float32)


def _history(view: EngineView, support: Sequence[Interaction]) -> History:
    support = sorted(support, key=lambda entry: entry.timestamp)
    row_S = view.catalogue.rows(entry.item_id for entry in support)
    return row_S, np.array([entry.label for entry in support], np.float64)


def _rows(view: EngineView, users: TaskUsers, phi_E: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Users as rows: [w_u, 1] against an item's vector and offset, their level, and the variance of phi' w_u."""
    fast = fast_weights(view, users.profiles, users.supports, targets=("explicit",))["explicit"]
    w_UE, factor_UEE = fast["mean"].double().numpy(), fast["factor"].double().numpy()
    return as_rows(w_UE), w_UE[:, -1], np.square(phi_E @ factor_UEE).sum(1)
