"""Weights of targets that a request names, in place of the trained blend.

    score(u, i) = sum over targets t of weight_t * score_t(u, i)

Each target's score is linear in the user's adapted vector, so the sum is too: nothing is adapted anew, and the terms of an
explanation add up as before. A target has the name of its column; the implicit head's is `interacted`.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

from metarec.adaptation.adapted import Adapted
from metarec.errors import InvalidInputError
from metarec.meta.prior import Prior
from metarec.types import Target

INTERACTED = "interacted"


def target_names(prior: Prior) -> dict[str, Target]:
    """The head behind each target that a request may weigh, by name."""
    names: dict[str, Target] = {}
    if "explicit" in prior.heads:
        names[prior.schema.label.column] = "explicit"
    if "implicit" in prior.heads:
        # A label's column of that name keeps it: it is a column of somebody's data.
        names[INTERACTED if INTERACTED not in names else f"any_{INTERACTED}"] = "implicit"
    return names


def weigh(adapted: Adapted, weights: Mapping[str, float], field: str = "target_weights") -> Adapted:
    """The user with scores under these weights of targets; as trained without any.

    InvalidInputError names a target that the checkpoint does not have, a weight that is not finite, or weights that are all 0.
    """
    if not weights:
        return adapted
    names = target_names(adapted.view.prior)
    for name, weight in weights.items():
        if name not in names:
            raise InvalidInputError(
                f"'{name}' is no target of checkpoint '{adapted.view.prior.checkpoint}'; its targets are: {', '.join(names)}",
                field=f"{field}.{name}",
            )
        if not math.isfinite(weight):
            raise InvalidInputError(f"must be a finite number, not {weight}", field=f"{field}.{name}")
    if not any(weights.values()):
        raise InvalidInputError(f"are all 0; weigh at least one of: {', '.join(names)}", field=field)
    return replace(adapted, mix={names[name]: float(weight) for name, weight in weights.items() if weight})
