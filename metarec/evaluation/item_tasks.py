"""Predicting episodes whose tasks are items: raters come with their own histories, the item with its content and support set.

A user's vector follows from their training interactions, which leave out those with the items of the episodes; then the
item's posterior under the checkpoint's item side gives every asked label (metarec/meta/item_side.py), with what the user leans
to in content (metarec/meta/leanings.py).
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from metarec.evaluation.entities import Entities
from metarec.evaluation.episodes import Episodes
from metarec.evaluation.metrics import LabelScale, Predictions
from metarec.meta.item_prior import closed_form, item_prior
from metarec.meta.item_side import posterior
from metarec.meta.leanings import Leanings, learn_leanings
from metarec.meta.prior import Prior
from metarec.meta.prior_users import adapted_users, as_rows
from metarec.tasks.batch import Tables
from metarec.tasks.layout import TaskLayout

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class ItemTasks:
    """Predicts item episodes over `entities` (kind `item`) with the histories in `dataset` (mirrored, as the entities are)."""

    def __init__(self, prior: Prior, entities: Entities, dataset: "Dataset", scale: LabelScale) -> None:
        head = closed_form(prior).prepared(prior.items)
        self.head, self.side, self.items, self.asked = head, prior.item_side, prior.items, entities.users
        self.layout = layout = _histories(prior, entities, dataset)
        mean_UE, factor_UEE = adapted_users(head, Tables(tasks=entities.items, rows=prior.items), layout)
        self.x_UE, self.level_U, self.factor_UEE = as_rows(mean_UE), mean_UE[:, -1], factor_UEE
        self.noise, self.mu = float(torch.exp(head.theta["noise.log_var"][0])), float(head.theta["mu"])
        self.link, self.scale = prior.link, scale
        self.prior_IE, self.spread_EE = item_prior(prior, entities.users)
        self.asked_U: Ints = np.zeros(0, np.int64)
        self.leanings: Leanings | None = None

    def __call__(self, episodes: Episodes) -> Predictions:
        """Predictions of every query row."""
        tasks = episodes.tasks
        leanings = self._leanings(np.unique(tasks.query_item_Q))
        score_Q, variance_Q = np.zeros(len(tasks.query_item_Q)), np.zeros(len(tasks.query_item_Q))
        for task, item in enumerate(tasks.user_T):
            given = slice(tasks.support_start_T1[task], tasks.support_start_T1[task + 1])
            asked = slice(tasks.query_start_T1[task], tasks.query_start_T1[task + 1])
            raters, others = tasks.support_item_S[given], tasks.query_item_Q[asked]
            theta_E, covariance_EE = self.prior_IE[item], self.spread_EE
            if len(raters):
                residual_U = tasks.support_label_S[given] - self.mu - self.level_U[raters]
                theta_E, covariance_EE = posterior(
                    theta_E, self.spread_EE, self.x_UE[raters], residual_U, self._noise(raters, theta_E)
                )
            x_UE = self.x_UE[others]
            mean_U = self.mu + self.level_U + self.x_UE @ theta_E
            if leanings is not None:
                mean_U = leanings.mixed(mean_U, theta_E, self.asked.at(slice(item, item + 1)))
            score_Q[asked] = mean_U[others]
            variance_Q[asked] = ((x_UE @ covariance_EE) * x_UE).sum(1) + self._noise(others, theta_E)
        if self.link is not None:
            return Predictions(score_Q=score_Q, estimate_Q=self.link.probability(score_Q), variance_Q=self.link.variance(score_Q))
        estimate_Q = np.clip(score_Q, self.scale.minimum, self.scale.maximum)
        return Predictions(score_Q=score_Q, estimate_Q=estimate_Q, variance_Q=variance_Q)

    def _leanings(self, user_U: Ints) -> Leanings | None:
        """Of all users, of whom only these come with their history; the same episodes with other shots ask for the same ones."""
        if not np.array_equal(user_U, self.asked_U):
            layout, self.asked_U = self.layout.select(user_U), user_U
            slices = [layout.rows_of(task) for task in range(len(layout))]
            histories = [(layout.row_N[rows], layout.label_N[rows].astype(np.float64)) for rows in slices]
            self.leanings = learn_leanings(self.side, self.head, self.items, histories)
        return self.leanings

    def _noise(self, user_N: NDArray[np.int64], theta_E: Floats) -> Floats:
        """Noise of the labels of these users: the head's, and what is not known of their own vectors."""
        phi_E = np.append(theta_E[:-1], 1.0)
        spread_N: Floats = np.square(phi_E @ self.factor_UEE[user_N]).sum(1) + self.noise
        return spread_N


def _histories(prior: Prior, entities: Entities, dataset: "Dataset") -> TaskLayout:
    """What every user of the tables did with items that the checkpoint knows and no episode is about."""
    events = dataset.interactions
    asked = set(entities.user_ids)
    row_of = {item_id: row for row, item_id in enumerate(prior.item_ids)}
    row_I = np.array([-1 if str(item) in asked else row_of.get(str(item), -1) for item in dataset.user_ids], np.int64)
    item_N = row_I[events.user_N]
    keep_N = item_N >= 0
    return TaskLayout.from_arrays(
        entities.item_of_row[events.item_N[keep_N]],
        item_N[keep_N],
        events.label_N[keep_N],
        events.timestamp_N[keep_N],
        num_tasks=len(entities.items),
        num_rows=len(prior.item_ids),
    )
