"""One consistent view of what an engine scores with: items, prepared heads and, where every head is linear, the item vectors.

A view is immutable. An upsert makes the next one, mapping only the content of the items that changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarec.meta.catalogue import CatalogueSnapshot
from metarec.meta.contract import VectorLearner
from metarec.meta.prior import Head, Prior
from metarec.models.content_process import without_process
from metarec.models.contract import FastWeights, trainable
from metarec.models.neighbour_axes import without_neighbours
from metarec.tasks.batch import EntityTable
from metarec.tasks.tables import encode_unknown_items
from metarec.types import Target

SHARED = ("cache.gram",)
"""Prepared values that belong to the whole catalogue rather than to its rows. They stay those of the checkpoint's own items: what
nobody could have taken when users acted is no evidence about them, and a user's weights do not depend on later items."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ItemVectors:
    """score = bias_I + phi_IE @ the user's vector, over the heads that count in the score side by side."""

    phi_IE: Floats
    bias_I: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemShift:
    """What is known of an emerging item beyond its content (metarec.adaptation.shifts).

    phi_E, bias: added to its vector and offset under the ranking score
    left: share of the explicit head's prior variance of the item that its labels leave
    shots: number of labels
    """

    phi_E: Floats
    bias: float
    left: float
    shots: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ScenarioShift:
    """What the users of a scenario have in common (metarec.adaptation.scenarios).

    mean_E: added to the explicit head's vectors of users within the scenario
    kappa: estimated variance between scenarios over that between users
    num_users, num_rows: what it was learned from
    """

    mean_E: Floats
    kappa: float
    num_users: int
    num_rows: int


@dataclass(frozen=True, eq=False)
class EngineView:
    """`rows` are the items of `catalogue`; `heads` are prepared for them.

    `vectors` is None when a head that counts in the score is not linear in a vector of the user. `content_IE` are unit vectors of
    what is known of the items without their ids, in the space of the retrieval head where that has one. `spreads` are, by head,
    the variances of what ids add to the vectors (and, last, to the offsets) of known items: how far one may be from its content.
    `vectors` hold the `shifts` of items already, the heads do not. `scenarios` are the shifts of users within them, by name.
    """

    prior: Prior
    catalogue: CatalogueSnapshot
    rows: EntityTable
    heads: Mapping[Target, Head]
    vectors: ItemVectors | None
    content_IE: Floats
    spreads: Mapping[Target, Floats]
    shifts: Mapping[str, ItemShift] = field(default_factory=dict)
    scenarios: Mapping[str, ScenarioShift] = field(default_factory=dict)

    @staticmethod
    def first(prior: Prior, catalogue: CatalogueSnapshot) -> "EngineView":
        """The view of a checkpoint's own items."""
        rows = catalogue.items
        with torch.no_grad():
            heads = {target: head.prepared(rows) for target, head in prior.heads.items()}
        spreads = {target: id_spread(head) for target, head in prior.heads.items()}
        vectors = _item_vectors(replace(prior, heads=heads), rows)
        return EngineView(prior, catalogue, rows, heads, vectors, content_vectors(prior, rows), spreads)

    def next(self, catalogue: CatalogueSnapshot, changed_N: NDArray[np.int64]) -> "EngineView":
        """The view of a grown catalogue, in which the rows `changed_N` are new or have new content."""
        return self._grown(catalogue, catalogue.items, np.unique(changed_N))

    def shifted(self, shifts: Mapping[str, ItemShift]) -> "EngineView":
        """This view with these shifts in place of those it has; items that training knows, and unknown ones, get none."""
        code_I, row_of = self.rows.code_N, self.catalogue.row_of
        kept = {item_id: shift for item_id, shift in shifts.items() if item_id in row_of and int(code_I[row_of[item_id]]) == 0}
        changed = {item_id for item_id in kept.keys() | self.shifts.keys() if kept.get(item_id) is not self.shifts.get(item_id)}
        if not changed or self.vectors is None:
            return self
        place_N = np.unique(self.catalogue.rows(changed))
        fresh = _item_vectors(self.prior, self.rows.at(torch.from_numpy(place_N)))
        assert fresh is not None, "whether there are vectors does not depend on the rows"
        names = [self.catalogue.ids[place] for place in place_N.tolist()]
        vectors = _placed(self.vectors, _with_shifts(fresh, names, kept), place_N, len(self.rows))
        return replace(self, vectors=vectors, shifts=kept)

    @cached_property
    def with_unknown(self) -> "EngineView":
        """This view with one more row: an item of which nothing is known, neither id nor content."""
        nothing = encode_unknown_items(self.prior.encoder, [{}])
        row = replace(self.rows, code_N=nothing.code_N, dense_NP=nothing.dense_NP)
        return self._grown(self.catalogue, self.rows.append(row), np.array([len(self.rows)]))

    @cached_property
    def shifted_rows(self) -> tuple[NDArray[np.int64], Floats, Floats]:
        """Rows (K,) of the items with shifts, and the shifts: (K, E) of vectors and (K,) of offsets."""
        shifts = list(self.shifts.values())
        phi_KE = np.stack([shift.phi_E for shift in shifts])
        return self.catalogue.rows(self.shifts), phi_KE, np.array([shift.bias for shift in shifts], np.float32)

    @property
    def weights(self) -> Mapping[Target, float]:
        """Trained weight of each head in the ranking score; heads of weight 0 are left out."""
        return score_weights(self.prior)

    def _grown(self, catalogue: CatalogueSnapshot, rows: EntityTable, place_N: NDArray[np.int64]) -> "EngineView":
        place = torch.from_numpy(place_N)
        part = rows.at(torch.from_numpy(place_N))
        heads = {target: _grown_head(head, part, place, len(rows)) for target, head in self.heads.items()}
        vectors, fresh = self.vectors, _item_vectors(self.prior, part)
        if vectors is not None and fresh is not None:
            ids = catalogue.ids
            names = [ids[row] if row < len(ids) else "" for row in place_N.tolist()]
            vectors = _placed(vectors, _with_shifts(fresh, names, self.shifts), place_N, len(rows))
        content_IE = _with_rows(self.content_IE, content_vectors(self.prior, part), place_N, len(rows))
        return EngineView(self.prior, catalogue, rows, heads, vectors, content_IE, self.spreads, self.shifts, self.scenarios)


def score_weights(prior: Prior) -> dict[Target, float]:
    """What each head of `prior` counts in the ranking score; heads of weight 0 are left out."""
    if len(prior.heads) == 1:
        return dict.fromkeys(prior.heads, 1.0)
    return {"implicit": 1.0, "explicit": prior.blend} if prior.blend else {"implicit": 1.0}


def is_vector_learner(head: Head) -> bool:
    """Whether the head's score is linear in a vector of the task."""
    return hasattr(head.learner, "row_vectors")


def row_vectors(head: Head, rows: EntityTable) -> tuple[Floats, Floats]:
    """Vectors and offsets of `rows` under a head (not prepared, or prepared for `rows`) of a vector learner."""
    with torch.no_grad():
        phi_ID, bias_I = cast(VectorLearner, head.learner).row_vectors(head.model, head.theta, rows)
    return phi_ID.float().numpy(), bias_I.float().numpy()


def id_spread(head: Head) -> Floats:
    """Mean squares of the id vectors of known items and, last, of their id offsets: around 0, what an unknown one has."""
    if "row.id" not in head.theta or "row.id_bias" not in head.theta:
        return np.zeros(0, np.float32)
    id_CE = torch.cat([head.theta["row.id"], head.theta["row.id_bias"][:, None]], 1)[1:]
    return cast(Floats, id_CE.double().square().mean(0).float().numpy() if len(id_CE) else np.zeros(id_CE.shape[1], np.float32))


def task_vector(head: Head, fast: FastWeights) -> Tensor:
    """`w_TD` of adapted tasks under a head of a vector learner."""
    return cast(VectorLearner, head.learner).task_vector(fast)


def _item_vectors(prior: Prior, rows: EntityTable) -> ItemVectors | None:
    weights = score_weights(prior)
    if not all(is_vector_learner(prior.heads[target]) for target in weights):
        return None
    parts = [(row_vectors(prior.heads[target], rows), np.float32(weight)) for target, weight in weights.items()]
    return ItemVectors(
        phi_IE=np.concatenate([phi_ID * weight for (phi_ID, _), weight in parts], 1),
        bias_I=np.sum([bias_I * weight for (_, bias_I), weight in parts], 0, dtype=np.float32),
    )


def row_at(table: EntityTable, place: int) -> EntityTable:
    """One row of a table, as a table."""
    return table.at(slice(place, place + 1))


def _with_shifts(fresh: ItemVectors, item_ids: Sequence[str], shifts: Mapping[str, ItemShift]) -> ItemVectors:
    """Vectors of these items with their shifts."""
    phi_NE, bias_N = fresh.phi_IE.copy(), fresh.bias_I.copy()
    for place, item_id in enumerate(item_ids):
        shift = shifts.get(item_id)
        if shift is not None:
            phi_NE[place] += shift.phi_E
            bias_N[place] += np.float32(shift.bias)
    return ItemVectors(phi_IE=phi_NE, bias_I=bias_N)


def _placed(old: ItemVectors, fresh: ItemVectors, place_N: NDArray[np.int64], size: int) -> ItemVectors:
    return ItemVectors(
        phi_IE=_with_rows(old.phi_IE, fresh.phi_IE, place_N, size), bias_I=_with_rows(old.bias_I, fresh.bias_I, place_N, size)
    )


def content_vectors(prior: Prior, rows: EntityTable) -> Floats:
    """Unit vectors of what is known of `rows` without their ids, as `EngineView.content_IE`."""
    head = prior.heads[prior.retrieval_target]
    if is_vector_learner(head):
        # The content map alone: a process (metarec.models.content_process) has heard what people said of known items.
        plain = replace(head, theta=without_process(head.theta))
        phi_IE, _ = row_vectors(plain, replace(rows, code_N=torch.zeros_like(rows.code_N)))
        content_IE = without_neighbours(head.theta, phi_IE)
    else:
        content_IE = rows.dense_NP.float().numpy()
    norm_I1 = np.linalg.norm(content_IE, axis=1, keepdims=True)
    return cast(Floats, content_IE / np.maximum(norm_I1, np.float32(1e-12)).astype(np.float32))


def _grown_head(head: Head, part: EntityTable, place_N: Tensor, size: int) -> Head:
    """The head with the prepared values of the rows at `place_N` replaced, or added at the end, by those of `part`."""
    theta = dict(head.theta)
    with torch.no_grad():
        fresh = head.learner.prepare(head.model, trainable(theta), part)
    for name, value in fresh.items():
        if name.startswith("cache.") and name not in SHARED:
            old = theta[name]
            theta[name] = torch.cat([old, old.new_empty((size - len(old), *old.shape[1:]))])
            theta[name][place_N] = value
    return replace(head, theta=theta)


def _with_rows(old: Floats, fresh: Floats, place_N: NDArray[np.int64], size: int) -> Floats:
    grown = np.empty((size, *old.shape[1:]), np.float32)
    grown[: len(old)] = old
    grown[place_N] = fresh
    return grown
