"""Turns raw user and item features into the numbers that the models see.

Fitted once per dataset, saved with the checkpoint (JSON and arrays, nothing pickled), and the same in training and serving: a
row encoded alone equals the row encoded in bulk to the last bit. Every schema field becomes one block of columns ending in
a missing indicator; items with a knowledge graph get the block `graph`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metarec.errors import InvalidInputError
from metarec.features.blocks import Block, Matrix
from metarec.features.field_blocks import EncoderSettings, fit_block, fit_facts, load_block
from metarec.features.graph import GRAPH_FIELD, item_facts
from metarec.features.sentence_block import SentenceBlock
from metarec.features.values import as_categories
from metarec.types import Features

if TYPE_CHECKING:
    import pandas as pd

    from metarec.data.dataset import Graph
    from metarec.data.schema import Schema

Blocks = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class FeatureEncoder:
    """See the module. `facts` holds the graph facts of the items known when it was fitted, by item id."""

    user_encoders: tuple[Block, ...]
    item_encoders: tuple[Block, ...]
    item_id: str
    user_fields: tuple[str, ...]
    item_fields: tuple[str, ...]
    facts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @staticmethod
    def fit(
        schema: "Schema",
        users: "pd.DataFrame",
        items: "pd.DataFrame",
        graph: "Graph | None" = None,
        *,
        settings: EncoderSettings | None = None,
        watch: Callable[[str], None] = lambda note: None,
    ) -> "FeatureEncoder":
        """Fit on whole tables; `watch` is told how far it is where that takes long.

        With `graph`, `items` has its ids in column `schema.item_id` or in its index.

        Without `graph`, its facts are taken from the column `graph` where there is one, as the feature store gives it.
        """
        settings = settings or EncoderSettings()
        skipped = () if settings.encode_title or schema.item_title is None else (schema.item_title,)
        user_encoders = [fit_block(f, _column(users, f.name), settings, watch) for f in schema.users]
        item_encoders = [fit_block(f, _column(items, f.name), settings, watch) for f in schema.items if f.name not in skipped]
        facts = item_facts(graph)
        if graph is None and GRAPH_FIELD in items.columns:
            pairs = zip(_ids(items, schema.item_id), items[GRAPH_FIELD], strict=True)
            facts = {item_id: known for item_id, value in pairs if (known := as_categories(value, GRAPH_FIELD)) is not None}
        if facts:
            values = [facts.get(item_id) for item_id in _ids(items, schema.item_id)]
            block = fit_facts(values, settings)
            item_encoders.append(block)
            kept = set(block.space.vocabulary)
            facts = {item_id: tuple(f for f in known if f in kept) for item_id, known in facts.items()}
        return FeatureEncoder(
            user_encoders=tuple(user_encoders),
            item_encoders=tuple(item_encoders),
            item_id=schema.item_id,
            user_fields=tuple(f.name for f in schema.users),
            item_fields=tuple(f.name for f in schema.items),
            facts=facts,
        )

    @property
    def user_blocks(self) -> Blocks:
        """(field, first column, end column) of each user field."""
        return _blocks(self.user_encoders)

    @property
    def item_blocks(self) -> Blocks:
        """(field, first column, end column) of each item field."""
        return _blocks(self.item_encoders)

    @property
    def item_kinds(self) -> tuple[str, ...]:
        """Kind of each item block: category, number, vector, text, sentences or graph."""
        return tuple(block.kind for block in self.item_encoders)

    def check(self) -> None:
        """FailedPreconditionError when texts cannot be encoded here, for want of the sentence model of training."""
        for block in (*self.user_encoders, *self.item_encoders):
            if isinstance(block, SentenceBlock):
                block.check()

    def without(self, *, items: Collection[str] = (), users: Collection[str] = ()) -> "FeatureEncoder":
        """The encoder without the columns of these fields, which it then takes no notice of; `graph` is an item field here."""
        return replace(
            self,
            item_encoders=tuple(block for block in self.item_encoders if block.name not in items),
            user_encoders=tuple(block for block in self.user_encoders if block.name not in users),
        )

    def encode_users(self, users: "pd.DataFrame | Sequence[Features]") -> Matrix:
        """float32 (N, P) of users as a table or as a list of features; InvalidInputError names a field of the wrong type."""
        return _encode(self.user_encoders, users, self.user_fields, {})

    def encode_items(self, items: "pd.DataFrame | Sequence[Features]") -> Matrix:
        """float32 (N, P) of items, as `encode_users`.

        Graph facts come from the feature `graph` (`relation=tail` strings), else from the fitted graph by the item's id, which is
        the column or feature `schema.item_id`, else the table's index.
        """
        known: dict[str, list[object]] = {}
        if any(block.name == GRAPH_FIELD for block in self.item_encoders):
            known[GRAPH_FIELD] = self._graph_values(items)
        return _encode(self.item_encoders, items, (*self.item_fields, self.item_id, GRAPH_FIELD), known)

    def _graph_values(self, items: "pd.DataFrame | Sequence[Features]") -> list[object]:
        if isinstance(items, Sequence):
            return [features.get(GRAPH_FIELD) or self.facts.get(str(features.get(self.item_id))) for features in items]
        if GRAPH_FIELD in items.columns:
            return list(items[GRAPH_FIELD])
        return [self.facts.get(item_id) for item_id in _ids(items, self.item_id)]

    def to_state(self) -> tuple[dict[str, object], dict[str, NDArray[np.generic]]]:
        """JSON-able settings and named arrays, from which `from_state` makes an equal encoder."""
        arrays: dict[str, NDArray[np.generic]] = {}
        sides: dict[str, object] = {}
        for side, blocks in (("users", self.user_encoders), ("items", self.item_encoders)):
            states = []
            for k, block in enumerate(blocks):
                state, block_arrays = block.to_state()
                states.append(state)
                arrays |= {f"{side}.{k}.{name}": array for name, array in block_arrays.items()}
            sides[side] = states
        return {
            "version": 1,
            "item_id": self.item_id,
            "user_fields": list(self.user_fields),
            "item_fields": list(self.item_fields),
            **sides,
            "facts": {item_id: list(known) for item_id, known in sorted(self.facts.items())},
        }, arrays

    @staticmethod
    def from_state(state: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]]) -> "FeatureEncoder":
        """The encoder that gave this state."""
        sides: dict[str, tuple[Block, ...]] = {}
        for side in ("users", "items"):
            states = state[side]
            assert isinstance(states, list)
            sides[side] = tuple(
                load_block(
                    block_state, {name.split(".", 2)[2]: a for name, a in arrays.items() if name.startswith(f"{side}.{k}.")}
                )
                for k, block_state in enumerate(states)
            )
        facts, user_fields, item_fields = state["facts"], state["user_fields"], state["item_fields"]
        assert isinstance(facts, Mapping)
        assert isinstance(user_fields, Sequence)
        assert isinstance(item_fields, Sequence)
        return FeatureEncoder(
            user_encoders=sides["users"],
            item_encoders=sides["items"],
            item_id=str(state["item_id"]),
            user_fields=tuple(map(str, user_fields)),
            item_fields=tuple(map(str, item_fields)),
            facts={str(item_id): tuple(known) for item_id, known in facts.items()},
        )


def _blocks(encoders: Sequence[Block]) -> Blocks:
    ends = np.cumsum([block.width for block in encoders]).tolist()
    return tuple((block.name, end - block.width, end) for block, end in zip(encoders, ends, strict=True))


def _encode(
    encoders: Sequence[Block],
    entities: "pd.DataFrame | Sequence[Features]",
    fields: Sequence[str],
    known: Mapping[str, Sequence[object]],
) -> Matrix:
    if isinstance(entities, Sequence):
        for features in entities:
            for name in features:
                if name not in fields:
                    raise InvalidInputError(f"unknown feature '{name}'; the schema has {', '.join(sorted(fields))}", field=name)
    out_NP = np.zeros((len(entities), sum(block.width for block in encoders)), np.float32)
    for (name, start, stop), block in zip(_blocks(encoders), encoders, strict=True):
        values = known[name] if name in known else _column(entities, name)
        block.write(values, out_NP[:, start:stop])
    return out_NP


def _column(entities: "pd.DataFrame | Sequence[Features]", name: str) -> Sequence[object]:
    if isinstance(entities, Sequence):
        return [features.get(name) for features in entities]
    if name not in entities.columns:
        raise InvalidInputError(f"the table has no column '{name}'; it has {', '.join(map(str, entities.columns))}", field=name)
    return list(entities[name])


def _ids(items: "pd.DataFrame", item_id: str) -> list[str]:
    if item_id in items.columns:
        return [str(value) for value in items[item_id]]
    # A mere row number must not pass for an id: the facts of other items would be taken, silently.
    if type(items.index).__name__ == "RangeIndex":
        raise InvalidInputError(f"graph facts need the items' ids as column '{item_id}' or as the table's index", field=item_id)
    return [str(value) for value in items.index]
