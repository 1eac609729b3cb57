"""Linear-Gaussian scorer (DESIGN 4.1): a row's vector is its id vector (when known) plus a linear map of its content.

What a row without id is like may be known better than a linear map tells (metarec.models.content_process).

    score(t, r) = mu + b(r) + phi(r)' w_t        w_t ~ N(W0 x_t, diag(v))

phi ends in a constant 1, so the last coordinate of w_t is the task's shared offset with prior mean b0(x_t) and prior variance
beta: offset and taste are one Gaussian of D + 1 dimensions (Harrison et al. 2018, eq. 3, with features phi and prior W0 x_t).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarec.errors import ConfigError
from metarec.models.content_process import beyond_content_map, has_process
from metarec.models.contract import FastWeights, MetaParams, ScorerInputs
from metarec.tasks.batch import Batch, EntityTable, Tables


@dataclass(frozen=True, kw_only=True)
class LinearGaussian:
    """The feature side of the closed-form learners.

    embedding_dim: D, the length of a row's vector without the constant
    init_scale: standard deviation of initial id vectors
    """

    name: ClassVar[str] = "linear_gaussian"

    embedding_dim: int = 48
    init_scale: float = 0.1

    def __post_init__(self) -> None:
        if self.embedding_dim < 1:
            raise ConfigError(f"embedding_dim is {self.embedding_dim}, must be at least 1", field="embedding_dim")

    def init(self, tables: Tables, generator: torch.Generator) -> MetaParams:
        """Vectors and content maps start small and random, biases at 0, the prior variances at 1 / D and 0.1."""
        dim, codes = self.embedding_dim, tables.rows.num_codes + 1
        row_width, task_width = tables.rows.dense_NP.shape[1], tables.tasks.dense_NP.shape[1]

        def normal(*shape: int, scale: float) -> Tensor:
            return torch.randn(*shape, generator=generator) * scale

        id_CD = normal(codes, dim, scale=self.init_scale)
        id_CD[0] = 0.0
        return {
            "mu": torch.zeros(()),
            "row.id": id_CD,
            "row.id_bias": torch.zeros(codes),
            "row.content": normal(row_width, dim, scale=self.init_scale / math.sqrt(max(1.0, active_columns(tables.rows)))),
            "row.content_bias": torch.zeros(row_width),
            "task.content": normal(task_width, dim, scale=0.01),
            "task.content_bias": torch.zeros(task_width),
            "task.mean": torch.zeros(dim + 1),
            "prior.log_var": torch.cat([torch.zeros(dim), torch.full((1,), math.log(0.2))]),
        }

    def row_features(
        self, theta: MetaParams, rows: EntityTable, row_N: Tensor | None = None, known_N: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`phi` (N, D + 1) with its constant, and `bias` (N,), of the rows at `row_N` (default: all of the table).

        `known_N` (float or bool) multiplies the id part: 0 makes a row look unseen.
        """
        code_N = rows.code_N if row_N is None else rows.code_N[row_N]
        here_N = code_N > 0 if known_N is None else (code_N > 0) & (known_N > 0)
        content_ND, content_bias_N = self.content_features(theta, rows, row_N)
        weight_N = here_N.to(content_ND.dtype)
        own_ND, own_bias_N = self.own_features(theta, code_N)
        phi_ND, bias_N = content_ND + own_ND * weight_N[:, None], content_bias_N + own_bias_N * weight_N
        if has_process(theta) and not bool(here_N.all()):
            place_N = (~here_N).nonzero()[:, 0]
            phi_ND[place_N, :-1] += beyond_content_map(theta, rows.dense_NP, place_N if row_N is None else row_N[place_N])
        return phi_ND, bias_N

    def all_features(self, theta: MetaParams, rows: EntityTable) -> tuple[Tensor, Tensor]:
        """`phi` (I, D + 1) and `bias` (I,) of all rows; uses the cache of `prepare` when it is there."""
        if "cache.phi" in theta:
            assert len(theta["cache.phi"]) == len(rows), "theta was prepared for another table"
            return theta["cache.phi"], theta["cache.bias"]
        return self.row_features(theta, rows)

    def own_features(self, theta: MetaParams, code_N: Tensor) -> tuple[Tensor, Tensor]:
        """What is known of the rows of these id codes beside their content: `phi` (N, D + 1), its constant 0, and `bias` (N,).

        In training a part of it may come from axes that rows share (metarec.meta.row_axes).
        """
        own_ND, bias_N = theta["row.id"][code_N], theta["row.id_bias"][code_N]
        if "axes.row" in theta:
            axes_NA = theta["axes.row"][code_N]
            own_ND, bias_N = own_ND + axes_NA @ theta["axes.map"], bias_N + axes_NA @ theta["axes.bias"]
        return with_one(own_ND, 0.0), bias_N

    def content_features(self, theta: MetaParams, rows: EntityTable, row_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the content maps tell: `phi` (N, D + 1) with its constant, and `bias` (N,)."""
        vector_ND, bias_N = mapped_content(theta, rows, row_N)
        return with_one(vector_ND), bias_N

    def task_prior(self, theta: MetaParams, tasks: EntityTable, task_T: Tensor | None = None) -> Tensor:
        """Prior mean of the task vectors (T, D + 1): W0 x_t, and b0(x_t) last."""
        dense_TP = tasks.dense_NP if task_T is None else tasks.dense_NP[task_T]
        dense_TP = dense_TP.to(theta["mu"].dtype)
        taste_TD = dense_TP @ theta["task.content"]
        offset_T = dense_TP @ theta["task.content_bias"]
        return torch.cat([taste_TD, offset_T[:, None]], 1) + theta["task.mean"]

    def score(self, theta: MetaParams, fast: FastWeights, batch: Batch) -> Tensor:
        """mu + b + phi' w with w = fast["mean"] (T, D + 1), or its prior mean when absent."""
        return self.forward(fast or self.initial(theta, batch), self.inputs(theta, batch))

    def batch_features(self, theta: MetaParams, batch: Batch) -> tuple[Tensor, Tensor]:
        """`phi` (T, N, D + 1) and `bias` (T, N) of a batch's rows; uses the cache of `prepare` when it is there."""
        if "cache.phi" in theta:
            assert len(theta["cache.phi"]) == len(batch.tables.rows), "theta was prepared for another table"
            return theta["cache.phi"][batch.row_TN], theta["cache.bias"][batch.row_TN]
        unique_N, at_TN = unique_rows(batch.row_TN, len(batch.tables.rows))
        phi_ND, bias_N = self.row_features(theta, batch.tables.rows, unique_N)
        return phi_ND[at_TN], bias_N[at_TN]

    def initial(self, theta: MetaParams, batch: Batch) -> FastWeights:
        """The prior mean of w, for learners that adapt it by gradient steps."""
        return {"mean": self.task_prior(theta, batch.tables.tasks, batch.task_T)}

    def inputs(self, theta: MetaParams, batch: Batch, known_I: Tensor | None = None) -> ScorerInputs:
        """`phi` (T, N, D + 1) and mu + b (T, N)."""
        if known_I is None:
            phi_TND, bias_TN = self.batch_features(theta, batch)
        else:
            unique_N, at_TN = unique_rows(batch.row_TN, len(batch.tables.rows))
            phi_ND, bias_N = self.row_features(theta, batch.tables.rows, unique_N, known_I[unique_N])
            phi_TND, bias_TN = phi_ND[at_TN], bias_N[at_TN]
        return phi_TND, theta["mu"] + bias_TN

    def forward(self, fast: FastWeights, inputs: ScorerInputs) -> Tensor:
        """mu + b + phi' w (T, N)."""
        phi_TND, offset_TN = inputs
        return offset_TN + torch.einsum("tnd,td->tn", phi_TND, fast["mean"])

    def start_at(self, theta: MetaParams, mean: float) -> MetaParams:
        """Theta with mu at `mean`."""
        return {**theta, "mu": torch.full_like(theta["mu"], mean)}

    def prepare(self, theta: MetaParams, rows: EntityTable) -> MetaParams:
        """Theta with `cache.phi` and `cache.bias` of all `rows`."""
        phi_ID, bias_I = self.row_features(theta, rows)
        return {**theta, "cache.phi": phi_ID, "cache.bias": bias_I}


def mapped_content(theta: MetaParams, rows: EntityTable, row_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Vectors (N, D) and biases (N,) that content maps to, of the rows at `row_N` (default: of all)."""
    width = theta["row.content"].shape[1]
    map_PE = torch.cat([theta["row.content"], theta["row.content_bias"][:, None]], 1)
    vector_ND, bias_N1 = torch.split(rows.mapped(map_PE, row_N), [width, 1], 1)
    return vector_ND, bias_N1[:, 0]


def with_one(phi_ND: Tensor, one: float = 1.0) -> Tensor:
    """`phi` with a last column of `one`."""
    return torch.cat([phi_ND, torch.full_like(phi_ND[:, :1], one)], 1)


def unique_rows(row_TN: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Distinct values of `row_TN` in order, and the position of each entry among them: content is mapped once per batch."""
    seen_I = torch.zeros(num_rows, dtype=torch.bool, device=row_TN.device)
    seen_I[row_TN.reshape(-1)] = True
    unique_N = seen_I.nonzero()[:, 0]
    place_I = torch.cumsum(seen_I, 0) - 1
    return unique_N, place_I[row_TN]


def active_columns(table: EntityTable) -> float:
    """Mean squared norm of a row's content: the scale at which a linear map of it has unit gain."""
    return float(table.dense_NP.double().square().sum(1).mean()) if len(table) else 1.0
