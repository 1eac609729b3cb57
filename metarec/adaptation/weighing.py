"""Weights of targets that a request names, in place of the trained blend.

    score(u, i) = sum over targets t of weight_t * score_t(u, i)

Each target's score is linear in the user's adapted vector, so the sum is too: nothing is adapted anew, and the terms of an
explanation add up as before. A target has the name of its column; the implicit head's is `interacted`.

A target of the dataset's schema may be missing from a checkpoint: the next one may come from a recipe that learns fewer. Callers
who weigh it have changed nothing, so it is left out and said to be (DESIGN 6: what fails degrades), while a name that the schema
does not have is a mistake of theirs.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

from metarec.adaptation.adapted import Adapted
from metarec.adaptation.mixing import num_targets
from metarec.errors import InvalidInputError
from metarec.meta.prior import Prior
from metarec.types import Target

INTERACTED = "interacted"
NOT_LEARNED = "TARGET_NOT_LEARNED"
"""Reason of a degradation for targets that are left out."""
MAX_WEIGHT = 1e6
"""Of either sign: scores are of single precision, and only what weights are beside one another matters."""


def target_names(prior: Prior) -> dict[str, tuple[Target, int]]:
    """For each target that a request may weigh, by name, the head behind it and its number among that head's targets."""
    names: dict[str, tuple[Target, int]] = {}
    if "explicit" in prior.heads:
        labels = prior.schema.labels[: num_targets(prior.heads["explicit"])]
        names = {label.column: ("explicit", number) for number, label in enumerate(labels)}
    if "implicit" in prior.heads:
        names[_implicit_name(prior)] = ("implicit", 0)
    return names


def left_out(prior: Prior, weights: Mapping[str, float]) -> str:
    """What is used in place of these weights where the checkpoint did not learn a target of its schema; "" when it knows all."""
    learned = target_names(prior)
    names = [name for name in _not_learned(prior, learned, weights) if weights[name]]
    if not names:
        return ""
    targets = f"target{'s' if len(names) > 1 else ''} " + ", ".join(f"'{name}'" for name in names)
    rest = any(weight for name, weight in weights.items() if name in learned)
    instead = "the other weights" if rest else "the trained weights"
    return f"{instead}, without {targets}, which checkpoint '{prior.checkpoint}' did not learn"


def _not_learned(prior: Prior, learned: Collection[str], weights: Mapping[str, float]) -> list[str]:
    known = {*(label.column for label in prior.schema.labels), _implicit_name(prior)}
    return [name for name in weights if name in known and name not in learned]


def _implicit_name(prior: Prior) -> str:
    """A column of that name keeps it: it is one of somebody's data."""
    columns = {label.column for label in prior.schema.labels}
    return INTERACTED if INTERACTED not in columns else f"any_{INTERACTED}"


def weigh(adapted: Adapted, weights: Mapping[str, float], field: str = "target_weights") -> Adapted:
    """The user with scores under these weights of targets; as trained without any, or where `left_out` leaves none.

    InvalidInputError names a target that neither the checkpoint nor its schema has, a weight beyond MAX_WEIGHT (or no number), or
    weights that are all 0.
    """
    if not weights:
        return adapted
    prior = adapted.view.prior
    names = target_names(prior)
    missing = _not_learned(prior, names, weights)
    for name, weight in weights.items():
        if name not in names and name not in missing:
            raise InvalidInputError(
                f"'{name}' is no target of checkpoint '{prior.checkpoint}'; its targets are: {', '.join(names)}",
                field=f"{field}.{name}",
            )
        if not abs(weight) <= MAX_WEIGHT:
            raise InvalidInputError(f"must be {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}, not {weight:g}", field=f"{field}.{name}")
    if not any(weights.values()):
        raise InvalidInputError(f"are all 0; weigh at least one of: {', '.join(names)}", field=field)
    mix: dict[Target, list[float]] = {}
    for name, weight in weights.items():
        if weight and name in names:
            head, number = names[name]
            known = mix.setdefault(head, [])
            known += [0.0] * (number + 1 - len(known))
            known[number] = float(weight)
    return replace(adapted, mix={head: tuple(numbers) for head, numbers in mix.items()}) if mix else adapted
