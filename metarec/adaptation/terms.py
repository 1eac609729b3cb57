"""The score of one item as terms that add up to it.

Vector learners give their exact terms (DESIGN 4.1). Any other learner is explained by adding one thing after another (the
profile, then each interaction in time order) and taking the differences: a telescoping sum, exact whatever the learner.
"""

from dataclasses import replace
from typing import cast

import numpy as np
import torch

from metarec.adaptation.adapted import Adapted, fast_weights, label_rows, query_batch
from metarec.adaptation.mixing import mixed_vector
from metarec.adaptation.shifts import shift_value
from metarec.adaptation.view import EngineView, is_vector_learner, row_vectors
from metarec.meta.contract import VectorLearner, takes_targets
from metarec.tasks.tables import encode_unknown_users
from metarec.types import Contribution, Target


def score_terms(adapted: Adapted, item_id: str) -> list[Contribution]:
    """Global, item and profile terms of the ranking score, and one for each support interaction used, oldest first.

    The item's term holds what its own first labels say of it. A user whom a scenario's shift concerns has a term of it, 0 outside
    the scenario.
    """
    view = adapted.view
    row = view.catalogue.row_of.get(item_id)
    if row is None:
        view = view.with_unknown
        row = len(view.rows) - 1
    shared = dict.fromkeys(("global", "item", "profile"), 0.0)
    support = np.zeros(adapted.shots)
    for target, weights in adapted.weights.items():
        head_terms = _linear_terms if is_vector_learner(view.heads[target]) else _telescoped_terms
        for number, weight in enumerate(weights):
            if weight:
                plain, each = head_terms(view, target, number, adapted, row)
                for name, value in plain.items():
                    shared[name] += weight * value
                support += weight * np.array(each)
    return [
        Contribution(kind="global", value=shared["global"]),
        Contribution(kind="item", value=shared["item"] + shift_value(adapted, item_id)),
        Contribution(kind="profile", value=shared["profile"]),
        *_scenario_term(view, adapted, row),
        *(
            Contribution(kind="support", item_id=entry.item_id, label=entry.label, value=float(value))
            for entry, value in zip(adapted.used, support, strict=True)
        ),
    ]


def _scenario_term(view: EngineView, adapted: Adapted, row: int) -> list[Contribution]:
    if adapted.within is None or "explicit" not in adapted.weights:
        return []
    head = view.heads["explicit"]
    phi_ID, _ = row_vectors(head, view.rows)
    shift_E = mixed_vector(head, adapted.weights["explicit"], adapted.within.shift_E)
    return [Contribution(kind="scenario", value=float(phi_ID[row] @ shift_E))]


def _linear_terms(
    view: EngineView, target: Target, number: int, adapted: Adapted, row: int
) -> tuple[dict[str, float], list[float]]:
    """Terms of a head's target `number`; an interaction's is the sum of those of its labels."""
    head = view.heads[target]
    query = query_batch(view, adapted.profile, np.array([row]))
    columns: tuple[str, ...] = ()
    if takes_targets(head.learner):
        columns = tuple(label.column for label in view.prior.schema.targets)
        query = replace(query, target_TN=torch.full_like(query.row_TN, number))
    with torch.no_grad():
        support = adapted.support(view, target)
        terms = cast(VectorLearner, head.learner).contributions(head.model, head.theta, support, query)
    plain = {name: float(terms[name][0, 0]) for name in ("global", "item", "profile")}
    each = iter(terms["support"][0, 0].tolist())
    return plain, [sum(next(each) for _ in label_rows([entry], columns)) for entry in adapted.used]


def _telescoped_terms(
    view: EngineView, target: Target, number: int, adapted: Adapted, row: int
) -> tuple[dict[str, float], list[float]]:
    """`global` is what an item without id and content scores for nobody in particular, `item` what this one does beyond it."""
    head, encoder = view.heads[target], view.prior.encoder
    bare = encode_unknown_users(encoder, [{}])
    steps = len(adapted.used) + 1
    profiles = replace(bare, code_N=bare.code_N.new_zeros(steps + 1), dense_NP=adapted.profile.dense_NP.repeat(steps + 1, 1))
    profiles.dense_NP[0] = bare.dense_NP[0]
    supports = [(), *(adapted.used[:count] for count in range(steps))]
    everything = view if row >= len(view.catalogue.ids) else view.with_unknown
    fast = fast_weights(everything, profiles, supports, targets=(target,))[target]
    rows = np.array([row, len(everything.rows) - 1])
    query = query_batch(everything, profiles, rows)
    query = replace(
        query,
        task_T=torch.arange(steps + 1),
        row_TN=query.row_TN.expand(steps + 1, -1),
        label_TN=query.label_TN.expand(steps + 1, -1),
        mask_TN=query.mask_TN.expand(steps + 1, -1),
    )
    with torch.no_grad():
        mean_TQ = head.learner.predict(head.model, everything.heads[target].theta, fast, query).mean_TQ.double().numpy()
    score_T = mean_TQ[:, 0]
    shared = float(mean_TQ[0, 1])
    plain = {"global": shared, "item": float(score_T[0]) - shared, "profile": float(score_T[1] - score_T[0])}
    return plain, np.diff(score_T[1:]).tolist()
