"""MeLU-style scorer (Lee et al. 2019, eqs. 1-4): field embeddings, two hidden layers, one score.

Each field's encoded columns are mapped to an embedding (for one-hot columns that is a lookup, for several a sum), the row
entity's id has one more; their concatenation with the task's passes through the decision layers. Only the decision layers
adapt to a task. The first layer is split into a row half, computed once per distinct row, and a task half, once per task.

Fast weights come in three shapes: all decision layers per task (`decision.*`); the output layer alone; or the dual form of
metarec.meta.dual, where the first layer is that of theta plus `dual.row' dual.step` and `decision.offset` is its task half.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarec.errors import ConfigError
from metarec.models.contract import FastWeights, LayerInputs, MetaParams, ScorerInputs
from metarec.models.linear_gaussian import unique_rows
from metarec.tasks.batch import Batch, EntityTable, Tables


@dataclass(frozen=True, kw_only=True)
class Melu:
    """Settings of the scorer.

    embedding_dim: length of each field's embedding
    hidden_dim: width of both hidden layers
    use_ids: whether known row entities have an id embedding beside their content
    """

    name: ClassVar[str] = "melu"

    embedding_dim: int = 16
    hidden_dim: int = 64
    use_ids: bool = True

    def __post_init__(self) -> None:
        for name in ("embedding_dim", "hidden_dim"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be at least 1", field=name)

    def init(self, tables: Tables, generator: torch.Generator) -> MetaParams:
        """Gaussian embeddings and decision layers at the scale of He et al. (2015); id embeddings and biases start at 0."""
        row_dim = self.embedding_dim * (len(tables.rows.blocks) + self.use_ids)
        task_dim = self.embedding_dim * len(tables.tasks.blocks)

        def normal(fan_in: int, *shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator) * math.sqrt(2 / max(1, fan_in))

        theta = {
            "decision.row": normal(row_dim + task_dim, row_dim, self.hidden_dim),
            "decision.task": normal(row_dim + task_dim, task_dim, self.hidden_dim),
            "decision.bias1": torch.zeros(self.hidden_dim),
            "decision.hidden": normal(self.hidden_dim, self.hidden_dim, self.hidden_dim),
            "decision.bias2": torch.zeros(self.hidden_dim),
            "decision.out": normal(self.hidden_dim, self.hidden_dim) * 0.5,
            "decision.mean": torch.zeros(1),
            "row.content": torch.randn(tables.rows.dense_NP.shape[1], self.embedding_dim, generator=generator) * 0.2,
            "task.content": torch.randn(tables.tasks.dense_NP.shape[1], self.embedding_dim, generator=generator) * 0.2,
        }
        if self.use_ids:
            theta["row.id"] = torch.zeros(tables.rows.num_codes + 1, self.embedding_dim)
        return theta

    def initial(self, theta: MetaParams, batch: Batch) -> FastWeights:
        """The decision layers, once per task."""
        return {
            name: value.expand(batch.num_tasks, *value.shape) for name, value in theta.items() if name.startswith("decision.")
        }

    def inputs(self, theta: MetaParams, batch: Batch, known_I: Tensor | None = None) -> ScorerInputs:
        """Embedded rows (T, N, E_row) and tasks (T, E_task); `known_I` (bool, per row of the table) hides ids where false."""
        if known_I is None and "cache.row" in theta:
            return self._cached(theta, batch)[0], self._tasks(theta, batch)
        unique_NE, at_TN = self._unique(theta, batch, known_I)
        return unique_NE[at_TN], self._tasks(theta, batch)

    def layer_inputs(self, theta: MetaParams, batch: Batch, known_I: Tensor | None = None) -> LayerInputs:
        """The same with what the first layer of theta makes of them: one product per distinct row and per task."""
        if known_I is None and "cache.row" in theta:
            row_TNE, first_TNH = self._cached(theta, batch)
        else:
            unique_NE, at_TN = self._unique(theta, batch, known_I)
            row_TNE, first_TNH = unique_NE[at_TN], (unique_NE @ theta["decision.row"])[at_TN]
        task_TE = self._tasks(theta, batch)
        return row_TNE, first_TNH, task_TE, task_TE @ theta["decision.task"] + theta["decision.bias1"]

    def layers(
        self, theta: MetaParams, fast: FastWeights, inputs: LayerInputs, gram_TNS: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Both hidden layers (T, N, H) and scores (T, N); weights that are not in `fast` are those of theta.

        `gram_TNS` saves computing the products of the rows with `dual.row`.
        """
        row_TNE, first_TNH, _, offset_TH = inputs
        first_TNH = first_TNH + fast.get("decision.offset", offset_TH)[:, None]
        if "dual.row" in fast:
            gram_TNS = row_TNE @ fast["dual.row"].mT if gram_TNS is None else gram_TNS
            first_TNH = first_TNH + gram_TNS @ fast["dual.step"]
        return self._upper({**theta, **fast}, torch.relu(first_TNH))

    def forward(self, fast: FastWeights, inputs: ScorerInputs) -> Tensor:
        """Scores (T, N) from per-task decision layers."""
        row_TNE, task_TE = inputs
        offset_T1H = (task_TE[:, None] @ fast["decision.task"]) + fast["decision.bias1"][:, None]
        return self._upper(fast, torch.relu(row_TNE @ fast["decision.row"] + offset_T1H))[2]

    def _upper(self, weights: Mapping[str, Tensor], first_TNH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What follows the first layer, with weights of each task or shared ones."""
        second_TNH = torch.relu(first_TNH @ weights["decision.hidden"] + weights["decision.bias2"][..., None, :])
        return first_TNH, second_TNH, (second_TNH @ weights["decision.out"][..., None])[..., 0] + weights["decision.mean"]

    def score(self, theta: MetaParams, fast: FastWeights, batch: Batch) -> Tensor:
        """Scores (T, N) with the decision layers of `fast`, those of theta where it has none."""
        if "decision.row" in fast:
            return self.forward(fast, self.inputs(theta, batch))
        return self.layers(theta, fast, self.layer_inputs(theta, batch))[2]

    def prepare(self, theta: MetaParams, rows: EntityTable) -> MetaParams:
        """Theta with `cache.row` and `cache.first`: the embeddings of all `rows` and their half of the first layer."""
        row_IE = self._rows(theta, rows, torch.arange(len(rows), device=rows.code_N.device), None)
        return {**theta, "cache.row": row_IE, "cache.first": row_IE @ theta["decision.row"]}

    def start_at(self, theta: MetaParams, mean: float) -> MetaParams:
        """Theta whose scores are centred on `mean`."""
        return {**theta, "decision.mean": torch.full_like(theta["decision.mean"], mean)}

    def _cached(self, theta: MetaParams, batch: Batch) -> tuple[Tensor, Tensor]:
        assert len(theta["cache.row"]) == len(batch.tables.rows), "theta was prepared for another table"
        return theta["cache.row"][batch.row_TN], theta["cache.first"][batch.row_TN]

    def _unique(self, theta: MetaParams, batch: Batch, known_I: Tensor | None) -> tuple[Tensor, Tensor]:
        rows = batch.tables.rows
        unique_N, at_TN = unique_rows(batch.row_TN, len(rows))
        return self._rows(theta, rows, unique_N, None if known_I is None else known_I[unique_N]), at_TN

    def _tasks(self, theta: MetaParams, batch: Batch) -> Tensor:
        tasks = batch.tables.tasks
        weight_PE = theta["task.content"]
        return embed_fields(tasks.dense_NP[batch.task_T].to(weight_PE.dtype), weight_PE, tasks.blocks)

    def _rows(self, theta: MetaParams, rows: EntityTable, row_N: Tensor, known_N: Tensor | None) -> Tensor:
        dense_NP = rows.dense_NP[row_N].to(theta["row.content"].dtype)
        content_NE = embed_fields(dense_NP, theta["row.content"], rows.blocks)
        if not self.use_ids:
            return content_NE
        code_N = rows.code_N[row_N]
        if known_N is not None:
            code_N = torch.where(known_N, code_N, 0)
        return torch.cat([content_NE, theta["row.id"][code_N]], 1)


def embed_fields(dense_NP: Tensor, weight_PE: Tensor, blocks: tuple[tuple[str, int, int], ...]) -> Tensor:
    """One embedding per field, concatenated: (N, F * E)."""
    parts = [dense_NP[:, start:stop] @ weight_PE[start:stop] for _, start, stop in blocks]
    return torch.cat(parts, 1) if parts else dense_NP[:, :0] @ weight_PE[:0, :0]
