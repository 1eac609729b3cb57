"""The scorer of implicit targets: every item of the catalogue has a vector and an offset on the scale of a rate.

    score(u, i) = b(i) + phi(i)' w_u        phi(i) = id vector (when known) + linear map of content, b(i) likewise

Scores add evidence (how many people like this one took the item) instead of multiplying odds. Vectors can start from the
training interactions (`start_from`): with Z = X diag(n + h)^(-1/2), Z'Z is the cosine similarity of items with shrinkage h, and
the truncated singular vectors of Z are its best vectors of D dimensions (Eckart & Young 1936). Offsets start as the share of
recent users that took the item. Content maps start as ridge regressions of both, so that unknown items have them too.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import svds
from torch import Tensor

from metarec.errors import ConfigError
from metarec.models.contract import FastWeights, MetaParams
from metarec.tasks.batch import Batch, EntityTable, Tables
from metarec.tasks.layout import TaskLayout


@dataclass(frozen=True, kw_only=True)
class CatalogueScorer:
    """Vectors and offsets of items.

    embedding_dim: D
    init_scale: standard deviation of id vectors that do not start from interactions
    shrinkage: h, the interactions of an item below which its similarities are held back
    recent_fraction: offsets count interactions with weight exp(-age / this share of all interactions); age in interactions
    content_ridge: weight of the squared content maps in their start
    """

    name: ClassVar[str] = "catalogue"

    embedding_dim: int = 32
    init_scale: float = 0.1
    shrinkage: float = 100.0
    recent_fraction: float = 0.1
    content_ridge: float = 20.0

    def __post_init__(self) -> None:
        if self.embedding_dim < 1:
            raise ConfigError(f"embedding_dim is {self.embedding_dim}, must be at least 1", field="embedding_dim")
        for name in ("init_scale", "shrinkage", "recent_fraction", "content_ridge"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be positive", field=name)

    def init(self, tables: Tables, generator: torch.Generator) -> MetaParams:
        """Small random vectors, offsets 0, no influence of the profile."""
        dim, codes, width = self.embedding_dim, tables.rows.num_codes + 1, tables.rows.dense_NP.shape[1]
        id_CD = torch.randn(codes, dim, generator=generator) * self.init_scale
        id_CD[0] = 0.0
        return {
            "row.id": id_CD,
            "row.id_bias": torch.zeros(codes),
            "row.content": torch.randn(width, dim, generator=generator) * self.init_scale / math.sqrt(max(1, width)),
            "row.content_bias": torch.zeros(width),
            "task.content": torch.zeros(tables.tasks.dense_NP.shape[1], dim),
            "task.mean": torch.zeros(dim),
        }

    def start_from(self, theta: MetaParams, layout: TaskLayout, rows: EntityTable) -> MetaParams:
        """Theta with vectors and offsets of the row entities started from the interactions of `layout`."""
        count_I = np.bincount(layout.row_N, minlength=len(rows)).astype(np.float64)
        phi_ID = torch.from_numpy(_spectral(layout, len(rows), self.embedding_dim, self.shrinkage))
        bias_I = torch.from_numpy(_recent_share(layout, len(rows), self.recent_fraction))
        weight_I = torch.from_numpy(count_I / (count_I + 5.0))
        dense_IP = rows.dense_NP.double()
        left_PI = (dense_IP * weight_I[:, None]).T
        ridge_PP = left_PI @ dense_IP + self.content_ridge * torch.eye(dense_IP.shape[1], dtype=torch.float64)
        map_PE = torch.linalg.solve(ridge_PP, left_PI @ torch.cat([phi_ID, bias_I[:, None]], 1))
        rest_IE = torch.cat([phi_ID, bias_I[:, None]], 1) - dense_IP @ map_PE
        id_CE = torch.zeros(rows.num_codes + 1, rest_IE.shape[1], dtype=torch.float64)
        known_I = rows.code_N > 0
        id_CE[rows.code_N[known_I]] = rest_IE[known_I]
        dtype = theta["row.id"].dtype
        return {
            **theta,
            "row.id": id_CE[:, :-1].to(dtype).contiguous(),
            "row.id_bias": id_CE[:, -1].to(dtype).contiguous(),
            "row.content": map_PE[:, :-1].to(dtype).contiguous(),
            "row.content_bias": map_PE[:, -1].to(dtype).contiguous(),
        }

    def row_features(self, theta: MetaParams, rows: EntityTable, keep_I: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`phi` (I, D) and `b` (I,) of a table; rows where `keep_I` (bool) is false look unknown."""
        if keep_I is None and "cache.phi" in theta:
            assert len(theta["cache.phi"]) == len(rows), "theta was prepared for another table"
            return theta["cache.phi"], theta["cache.bias"]
        code_I = rows.code_N if keep_I is None else torch.where(keep_I, rows.code_N, 0)
        known_I = (code_I > 0).to(theta["row.id"].dtype)
        dense_IP = rows.dense_NP.to(known_I.dtype)
        phi_ID = theta["row.id"][code_I] * known_I[:, None] + dense_IP @ theta["row.content"]
        return phi_ID, theta["row.id_bias"][code_I] * known_I + dense_IP @ theta["row.content_bias"]

    def task_prior(self, theta: MetaParams, tasks: EntityTable, task_T: Tensor) -> Tensor:
        """Prior mean W0 x_u of the task vectors (T, D)."""
        return tasks.dense_NP[task_T].to(theta["task.mean"].dtype) @ theta["task.content"] + theta["task.mean"]

    def score(self, theta: MetaParams, fast: FastWeights, batch: Batch) -> Tensor:
        """b + phi' w (T, N), with w = fast["mean"] (T, D) or its prior mean when absent."""
        phi_ID, bias_I = self.row_features(theta, batch.tables.rows)
        w_TD = fast["mean"] if "mean" in fast else self.task_prior(theta, batch.tables.tasks, batch.task_T)
        return bias_I[batch.row_TN] + torch.einsum("tnd,td->tn", phi_ID[batch.row_TN], w_TD)


def _spectral(layout: TaskLayout, num_rows: int, dim: int, shrinkage: float) -> NDArray[np.float64]:
    """Vectors (I, D) whose inner products are the best rank-D approximation of the shrunken cosine similarity."""
    present, task_N = np.unique(layout.row_tasks, return_inverse=True)
    count_I = np.bincount(layout.row_N, minlength=num_rows)
    scaled = sp.csr_matrix((1 / np.sqrt(count_I[layout.row_N] + shrinkage), (task_N, layout.row_N)), (len(present), num_rows))
    rank = min(dim, min(scaled.shape) - 1)
    phi_ID = np.zeros((num_rows, dim))
    if rank < 1:
        return phi_ID
    _, value_R, right_RI = svds(scaled, k=rank, v0=np.full(min(scaled.shape), 1.0))
    order = np.argsort(-value_R)
    right_RI = right_RI[order] * np.sign(right_RI[order].sum(1, keepdims=True) + 1e-30)  # the sign of a singular vector is free
    phi_ID[:, :rank] = (right_RI * value_R[order][:, None]).T
    return phi_ID


def _recent_share(layout: TaskLayout, num_rows: int, fraction: float) -> NDArray[np.float64]:
    """Share (I,) of recent tasks that hold the row, a task being as recent as its newest interaction."""
    size = len(layout.row_N)
    weight_N = np.ones(size)
    if layout.has_timestamps:
        age_N = np.empty(size)
        age_N[np.argsort(-layout.timestamp_N, kind="stable")] = np.arange(size)
        weight_N = np.exp(-age_N / (fraction * size))
    newest_T = np.zeros(len(layout))
    np.maximum.at(newest_T, layout.row_tasks, weight_N)
    share: NDArray[np.float64] = np.bincount(layout.row_N, weight_N, minlength=num_rows) / max(newest_T.sum(), 1e-12)
    return share
