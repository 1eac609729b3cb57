"""MeLU-style scorer (Lee et al. 2019, eqs. 1-4): field embeddings, two hidden layers, one score.

Each field's encoded columns are mapped to an embedding (for one-hot columns that is a lookup, for several a sum), the row
entity's id has one more; their concatenation with the task's passes through the decision layers. Only the decision layers
adapt to a task. The first layer is split into a row half and a task half, so that the task half is computed once per task.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarec.errors import ConfigError
from metarec.models.contract import FastWeights, MetaParams, ScorerInputs
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
        rows, tasks = batch.tables.rows, batch.tables.tasks
        if known_I is None and "cache.row" in theta:
            assert len(theta["cache.row"]) == len(rows), "theta was prepared for another table"
            embedded_TNE = theta["cache.row"][batch.row_TN]
        else:
            unique_N, at_TN = unique_rows(batch.row_TN, len(rows))
            known_N = None if known_I is None else known_I[unique_N]
            embedded_TNE = self._rows(theta, rows, unique_N, known_N)[at_TN]
        dense_TP = tasks.dense_NP[batch.task_T].to(embedded_TNE.dtype)
        return embedded_TNE, embed_fields(dense_TP, theta["task.content"], tasks.blocks)

    def _rows(self, theta: MetaParams, rows: EntityTable, row_N: Tensor, known_N: Tensor | None) -> Tensor:
        dense_NP = rows.dense_NP[row_N].to(theta["row.content"].dtype)
        content_NE = embed_fields(dense_NP, theta["row.content"], rows.blocks)
        if not self.use_ids:
            return content_NE
        code_N = rows.code_N[row_N]
        if known_N is not None:
            code_N = torch.where(known_N, code_N, 0)
        return torch.cat([content_NE, theta["row.id"][code_N]], 1)

    def forward(self, fast: FastWeights, inputs: ScorerInputs) -> Tensor:
        """Scores (T, N) from per-task decision layers."""
        row_TNE, task_TE = inputs
        offset_T1H = (task_TE[:, None] @ fast["decision.task"]) + fast["decision.bias1"][:, None]
        first_TNH = torch.relu(row_TNE @ fast["decision.row"] + offset_T1H)
        second_TNH = torch.relu(first_TNH @ fast["decision.hidden"] + fast["decision.bias2"][:, None])
        return (second_TNH @ fast["decision.out"][..., None])[..., 0] + fast["decision.mean"]

    def score(self, theta: MetaParams, fast: FastWeights, batch: Batch) -> Tensor:
        """Scores (T, N) with the decision layers of `fast`, or those of theta when it is empty."""
        return self.forward(fast or self.initial(theta, batch), self.inputs(theta, batch))

    def prepare(self, theta: MetaParams, rows: EntityTable) -> MetaParams:
        """Theta with `cache.row`, the embeddings of all `rows`."""
        return {**theta, "cache.row": self._rows(theta, rows, torch.arange(len(rows), device=rows.code_N.device), None)}

    def start_at(self, theta: MetaParams, mean: float) -> MetaParams:
        """Theta whose scores are centred on `mean`."""
        return {**theta, "decision.mean": torch.full_like(theta["decision.mean"], mean)}


def embed_fields(dense_NP: Tensor, weight_PE: Tensor, blocks: tuple[tuple[str, int, int], ...]) -> Tensor:
    """One embedding per field, concatenated: (N, F * E)."""
    parts = [dense_NP[:, start:stop] @ weight_PE[start:stop] for _, start, stop in blocks]
    return torch.cat(parts, 1) if parts else dense_NP[:, :0] @ weight_PE[:0, :0]
