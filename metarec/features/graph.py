"""The knowledge graph around an item, as one more multi-categorical feature: its (relation, tail) facts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metarec.data.dataset import Graph

GRAPH_FIELD = "graph"
"""Name of the feature and of its block; schema fields may not be called so."""


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
