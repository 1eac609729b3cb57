"""Completes a profile from behaviour: probabilities for the fields that are not known, and those that are as they were given."""

from dataclasses import dataclass

import numpy as np

from metarec.adaptation.adapted import Adapted
from metarec.errors import FailedPreconditionError
from metarec.features.values import as_categories, is_missing
from metarec.meta.prior import Prior
from metarec.meta.profile_inputs import known_fields
from metarec.meta.profiles import ProfileField, Profiles
from metarec.types import Features


@dataclass(frozen=True, kw_only=True)
class LikelyValue:
    """A value and its probability; the other values of a categorical field together are "". A bucket of a number is
    `lower` <= number < `upper`, None where it has no such end."""

    value: str
    probability: float
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True, kw_only=True)
class CompletedField:
    """A field of a profile: `observed` as it was given, or inferred with the likeliest value first.

    Values of a field of several values have probabilities of their own, those of others add up to 1. There are none where a field
    is missing and the checkpoint has learned nothing of it.
    """

    name: str
    observed: bool
    exclusive: bool
    values: tuple[LikelyValue, ...]


def learned_profiles(prior: Prior) -> Profiles:
    """What `prior` knows of profiles; FailedPreconditionError when nothing was learned."""
    if prior.profiles is None:
        raise FailedPreconditionError(
            f"checkpoint '{prior.checkpoint}' knows nothing of profiles: it is of an older metarec, its users have no field to "
            "learn, or no head of it is linear; train one by 'metarec train' with recipe 'alpaca'",
            metadata={"checkpoint": prior.checkpoint},
        )
    return prior.profiles


def complete_profile(adapted: Adapted, before: Adapted, features: Features) -> tuple[CompletedField, ...]:
    """Every field of the user schema, in its order, for a user adapted to with the known `features`; `before` is the same user
    without interactions.

    FailedPreconditionError when the checkpoint knows nothing of profiles.
    """
    prior = adapted.view.prior
    profiles = learned_profiles(prior)
    after, prior_of = adapted.state.weights, before.state.weights
    moves = {target: (after[target]["vector"] - prior_of[target]["vector"])[None] for target in profiles.targets}
    x_1F = profiles.inputs(moves, known_fields(adapted.profile))
    found = []
    for field in prior.schema.users:
        value, learned = features.get(field.name), profiles.field(field.name)
        exclusive = field.kind != "multi_categorical"
        if not is_missing(value):
            values = _observed(field.name, value)
        else:
            values = () if learned is None else _likely(learned, learned.probabilities(x_1F)[0])
        found.append(CompletedField(name=field.name, observed=not is_missing(value), exclusive=exclusive, values=values))
    return tuple(found)


def _observed(name: str, value: object) -> tuple[LikelyValue, ...]:
    """As given: text as it is, numbers as people write them, every one of several values; nothing of a vector."""
    if isinstance(value, int | float):
        return (LikelyValue(value=f"{value:g}", probability=1.0),)
    if isinstance(value, tuple | list) and not isinstance(value[0], str):
        return ()
    return tuple(LikelyValue(value=category, probability=1.0) for category in as_categories(value, name) or ())


def _likely(field: ProfileField, p_C: "np.ndarray") -> tuple[LikelyValue, ...]:
    ends = (None, *field.edges, None) if field.kind == "number" else (None,) * (len(field.classes) + 1)
    order = np.argsort(-p_C, kind="stable")
    return tuple(
        LikelyValue(value=field.classes[k], probability=float(p_C[k]), lower=ends[k], upper=ends[k + 1]) for k in map(int, order)
    )
