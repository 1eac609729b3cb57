"""What a checkpoint knows of profiles: a logistic head for each field to complete from behaviour, and segments of users.

The input of a head is what adaptation makes of a user: how far the posterior mean vector of every linear head has moved from the
prior of the known fields (the field itself being unknown there too: W0 x would give it away), and the encoding of these fields
less that of none. So the input of somebody of whom nothing is known is 0, and they get the frequencies f of the training users:
logits are log f + x W / T. Evidence alone is tempered (Guo et al. 2017, section 4.2).

A segment is the training users who share a value of a field. Scores are linear in a user's vector, so the mean score of an item
over a segment is its score for the segment's mean vector, exactly.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax

from metarec.features.values import as_categories, as_category, as_number
from metarec.types import Target

Doubles = NDArray[np.float64]
ProfileKind = Literal["category", "categories", "number"]

OTHER = ""
"""Class of all categories that too few training users have to be told apart."""

SMALLEST_SHARE = 1e-4
LOG_TEMPERATURES = (math.log(0.25), math.log(8.0))
TEMPERATURE_PENALTY = 10.0
"""Log likelihood that a temperature of e or 1 / e must gain."""


@dataclass(frozen=True, kw_only=True)
class ProfileField:
    """A field that can be completed.

    Of kind `category` exactly one of the classes holds (the last may be OTHER), of kind `number` one of the buckets that start at
    `edges` (the first has no lower end); of kind `categories` each class is there or not. `share_C` are frequencies among
    training users, `weight_FC` the head's weights.
    """

    name: str
    kind: ProfileKind
    classes: tuple[str, ...]
    edges: tuple[float, ...]
    share_C: Doubles
    weight_FC: Doubles
    temperature: float = 1.0

    @property
    def exclusive(self) -> bool:
        """Whether exactly one class holds."""
        return self.kind != "categories"

    def classes_of(self, value: object) -> tuple[int, ...] | None:
        """Numbers of the classes that a value belongs to; None when it is missing. InvalidInputError for a wrong type."""
        if self.kind == "number":
            number = as_number(value, self.name)
            return None if number is None else (bisect_right(self.edges, number),)
        place = {name: k for k, name in enumerate(self.classes)}
        if self.kind == "category":
            category = as_category(value, self.name)
            if category is None:
                return None
            return (place[category],) if category in place else (place[OTHER],) if OTHER in place else None
        categories = as_categories(value, self.name)
        return None if categories is None else tuple(place[name] for name in categories if name in place)

    def targets(self, values: Sequence[object]) -> tuple[Doubles, NDArray[np.bool_]]:
        """0/1 rows (N, C) of these values, and which of them (N,) are known."""
        y_NC, known_N = np.zeros((len(values), len(self.classes))), np.zeros(len(values), bool)
        for row, value in enumerate(values):
            found = self.classes_of(value)
            if found is not None:
                known_N[row] = True
                y_NC[row, list(found)] = 1.0
        return y_NC, known_N

    def evidence(self, x_NF: Doubles) -> Doubles:
        """What the head adds to the logits of the base rates (N, C), at temperature 1."""
        return x_NF @ self.weight_FC

    def probabilities(self, x_NF: Doubles) -> Doubles:
        """Calibrated probabilities (N, C)."""
        return probabilities(self.share_C, self.evidence(x_NF), self.temperature, exclusive=self.exclusive)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Training users who share a value of a field."""

    field: str
    value: str
    num_users: int


@dataclass(frozen=True, kw_only=True)
class Profiles:
    """Heads of `fields` over inputs divided by `scale_F`; `targets` are the heads whose vectors they read.

    `segment_SE` are mean vectors of `segments` by head and `everybody_E` that of all training users.
    """

    fields: tuple[ProfileField, ...]
    targets: tuple[Target, ...]
    scale_F: Doubles
    segments: tuple[Segment, ...]
    segment_SE: Mapping[Target, Doubles]
    everybody_E: Mapping[Target, Doubles]

    def inputs(self, moves: Mapping[Target, NDArray[np.float32]], known_NP: NDArray[np.float32]) -> Doubles:
        """Inputs (N, F) of users from how far their vectors (N, E) have moved, by head, and their known fields."""
        return raw_inputs([moves[target] for target in self.targets], known_NP) / self.scale_F

    def field(self, name: str) -> ProfileField | None:
        """The field of this name, None where nothing was learned of it."""
        return next((field for field in self.fields if field.name == name), None)

    def to_state(self) -> tuple[dict[str, object], dict[str, NDArray[np.generic]]]:
        """JSON-able settings and named arrays, from which `from_state` makes the same."""
        fields = [
            {
                "name": field.name,
                "kind": field.kind,
                "classes": list(field.classes),
                "edges": list(field.edges),
                "temperature": field.temperature,
            }
            for field in self.fields
        ]
        segments = [{"field": part.field, "value": part.value, "num_users": part.num_users} for part in self.segments]
        arrays: dict[str, NDArray[np.generic]] = {"scale": self.scale_F}
        for k, field in enumerate(self.fields):
            arrays |= {f"field.{k}.share": field.share_C, f"field.{k}.weight": field.weight_FC}
        for target, segment_SE in self.segment_SE.items():
            arrays |= {f"segment.{target}": segment_SE, f"everybody.{target}": self.everybody_E[target]}
        return {"fields": fields, "targets": list(self.targets), "segments": segments}, arrays

    @staticmethod
    def from_state(state: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]]) -> "Profiles":
        """The profiles that gave this state."""
        described = cast(list[dict[str, object]], state["fields"])
        doubles = {name: array.astype(np.float64) for name, array in arrays.items()}
        names = cast(list[Target], [name.removeprefix("segment.") for name in doubles if name.startswith("segment.")])
        return Profiles(
            fields=tuple(
                ProfileField(
                    name=str(entry["name"]),
                    kind=cast(ProfileKind, entry["kind"]),
                    classes=tuple(cast(list[str], entry["classes"])),
                    edges=tuple(cast(list[float], entry["edges"])),
                    share_C=doubles[f"field.{k}.share"],
                    weight_FC=doubles[f"field.{k}.weight"],
                    temperature=float(cast(float, entry["temperature"])),
                )
                for k, entry in enumerate(described)
            ),
            targets=tuple(cast(list[Target], state["targets"])),
            scale_F=doubles["scale"],
            segments=tuple(
                Segment(field=str(part["field"]), value=str(part["value"]), num_users=int(cast(int, part["num_users"])))
                for part in cast(list[dict[str, object]], state["segments"])
            ),
            segment_SE={name: doubles[f"segment.{name}"] for name in names},
            everybody_E={name: doubles[f"everybody.{name}"] for name in names},
        )


def raw_inputs(moves: Sequence[NDArray[np.float32]], known_NP: NDArray[np.float32]) -> Doubles:
    """Inputs (N, F) before they are scaled: known fields first."""
    return np.concatenate([known_NP, *moves], 1).astype(np.float64)


def base_logits(share_C: Doubles, *, exclusive: bool) -> Doubles:
    """Logits of frequencies: logarithms of exclusive classes, else log odds."""
    clipped_C = np.clip(share_C, SMALLEST_SHARE, 1 - SMALLEST_SHARE)
    return cast(Doubles, np.log(clipped_C) if exclusive else np.log(clipped_C / (1 - clipped_C)))


def probabilities(share_C: Doubles, evidence_NC: Doubles, temperature: float, *, exclusive: bool) -> Doubles:
    """Probabilities (N, C) from base rates and evidence."""
    logit_NC = base_logits(share_C, exclusive=exclusive) + evidence_NC / temperature
    return cast(Doubles, np.exp(log_softmax(logit_NC, axis=1)) if exclusive else expit(logit_NC))


def log_loss(y_NC: Doubles, p_NC: Doubles, *, exclusive: bool) -> Doubles:
    """Negative log likelihood of each row (N,): of its class, or the mean over classes that are there or not."""
    p_NC = np.clip(p_NC, 1e-12, 1 - 1e-12)
    if exclusive:
        return cast(Doubles, -(y_NC * np.log(p_NC)).sum(1))
    return cast(Doubles, -(y_NC * np.log(p_NC) + (1 - y_NC) * np.log1p(-p_NC)).mean(1))


def best_temperature(share_C: Doubles, evidence_NC: Doubles, y_NC: Doubles, *, exclusive: bool) -> float:
    """The temperature that makes these rows most likely, near 1 where there are few of them."""

    def loss(log_temperature: float) -> float:
        p_NC = probabilities(share_C, evidence_NC, math.exp(log_temperature), exclusive=exclusive)
        return float(log_loss(y_NC, p_NC, exclusive=exclusive).sum()) + TEMPERATURE_PENALTY * log_temperature**2

    return math.exp(float(minimize_scalar(loss, bounds=LOG_TEMPERATURES, method="bounded").x))
