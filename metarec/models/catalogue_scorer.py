"""The scorer of implicit targets: every item of the catalogue has a vector and an offset on the scale of a rate.

    score(u, i) = b(i) + phi(i)' w_u        phi(i) = id vector (when known) + linear map of content, b(i) likewise

phi ends in R stages, what a task's number of rows adds to the offset, and twice N / 2 coordinates of who is near whom
(models/neighbour_axes.py), which are facts of the training data and not trained.

Scores are on the scale of a share of users, and evidence adds up. Vectors and offsets start as the moments of what the training
users took (models/catalogue_start.py), the prior mean of w_u as the ridge regression of the users' own coordinates on
their profile, and content maps as ridge regressions of vectors and offsets, so that unknown items have them too.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from metarec.errors import ConfigError
from metarec.models.catalogue_start import STAGES, Recency, principal_axes, shares
from metarec.models.contract import FastWeights, MetaParams
from metarec.models.neighbour_axes import cosine_axes, ridge_axes
from metarec.tasks.batch import Batch, EntityTable, Tables
from metarec.tasks.layout import TaskLayout

NUM_STAGES = len(STAGES) - 1
"""R: the stages after the first, whose shares are the offsets."""

SMOOTH = 0.98
"""How far the weights of neighbouring knots share their penalty."""


@dataclass(frozen=True, kw_only=True)
class CatalogueScorer:
    """Vectors and offsets of items.

    embedding_dim: D
    neighbour_dim: N / 2, axes of each model of neighbours; 0 for none
    init_scale: standard deviation of id vectors that do not start from interactions
    content_ridge, profile_ridge: weights of the squared maps of content and of the profile in their start
    """

    name: ClassVar[str] = "catalogue"

    embedding_dim: int = 32
    neighbour_dim: int = 32
    init_scale: float = 0.1
    content_ridge: float = 20.0
    profile_ridge: float = 200.0

    def __post_init__(self) -> None:
        if self.embedding_dim < 1:
            raise ConfigError(f"embedding_dim is {self.embedding_dim}, must be at least 1", field="embedding_dim")
        if self.neighbour_dim < 0:
            raise ConfigError(f"neighbour_dim is {self.neighbour_dim}, must not be negative", field="neighbour_dim")
        for name in ("init_scale", "content_ridge", "profile_ridge"):
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
            "row.id_stage": torch.zeros(codes, NUM_STAGES),
            "row.content_stage": torch.zeros(width, NUM_STAGES),
            "near.id": torch.zeros(codes, 2 * self.neighbour_dim),
            "near.content": torch.zeros(width, 2 * self.neighbour_dim),
            "task.content": torch.zeros(tables.tasks.dense_NP.shape[1], dim),
            "task.mean": torch.zeros(dim),
        }

    def start_from(self, theta: MetaParams, layout: TaskLayout, tables: Tables, recency: Recency | None = None) -> MetaParams:
        """Theta with vectors, offsets and the profile map started from the interactions of `layout`.

        `recency` is chosen unless it is given.
        """
        rows, tasks = tables.rows, tables.tasks
        axes = principal_axes(layout, self.embedding_dim)
        share_IK = shares(layout, recency).T
        near_IN = np.concatenate([cosine_axes(layout, self.neighbour_dim), ridge_axes(layout, self.neighbour_dim)], 1)
        start_IE = torch.from_numpy(np.concatenate([axes.phi_ID, share_IK[:, :1], share_IK[:, 1:] - share_IK[:, :1], near_IN], 1))
        count_I = torch.from_numpy(np.bincount(layout.row_N, minlength=len(rows)).astype(np.float64))
        eye_PP = torch.eye(rows.dense_NP.shape[1], dtype=torch.float64)
        map_PE = _ridge(rows.dense_NP.double(), start_IE, count_I / (count_I + 5.0), self.content_ridge * eye_PP)
        rest_IE = start_IE - rows.dense_NP.double() @ map_PE
        id_CE = torch.zeros(rows.num_codes + 1, rest_IE.shape[1], dtype=torch.float64)
        known_I = rows.code_N > 0
        id_CE[rows.code_N[known_I]] = rest_IE[known_I]
        profile_TP = tasks.dense_NP[torch.from_numpy(axes.task_T)].double()
        centre_P = profile_TP.mean(0)
        weight_T = torch.ones(len(profile_TP), dtype=torch.float64)
        penalty_PP = self.profile_ridge * _roughness(profile_TP, tasks.blocks)
        profile_PD = _ridge(profile_TP - centre_P, torch.from_numpy(axes.place_TD), weight_T, penalty_PP)
        dim, near = self.embedding_dim, self.embedding_dim + 1 + NUM_STAGES
        parts: dict[str, slice | int] = {
            "row.{}": slice(dim),
            "row.{}_bias": dim,
            "row.{}_stage": slice(dim + 1, near),
            "near.{}": slice(near, None),
        }
        started = {
            **{name.format("id"): id_CE[:, part] for name, part in parts.items()},
            **{name.format("content"): map_PE[:, part] for name, part in parts.items()},
            "task.content": profile_PD,
            "task.mean": -centre_P @ profile_PD,
        }
        return {**theta, **{name: value.to(theta[name].dtype).contiguous() for name, value in started.items()}}

    def row_features(self, theta: MetaParams, rows: EntityTable, keep_I: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`phi` (I, D + R + N) and `b` (I,) of a table; rows where `keep_I` (bool) is false look unknown.

        Heads that were trained before there were neighbours have N = 0.
        """
        if keep_I is None and "cache.phi" in theta:
            assert len(theta["cache.phi"]) == len(rows), "theta was prepared for another table"
            return theta["cache.phi"], theta["cache.bias"]
        code_I = rows.code_N if keep_I is None else torch.where(keep_I, rows.code_N, 0)
        known_I = (code_I > 0).to(theta["row.id"].dtype)
        names = ("row.{}", "row.{}_stage", "near.{}") if "near.id" in theta else ("row.{}", "row.{}_stage")
        id_CE = torch.cat([*(theta[name.format("id")] for name in names), theta["row.id_bias"][:, None]], 1)
        content_PE = torch.cat([*(theta[name.format("content")] for name in names), theta["row.content_bias"][:, None]], 1)
        phi_IE = id_CE[code_I] * known_I[:, None] + rows.mapped(content_PE)
        return phi_IE[:, :-1], phi_IE[:, -1]

    def task_prior(self, theta: MetaParams, tasks: EntityTable, task_T: Tensor) -> Tensor:
        """Prior mean W0 x_u of the task vectors (T, D), without their stage."""
        return tasks.dense_NP[task_T].to(theta["task.mean"].dtype) @ theta["task.content"] + theta["task.mean"]

    def score(self, theta: MetaParams, fast: FastWeights, batch: Batch) -> Tensor:
        """b + phi' w (T, N), with w = fast["mean"] (T, D + R), or its prior mean at the first stage when absent."""
        phi_IE, bias_I = self.row_features(theta, batch.tables.rows)
        if "mean" in fast:
            w_TE = fast["mean"]
        else:
            w_TD = self.task_prior(theta, batch.tables.tasks, batch.task_T)
            near_TN = w_TD.new_zeros(len(w_TD), phi_IE.shape[1] - w_TD.shape[1] - NUM_STAGES)
            w_TE = torch.cat([w_TD, stages(torch.zeros_like(w_TD[:, 0])), near_TN], 1)
        return bias_I[batch.row_TN] + torch.einsum("tne,te->tn", phi_IE[batch.row_TN], w_TE)


def stages(size_T: Tensor) -> Tensor:
    """Weights (T, R) of the stages after the first for tasks that hold this many rows: linear in the logarithm between two."""
    knot_K = torch.log1p(torch.tensor(STAGES, dtype=size_T.dtype, device=size_T.device))
    at_T1 = torch.log1p(size_T)[:, None].clamp(max=float(knot_K[-1]))
    rise_TR = ((at_T1 - knot_K[:-1]) / knot_K.diff()).clamp(0, 1)
    return torch.cat([rise_TR[:, :-1] - rise_TR[:, 1:], rise_TR[:, -1:]], 1)


def _ridge(x_NP: Tensor, y_NE: Tensor, weight_N: Tensor, penalty_PP: Tensor) -> Tensor:
    """The map (P, E) that minimises sum weight (y - x map)^2 + map' penalty map."""
    left_PN = (x_NP * weight_N[:, None]).T
    map_PE: Tensor = torch.linalg.solve(left_PN @ x_NP + penalty_PP, left_PN @ y_NE)
    return map_PE


def _roughness(x_NP: Tensor, blocks: tuple[tuple[str, int, int], ...]) -> Tensor:
    """Penalty matrix (P, P): the square of a weight; among the knots of a number, nearly its difference from its neighbours'."""
    rough_PP = torch.eye(x_NP.shape[1], dtype=x_NP.dtype)
    for _, start, stop in blocks:
        part_NP = x_NP[:, start:stop]
        if bool((part_NP < 0).any()) or not torch.allclose(part_NP.sum(1), part_NP.new_ones(len(part_NP))):
            continue
        # Rows of numbers interpolate between two knots; a category is whole, and has no neighbours.
        beside_PP = ((part_NP.T @ part_NP) > 0).to(x_NP.dtype).fill_diagonal_(0.0)
        degree_P = beside_PP.sum(1).clamp_min(1.0)
        rough_PP[start:stop, start:stop] -= SMOOTH * beside_PP / torch.sqrt(degree_P[:, None] * degree_P)
    return rough_PP
