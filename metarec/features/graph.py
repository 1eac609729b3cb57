"""The knowledge graph around an item: its (relation, tail) facts, and their block.

Facts are encoded as a place in a latent space of facts (latent.py), not as a column each: most entities belong to one or two
items, so a column would say nothing about the next item, but a fact's direction does, for it is that of the facts it occurs with.
This is the spectral embedding of the bipartite graph of items and facts; facts carry their relation, so that a director and an
actor of one name differ. An item that training has not seen has a place as soon as its facts are known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from metarec.features.blocks import BlockState, Matrix
from metarec.features.latent import LatentSpace
from metarec.features.values import as_categories

if TYPE_CHECKING:
    from metarec.data.dataset import Graph

GRAPH_FIELD = "graph"
"""Name of the feature and of its block; schema fields may not be called so."""

MAX_SHARE = 0.4
"""Facts of a larger share of the linked items are left out."""


def fact(relation: str, tail: str) -> str:
    """One fact as a category, for example `film.film.director=m.0bxtg`."""
    return f"{relation}={tail}"


def item_facts(graph: "Graph | None") -> dict[str, tuple[str, ...]]:
    """Sorted facts of every linked item; items whose entity heads no triple are left out."""
    if graph is None:
        return {}
    by_entity: dict[str, set[str]] = {}
    for head, relation, tail in zip(graph.head_N, graph.relation_N, graph.tail_N, strict=True):
        by_entity.setdefault(str(head), set()).add(fact(str(relation), str(tail)))
    return {
        str(item_id): tuple(sorted(by_entity[str(entity)])) for item_id, entity in graph.links.items() if str(entity) in by_entity
    }


@dataclass(frozen=True, kw_only=True)
class FactsBlock:
    """The place of an item's facts in a space of facts."""

    kind: ClassVar[str] = "graph"

    name: str
    space: LatentSpace

    @property
    def width(self) -> int:
        """D + 1."""
        return self.space.dim + 1

    @staticmethod
    def fit(name: str, values: Sequence[object], *, dim: int, min_count: int, max_facts: int) -> "FactsBlock":
        """Facts of `min_count` items and more (the `max_facts` most frequent), reduced to `dim` directions or fewer."""
        bags = [bag for value in values if (bag := as_categories(value, name)) is not None]
        return FactsBlock(
            name=name,
            space=LatentSpace.fit(bags, dim=dim, min_count=min_count, max_size=max_facts, max_share=MAX_SHARE),
        )

    def write(self, values: Sequence[object], out_NB: Matrix) -> None:
        """See Block."""
        for row, value in enumerate(values):
            facts = as_categories(value, self.name)
            if facts is None:
                out_NB[row, -1] = 1.0
            else:
                out_NB[row, :-1] = self.space.project(facts)

    def to_state(self) -> BlockState:
        """See Block."""
        state, arrays = self.space.to_state()
        return {"kind": self.kind, "name": self.name, **state}, arrays

    @staticmethod
    def from_state(state: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]]) -> "FactsBlock":
        """The block that gave this state."""
        return FactsBlock(name=str(state["name"]), space=LatentSpace.from_state(state, arrays))
