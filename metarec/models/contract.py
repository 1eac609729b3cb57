"""The scorer contract: how a model turns parameters and rows into scores. Models hold settings, never tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from metarec.tasks.batch import Batch, EntityTable, Tables

MetaParams = dict[str, Tensor]
"""theta: meta-learned parameters by name; keys starting with `cache.` are derived and never trained or saved."""

FastWeights = dict[str, Tensor]
"""The adapted subset of one or more tasks by name, each with a leading T dimension."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """`mean_TQ` in units of the label (or a ranking score for implicit targets); `variance_TQ` None when the learner has none."""

    mean_TQ: Tensor
    variance_TQ: Tensor | None = None


class Scorer(Protocol):
    """A model: parameter shapes and the forward pass."""

    name: ClassVar[str]

    def init(self, tables: Tables, generator: torch.Generator) -> MetaParams:
        """Initial parameters for tables of these widths."""
        ...

    def score(self, theta: MetaParams, fast: FastWeights, batch: Batch) -> Tensor:
        """Scores of the rows of `batch` (T, N) with fast weights in place of the parameters they adapt; pure."""
        ...


ScorerInputs = tuple[Tensor, Tensor]
"""What a scorer's adapted part sees: per-row inputs (T, N, ...) and per-task inputs (T, ...)."""


class GradientScorer(Scorer, Protocol):
    """A scorer whose fast weights can be improved by gradient steps: the part that does not adapt is computed once."""

    def initial(self, theta: MetaParams, batch: Batch) -> FastWeights:
        """Fast weights of each task before any adaptation."""
        ...

    def inputs(self, theta: MetaParams, batch: Batch, known_I: Tensor | None = None) -> ScorerInputs:
        """What does not adapt; `known_I` (bool, one per row of `batch.tables.rows`) hides ids where false."""
        ...

    def forward(self, fast: FastWeights, inputs: ScorerInputs) -> Tensor:
        """Scores (T, N); `score(theta, fast, batch) == forward(fast, inputs(theta, batch))`."""
        ...

    def prepare(self, theta: MetaParams, rows: EntityTable) -> MetaParams:
        """Theta with values per row of `rows` cached for `inputs`."""
        ...

    def start_at(self, theta: MetaParams, mean: float) -> MetaParams:
        """Theta whose initial scores are centred on `mean`."""
        ...


LayerInputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""Rows (T, N, E), their half of the first layer (T, N, H), tasks (T, E') and their half with the bias (T, H)."""


class LayeredScorer(GradientScorer, Protocol):
    """A scorer that is a network with two hidden layers over inputs that do not adapt: it fits the dual form of meta.dual."""

    def layer_inputs(self, theta: MetaParams, batch: Batch, known_I: Tensor | None = None) -> LayerInputs:
        """What does not adapt, and the first layer of theta applied to it."""
        ...

    def layers(
        self, theta: MetaParams, fast: FastWeights, inputs: LayerInputs, gram_TNS: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden layers (T, N, H) twice and scores (T, N); weights that are not in `fast` are those of theta."""
        ...


def trainable(theta: Mapping[str, Tensor]) -> MetaParams:
    """The parameters of theta without derived ones."""
    return {name: value for name, value in theta.items() if not name.startswith("cache.")}
