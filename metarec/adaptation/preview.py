"""An item that nobody has seen, from its content alone: its vectors, the mean label to expect, and who would like it most.

Its vector under the explicit head is what the checkpoint knows of items as tasks (metarec.meta.item_prior), with the covariance
around it; under other heads what the content map tells. Scores are linear in users' vectors, so that the mean label over a
segment of users is the label of the segment's mean vector. Uncertain is the item, not the mean over users.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from metarec.adaptation.profile import learned_profiles
from metarec.adaptation.view import EngineView, Floats, content_vectors, row_vectors
from metarec.meta.item_prior import is_closed_form, item_prior
from metarec.tasks.batch import EntityTable
from metarec.types import Target

Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SegmentScore:
    """What the `num_users` training users with `value` in `field` would give an item on average: `mean`, which lies `lift` above
    that of all users; `lift_stddev` is how uncertain the lift is."""

    field: str
    value: str
    num_users: int
    mean: float
    lift: float
    lift_stddev: float


@dataclass(frozen=True, kw_only=True)
class HeadVector:
    """An item under one head: score = offset + values' w for a user's vector w."""

    target: Target
    values: tuple[float, ...]
    offset: float


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A known item and the cosine of both contents, in the space of the head that drives recall."""

    item_id: str
    similarity: float


@dataclass(frozen=True, kw_only=True)
class ItemPreview:
    """`mean` and `stddev` are the mean label over all users (a probability for binary labels) and how uncertain it is; of a
    checkpoint without an explicit head (`target` implicit) they are ranking scores, whose uncertainty is not known (0).

    `audience` has the largest lift first, `neighbours` the most alike.
    """

    target: Target
    mean: float
    stddev: float
    audience: tuple[SegmentScore, ...]
    neighbours: tuple[Neighbour, ...]
    vectors: tuple[HeadVector, ...]


@dataclass(frozen=True, kw_only=True)
class AudienceScores:
    """Scores of I items: of everybody (I,) and of S segments (I, S), with the standard deviations of the former and of lifts."""

    mean_I: Doubles
    stddev_I: Doubles
    mean_IS: Doubles
    lift_stddev_IS: Doubles


def audience_scores(view: EngineView, items: EntityTable) -> tuple[Target, AudienceScores]:
    """What everybody and every segment of the checkpoint would give items of which only the content is known.

    FailedPreconditionError when the checkpoint knows nothing of profiles.
    """
    profiles = learned_profiles(view.prior)
    target: Target = "explicit" if "explicit" in profiles.segment_SE else "implicit"
    phi_IE, offset_I, spread_EE = _unseen(view, target, items)
    user_UE = np.concatenate([profiles.everybody_E[target][None], profiles.segment_SE[target]])
    mean_IU = offset_I[:, None] + phi_IE @ user_UE.T
    stddev_I, lift_stddev_IS = np.zeros(len(items)), np.zeros((len(items), len(profiles.segments)))
    if spread_EE is not None:
        # Items as tasks: [w, 1] against a vector and an offset.
        everybody_E = np.append(user_UE[0, :-1], 1.0)
        stddev_I += np.sqrt(everybody_E @ spread_EE @ everybody_E)
        apart_SE = user_UE[1:, :-1] - user_UE[0, :-1]
        lift_stddev_IS += np.sqrt(np.einsum("se,ef,sf->s", apart_SE, spread_EE[:-1, :-1], apart_SE))
    if view.prior.link is not None and target == "explicit":
        link = view.prior.link
        slope_I = np.asarray(link.probability(mean_IU[:, 0] + 0.5)) - np.asarray(link.probability(mean_IU[:, 0] - 0.5))
        stddev_I, lift_stddev_IS = stddev_I * slope_I, lift_stddev_IS * slope_I[:, None]
        mean_IU = np.asarray(link.probability(mean_IU))
    return target, AudienceScores(mean_I=mean_IU[:, 0], stddev_I=stddev_I, mean_IS=mean_IU[:, 1:], lift_stddev_IS=lift_stddev_IS)


def preview_items(view: EngineView, items: EntityTable, item_ids: Sequence[str], *, neighbours: int) -> list[ItemPreview]:
    """Items from their content alone; those of `item_ids` (parallel, "" for none) are not among their own neighbours."""
    target, scores = audience_scores(view, items)
    segments = learned_profiles(view.prior).segments
    lift_IS = scores.mean_IS - scores.mean_I[:, None]
    vectors = {head: _unseen(view, head, items)[:2] for head in learned_profiles(view.prior).segment_SE}
    near = _neighbours(view, items, item_ids, neighbours)
    previews = []
    for row in range(len(items)):
        audience = tuple(
            SegmentScore(
                field=segments[k].field,
                value=segments[k].value,
                num_users=segments[k].num_users,
                mean=float(scores.mean_IS[row, k]),
                lift=float(lift_IS[row, k]),
                lift_stddev=float(scores.lift_stddev_IS[row, k]),
            )
            for k in map(int, np.argsort(-lift_IS[row], kind="stable"))
        )
        previews.append(
            ItemPreview(
                target=target,
                mean=float(scores.mean_I[row]),
                stddev=float(scores.stddev_I[row]),
                audience=audience,
                neighbours=near[row],
                vectors=tuple(
                    HeadVector(target=head, values=tuple(map(float, phi_IE[row])), offset=float(offset_I[row]))
                    for head, (phi_IE, offset_I) in vectors.items()
                ),
            )
        )
    return previews


def _unseen(view: EngineView, target: Target, items: EntityTable) -> tuple[Doubles, Doubles, Doubles | None]:
    """Vectors (I, E), offsets (I,) and the covariance of vector and offset (E, E; None where unknown) of items by content."""
    head = view.prior.heads[target]
    if target == "explicit" and is_closed_form(head):
        mean_IE, spread_EE = item_prior(view.prior, items)
        ones_I1 = np.ones((len(items), 1))
        return np.concatenate([mean_IE[:, :-1], ones_I1], 1), float(head.theta["mu"]) + mean_IE[:, -1], spread_EE
    phi_IE, offset_I = row_vectors(head, replace(items, code_N=torch.zeros_like(items.code_N)))
    return phi_IE.astype(np.float64), offset_I.astype(np.float64), None


def _neighbours(view: EngineView, items: EntityTable, item_ids: Sequence[str], count: int) -> list[tuple[Neighbour, ...]]:
    unit_IE = content_vectors(view.prior, items)
    found = []
    for vector_E, item_id in zip(unit_IE, item_ids, strict=True):
        similarity_I = cast(Floats, view.content_IE @ vector_E)
        own = view.catalogue.row_of.get(item_id)
        if own is not None:
            similarity_I[own] = -np.inf
        best = np.argsort(-similarity_I, kind="stable")[: min(count, len(similarity_I) - (own is not None))]
        found.append(
            tuple(Neighbour(item_id=view.catalogue.ids[row], similarity=float(similarity_I[row])) for row in map(int, best))
        )
    return found
