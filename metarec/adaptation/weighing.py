"""Weights of targets that a request names, in place of the trained blend.

    score(u, i) = sum over targets t of weight_t * score_t(u, i)

Each target's score is linear in the user's adapted vector, so the sum is too: nothing is adapted anew, and the terms of an
explanation add up as before. A target has the name of its column; the implicit head's is `interacted`.
"""

from collections.abc import Mapping
from dataclasses import replace

from metarec.adaptation.adapted import Adapted
from metarec.adaptation.mixing import num_targets
from metarec.errors import InvalidInputError
from metarec.meta.prior import Prior
from metarec.types import Target

INTERACTED = "interacted"
MAX_WEIGHT = 1e6
"""Of either sign: scores are of single precision, and only what weights are beside one another matters."""


def target_names(prior: Prior) -> dict[str, tuple[Target, int]]:
    """For each target that a request may weigh, by name, the head behind it and its number among that head's targets."""
    names: dict[str, tuple[Target, int]] = {}
    if "explicit" in prior.heads:
        labels = prior.schema.labels[: num_targets(prior.heads["explicit"])]
        names = {label.column: ("explicit", number) for number, label in enumerate(labels)}
    if "implicit" in prior.heads:
        # A column of that name keeps it: it is one of somebody's data.
        names[INTERACTED if INTERACTED not in names else f"any_{INTERACTED}"] = ("implicit", 0)
    return names


def weigh(adapted: Adapted, weights: Mapping[str, float], field: str = "target_weights") -> Adapted:
    """The user with scores under these weights of targets; as trained without any.

    InvalidInputError names a target that the checkpoint does not have, a weight beyond MAX_WEIGHT (or no number), or weights that
    are all 0.
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
        if not abs(weight) <= MAX_WEIGHT:
            raise InvalidInputError(f"must be {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}, not {weight:g}", field=f"{field}.{name}")
    if not any(weights.values()):
        raise InvalidInputError(f"are all 0; weigh at least one of: {', '.join(names)}", field=field)
    mix: dict[Target, list[float]] = {}
    for name, weight in weights.items():
        head, number = names[name]
        if weight:
            known = mix.setdefault(head, [])
            known += [0.0] * (number + 1 - len(known))
            known[number] = float(weight)
    return replace(adapted, mix={head: tuple(numbers) for head, numbers in mix.items()})
