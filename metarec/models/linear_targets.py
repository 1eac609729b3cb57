"""The linear-Gaussian scorer for several targets at once: one vector of the task, one linear map of the row for each target.

    score_t(u, r) = mu_t + b_t(r) + (L_t phi(r))' w_u        L_0 = I

is the linear model of coregionalisation (Alvarez, Rosasco & Lawrence 2012, section 4.2; for tasks Bonilla, Chai & Williams 2008):
targets share the features and the task's Gaussian vector, and L_t says which of its directions speak of target t. Target 0 is the
schema's label and what `linear_gaussian` knows; the parameters of further targets are named `targets.*` and held in units
(`range.unit`), since an outer step is of one size for all parameters: a target of hundreds would hardly move.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarec.models.contract import MetaParams
from metarec.models.linear_gaussian import LinearGaussian, unique_rows
from metarec.tasks.batch import Batch, EntityTable

ALIKE = (0.05, 3.0)
"""Further targets whose deviation over the label's is between these share its unit, others have that as their unit."""


@dataclass(frozen=True, kw_only=True)
class LinearTargets(LinearGaussian):
    """`linear_gaussian` with further targets: K - 1 of them, as many as theta has maps for."""

    name: ClassVar[str] = "linear_targets"

    def init_targets(self, theta: MetaParams, mean_K: Tensor, scale_K: Tensor, offset_KC: Tensor) -> MetaParams:
        """Theta with further targets of these means, deviations in units of the label's and row offsets by id code."""
        size, width = len(theta["task.mean"]), len(theta["row.content_bias"])
        unit_K = torch.where((scale_K < ALIKE[0]) | (scale_K > ALIKE[1]), scale_K, 1.0)
        return {
            **theta,
            "range.unit": unit_K,
            "targets.mu": mean_K / unit_K,
            "targets.map": (scale_K / unit_K)[:, None, None] * torch.eye(size),
            "targets.id_bias": offset_KC / unit_K[:, None],
            "targets.content_bias": torch.zeros(width, len(mean_K)),
        }

    def maps(self, theta: MetaParams) -> Tensor:
        """L (K, D + 1, D + 1), the identity first."""
        further_KDD = theta["targets.map"] * units(theta)[1:, None, None]
        return torch.cat(
            [torch.eye(further_KDD.shape[-1], dtype=further_KDD.dtype, device=further_KDD.device)[None], further_KDD]
        )

    def offsets(
        self, theta: MetaParams, rows: EntityTable, row_N: Tensor, bias_N: Tensor, here_N: Tensor | None = None
    ) -> Tensor:
        """mu_t - mu + b_t (N, K) of rows whose b under the label is `bias_N`; `here_N` says whose ids count (default: all)."""
        code_N = rows.code_N[row_N]
        id_NK = theta["targets.id_bias"].mT[code_N]
        if here_N is not None:
            id_NK = id_NK * here_N[:, None]
        content_NK = rows.mapped(theta["targets.content_bias"], row_N)
        further_NK = units(theta)[1:] * (theta["targets.mu"] + content_NK + id_NK) - theta["mu"]
        return torch.cat([bias_N[:, None], further_NK], 1)

    def batch_features(self, theta: MetaParams, batch: Batch) -> tuple[Tensor, Tensor]:
        """L_t phi (T, N, D + 1) and mu_t - mu + b_t (T, N) of each row's own target t."""
        rows, target_TN = batch.tables.rows, batch.targets_TN
        if "cache.phi" in theta:
            assert len(theta["cache.phi"]) == len(rows), "theta was prepared for another table"
            phi_TND, offset_TN = theta["cache.phi"][batch.row_TN], theta["cache.offset"][batch.row_TN, target_TN]
            for number, map_DD in enumerate(self.maps(theta)[1:], 1):
                here_TN1 = (target_TN == number)[..., None]
                if bool(here_TN1.any()):
                    phi_TND = torch.where(here_TN1, phi_TND @ map_DD.mT, phi_TND)
            return phi_TND, offset_TN
        unique_N, at_TN = unique_rows(batch.row_TN, len(rows))
        phi_ND, bias_N = self.row_features(theta, rows, unique_N)
        offset_NK = self.offsets(theta, rows, unique_N, bias_N)
        return self.mapped(theta, phi_ND)[at_TN, target_TN], offset_NK[at_TN, target_TN]

    def mapped(self, theta: MetaParams, phi_ND: Tensor) -> Tensor:
        """L_t phi of every row and target (N, K, D + 1)."""
        return torch.einsum("nd,ked->nke", phi_ND, self.maps(theta))

    def dropped(self, theta: MetaParams, rows: EntityTable, row_N: Tensor, keep_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """phi (2N, D + 1), offsets (2N, K) and whether unknown (2N) of rows with the ids of `keep_N` alone, then without any."""
        code_N = rows.code_N[row_N]
        here_N = (code_N > 0) & keep_N
        cold_ND, cold_bias_N = self.content_features(theta, rows, row_N)
        own_ND, own_bias_N = self.own_features(theta, code_N)
        phi_ND, bias_N = cold_ND + own_ND * here_N[:, None], cold_bias_N + own_bias_N * here_N
        warm_NK = self.offsets(theta, rows, row_N, bias_N, here_N)
        cold_NK = self.offsets(theta, rows, row_N, cold_bias_N, torch.zeros_like(here_N))
        unknown_N = torch.cat([~here_N, torch.ones_like(here_N)]).to(torch.int64)
        return torch.cat([phi_ND, cold_ND]), torch.cat([warm_NK, cold_NK]), unknown_N

    def prepare(self, theta: MetaParams, rows: EntityTable) -> MetaParams:
        """Theta with `cache.phi`, `cache.bias` and `cache.offset` (I, K) of all `rows`."""
        prepared = super().prepare(theta, rows)
        everything = torch.arange(len(rows), device=rows.code_N.device)
        return {**prepared, "cache.offset": self.offsets(theta, rows, everything, prepared["cache.bias"])}


def units(theta: MetaParams) -> Tensor:
    """The unit (K,) of each target's parameters, 1 for the label; heads of before there were units have 1 everywhere."""
    further_K = theta["range.unit"].detach() if "range.unit" in theta else torch.ones_like(theta["targets.mu"])
    return torch.cat([further_K.new_ones(1), further_K])
