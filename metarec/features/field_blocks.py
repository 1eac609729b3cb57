"""Which block encodes a field: fitted anew on whole tables, as rich as the settings say, or read back from its state."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metarec.errors import ConfigError, InvalidInputError
from metarec.features.blocks import Block, CategoryBlock, NumberBlock, VectorBlock
from metarec.features.graph import GRAPH_FIELD, FactsBlock
from metarec.features.sentence_block import SentenceBlock
from metarec.features.text import TextBlock

if TYPE_CHECKING:
    from metarec.data.schema import Field

BLOCKS = {block.kind: block for block in (CategoryBlock, NumberBlock, VectorBlock, TextBlock, SentenceBlock, FactsBlock)}
"""What wrote a state, by the kind in it."""

MIN_GRAPH_DIM, ITEMS_PER_DIRECTION = 8, 25
"""Directions of graph facts grow with the catalogue;
the 1,682 items of MovieLens-100K want 64 (MAE of hidden ones .841, with 128 .846)."""


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """How rich the encoding is.

    `min_count` is how many entities must share a category of a multi-categorical field for it to get a column,
    `plain_min_count` the same for plain categories, `min_fact_count` for graph facts to be known; on small tables they shrink to
    one per 200 rows. `max_categories`, `max_words` and `max_facts` cap the vocabulary of a field, `text_dim`, `graph_dim` and
    `num_knots` size the text, graph and number blocks. `encode_title` keeps the display title as a text.

    The defaults were chosen on MovieLens-1M's warm items (docs/features.md): by ridge regression from content to an item's bias
    and 16 factors, which predict the ratings of hidden items. MAE with the latest films hidden (three cuts in years) and with a
    random fifth hidden: .839 and .825; with a column of the number itself .859 and .825; with a column for each fact of ten items
    and more .842 and .829; without the graph .842 and .828.
    """

    min_count: int = 3
    plain_min_count: int = 10
    max_categories: int = 1000
    max_words: int = 20_000
    text_dim: int = 64
    num_knots: int = 21
    min_fact_count: int = 2
    max_facts: int = 20_000
    graph_dim: int = 128
    encode_title: bool = True

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 2 if name == "num_knots" else 1
            if name != "encode_title" and value < least:
                raise ConfigError(f"encoder setting '{name}' must be at least {least}, got {value}", field=name)


def fit_block(schema_field: "Field", values: Sequence[object], settings: EncoderSettings, watch: Callable[[str], None]) -> Block:
    """The block of a field, fitted on the values of all entities; `watch` is told how far it is where that takes long."""
    name, kind = schema_field.name, schema_field.kind
    if kind == "numeric":
        return NumberBlock.fit(name, values, num_knots=settings.num_knots)
    if kind == "vector":
        return VectorBlock.fit(name, values, dim=schema_field.dim)
    if schema_field.encoder == "sentences":
        return SentenceBlock.fit(name, values, dim=settings.text_dim, watch=watch)
    multiple = kind == "multi_categorical"
    min_count = _min_count(settings.plain_min_count if kind == "categorical" else settings.min_count, len(values))
    if kind == "text":
        return TextBlock.fit(name, values, dim=settings.text_dim, min_count=min_count, max_words=settings.max_words)
    return CategoryBlock.fit(name, values, multiple=multiple, min_count=min_count, max_size=settings.max_categories)


def fit_facts(values: Sequence[object], settings: EncoderSettings) -> FactsBlock:
    """The block of graph facts, fitted on those of all items (None where there are none)."""
    return FactsBlock.fit(
        GRAPH_FIELD,
        values,
        dim=min(settings.graph_dim, max(MIN_GRAPH_DIM, len(values) // ITEMS_PER_DIRECTION)),
        min_count=_min_count(settings.min_fact_count, len(values)),
        max_facts=settings.max_facts,
    )


def load_block(state: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]]) -> Block:
    """The block that gave this state. InvalidInputError for a kind that nobody here knows."""
    block = BLOCKS.get(str(state.get("kind")))
    if block is None:
        raise InvalidInputError(
            f"the encoder's state has a block of unknown kind '{state.get('kind')}'; it was written by a newer metarec"
        )
    return block.from_state(state, arrays)


def _min_count(wanted: int, rows: int) -> int:
    return max(1, min(wanted, rows // 200))
