"""One consistent view of what an engine scores with: items, prepared heads and, where every head is linear, the item vectors.

A view is immutable. An upsert makes the next one, mapping only the content of the items that changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarec.meta.catalogue import CatalogueSnapshot
from metarec.meta.contract import VectorLearner
from metarec.meta.prior import Head, Prior
from metarec.models.contract import FastWeights, trainable
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


@dataclass(frozen=True, eq=False)
class EngineView:
    """`rows` are the items of `catalogue`; `heads` are prepared for them.

    `vectors` is None when a head that counts in the score is not linear in a vector of the user. `content_IE` are unit vectors of
    what is known of the items without their ids, in the space of the retrieval head where that has one. `spreads` are, by head,
    the variances of what ids add to the vectors (and, last, to the offsets) of known items: how far one may be from its content.
    """

    prior: Prior
    catalogue: CatalogueSnapshot
    rows: EntityTable
    heads: Mapping[Target, Head]
    vectors: ItemVectors | None
    content_IE: Floats
    spreads: Mapping[Target, Floats]

    @staticmethod
    def first(prior: Prior, catalogue: CatalogueSnapshot) -> "EngineView":
        """The view of a checkpoint's own items."""
        rows = catalogue.items
        with torch.no_grad():
            heads = {target: head.prepared(rows) for target, head in prior.heads.items()}
        spreads = {target: id_spread(head) for target, head in prior.heads.items()}
        return EngineView(prior, catalogue, rows, heads, _item_vectors(prior, rows), _content(prior, rows), spreads)

    def next(self, catalogue: CatalogueSnapshot, changed_N: NDArray[np.int64]) -> "EngineView":
        """The view of a grown catalogue, in which the rows `changed_N` are new or have new content."""
        return self._grown(catalogue, catalogue.items, np.unique(changed_N))

    @cached_property
    def with_unknown(self) -> "EngineView":
        """This view with one more row: an item of which nothing is known, neither id nor content."""
        nothing = encode_unknown_items(self.prior.encoder, [{}])
        row = replace(self.rows, code_N=nothing.code_N, dense_NP=nothing.dense_NP)
        return self._grown(self.catalogue, self.rows.append(row), np.array([len(self.rows)]))

    @property
    def weights(self) -> Mapping[Target, float]:
        """Weight of each head in the ranking score; heads of weight 0 are left out."""
        return score_weights(self.prior)

    def _grown(self, catalogue: CatalogueSnapshot, rows: EntityTable, place_N: NDArray[np.int64]) -> "EngineView":
        place = torch.from_numpy(place_N)
        part = replace(rows, code_N=rows.code_N[place], dense_NP=rows.dense_NP[place])
        heads = {target: _grown_head(head, part, place, len(rows)) for target, head in self.heads.items()}
        vectors, fresh = self.vectors, _item_vectors(self.prior, part)
        if vectors is not None and fresh is not None:
            vectors = ItemVectors(
                phi_IE=_with_rows(vectors.phi_IE, fresh.phi_IE, place_N, len(rows)),
                bias_I=_with_rows(vectors.bias_I, fresh.bias_I, place_N, len(rows)),
            )
        content_IE = _with_rows(self.content_IE, _content(self.prior, part), place_N, len(rows))
        return EngineView(self.prior, catalogue, rows, heads, vectors, content_IE, self.spreads)


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


def _content(prior: Prior, rows: EntityTable) -> Floats:
    head = prior.heads[prior.retrieval_target]
    if is_vector_learner(head):
        content_IE, _ = row_vectors(head, replace(rows, code_N=torch.zeros_like(rows.code_N)))
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
