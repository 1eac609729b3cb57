"""What meta-training produces and serving needs: the learned heads, the feature encoder and the known items."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metarec.errors import InvalidInputError, NotFoundError
from metarec.features.encoder import FeatureEncoder
from metarec.meta.contract import MetaLearner
from metarec.meta.link import Link
from metarec.models.contract import MetaParams, Scorer
from metarec.tasks.batch import EntityTable
from metarec.types import Target, TaskKind

if TYPE_CHECKING:
    from metarec.data.schema import Schema
    from metarec.meta.item_side import ItemSide
    from metarec.meta.profiles import Profiles
    from metarec.meta.scenario import Scenario


@dataclass(frozen=True, kw_only=True)
class Head:
    """One trained learner: what it predicts, what its tasks are, its configuration and its parameters."""

    target: Target
    kind: TaskKind = "user"
    learner: MetaLearner
    model: Scorer
    theta: MetaParams

    def prepared(self, rows: EntityTable) -> "Head":
        """The head with per-row values of `rows` cached; prepare anew whenever the table changes."""
        return replace(self, theta=self.learner.prepare(self.model, self.theta, rows))


@dataclass(frozen=True, kw_only=True)
class Prior:
    """A meta-learned prior with everything needed to adapt and score.

    `items` row k encodes `item_ids[k]`; `popularity_I` (float32) how often training users took it. The ranking score is
    implicit mean + `blend` * explicit mean; with one head missing it is the other alone. `link` turns explicit means of binary
    labels into probabilities (None for other labels); `item_side` is what its explicit head knows of items before their first
    labels (None where that was not learned), `profiles` what users' vectors tell about their profiles (None likewise), and
    `scenarios` what the users of each scenario of the training data have in common. `checkpoint` is "" until published.
    """

    schema: "Schema"
    encoder: FeatureEncoder
    item_ids: tuple[str, ...]
    items: EntityTable
    popularity_I: NDArray[np.float32]
    heads: Mapping[Target, Head]
    blend: float = 0.0
    link: Link | None = None
    item_side: "ItemSide | None" = None
    profiles: "Profiles | None" = None
    scenarios: "Mapping[str, Scenario]" = field(default_factory=dict)
    checkpoint: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.heads:
            raise InvalidInputError("a prior needs at least one head", field="heads")
        if not len(self.item_ids) == len(self.items) == len(self.popularity_I):
            raise InvalidInputError(
                f"a prior of {len(self.item_ids)} item ids has {len(self.items)} encoded items and "
                f"{len(self.popularity_I)} popularities; they must agree",
                field="item_ids",
            )

    def head(self, target: Target) -> Head:
        """The head for `target`; NotFoundError when the checkpoint has none."""
        if target not in self.heads:
            raise NotFoundError(f"checkpoint '{self.checkpoint}' has no '{target}' head; it has {', '.join(sorted(self.heads))}")
        return self.heads[target]

    @property
    def retrieval_target(self) -> Target:
        """The target that drives recall: implicit when there is one."""
        return "implicit" if "implicit" in self.heads else "explicit"
