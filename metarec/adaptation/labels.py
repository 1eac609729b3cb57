"""What a user adapted to would give items: ranking scores, and labels with their uncertainty."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch

from metarec.adaptation.adapted import Adapted, query_batch, score
from metarec.adaptation.mixing import explicit_target
from metarec.adaptation.scenarios import label_weights
from metarec.adaptation.view import Floats


def score_items(adapted: Adapted, item_ids: Sequence[str]) -> Floats:
    """Ranking scores; ids nobody knows get the score of an item without id and content."""
    view = adapted.view
    row_N = view.catalogue.rows(item_ids)
    score_N = np.zeros(len(row_N), np.float32)
    known_N = row_N >= 0
    if known_N.any():
        score_N[known_N] = score(view, adapted, row_N[known_N])
    if not known_N.all():
        score_N[~known_N] = score(view.with_unknown, adapted, np.array([len(view.rows)]))
    return score_N


def predict_labels(adapted: Adapted, item_ids: Sequence[str], target: str = "") -> tuple[Floats, Floats | None]:
    """Mean and variance of each item's label, as `Engine.predict` has them."""
    view = adapted.view
    prior, number = view.prior, explicit_target(view.prior, target) if target else 0
    if "explicit" not in view.heads:
        return score_items(adapted, item_ids), None
    row_N = view.catalogue.rows(item_ids)
    if (row_N < 0).any():
        view = view.with_unknown
        row_N = np.where(row_N < 0, len(view.rows) - 1, row_N)
    head, fast = view.heads["explicit"], label_weights(view, adapted)
    query = query_batch(view, adapted.profile, row_N)
    if number:
        query = replace(query, target_TN=torch.full_like(query.row_TN, number))
    with torch.no_grad():
        found = head.learner.predict(head.model, head.theta, fast, query)
    if prior.link is not None and not number:
        score_N = found.mean_TQ[0].double().numpy()
        return prior.link.probability(score_N).astype(np.float32), prior.link.variance(score_N).astype(np.float32)
    variance = None if found.variance_TQ is None else cast(Floats, found.variance_TQ[0].float().numpy())
    return cast(Floats, found.mean_TQ[0].float().numpy()), variance
