"""Bayesian adaptation in closed form to several targets at once: a rating and a click, a click and a purchase.

The learner is `alpaca` (whose equations are not repeated here) on the features of `linear_targets`: target t of row i has the
feature z = L_t phi(i), so that a support row of any target is a row of one regression on the task's vector w and tells of all
other targets through it (linear model of coregionalisation: Bonilla et al. 2008; Alvarez et al. 2012, section 4.2). Each target
has a mean, biases and noise levels of its own. The state is w as before, and weighted sums of targets stay linear in it:

    sum_t lambda_t score_t = bias_lambda(i) + phi(i)' (sum_t lambda_t L_t' w)

The query loss is a sum over labels, errors of a target in units of its labels' variance. What the choice of items says
(C phi_j + y_j) is said once for an interaction, whatever the number of its labels: by its row of target 0.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn.functional import embedding

from metarec.errors import ConfigError
from metarec.meta.alpaca_terms import (
    NLL_ROWS,
    bounded_squares,
    choice,
    contributions,
    few_of_each,
    mean,
    posterior,
    rescaled,
    unknown,
    variance,
)
from metarec.meta.contract import Metrics
from metarec.meta.start_axes import start_axes
from metarec.models.contract import FastWeights, MetaParams, Prediction, Scorer, trainable
from metarec.models.linear_gaussian import unique_rows
from metarec.models.linear_targets import LinearTargets, units
from metarec.tasks.batch import Batch, EntityTable, Tables, TaskBatch
from metarec.tasks.stats import LabelStats
from metarec.types import Target


@dataclass(frozen=True, kw_only=True)
class AlpacaTargets:
    """`alpaca` on several targets; the settings of the same name are its own.

    l2_map: weight of the mean squared deviation of L_t from a multiple of the identity, in units of that multiple
    extra_weight: what an error of a further target counts against one of the label, both in units of their variance
    """

    name: ClassVar[str] = "alpaca_targets"
    target: ClassVar[Target] = "explicit"
    default_model: ClassVar[str] = LinearTargets.name

    id_dropout: float = 0.1
    cold_tasks: float = 0.1
    l2_id: float = 0.5
    l2_bias: float = 0.05
    l2_choice: float = 0.03
    l2_content: float = 0.0
    l2_map: float = 0.0
    huber: float = 0.0
    noise_shape: float = 8.0
    row_axes: int = 0
    extra_weight: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0 or (name in ("id_dropout", "cold_tasks") and value >= 1):
                raise ConfigError(f"{name} is {value}, must be 0 or more, and a share less than 1", field=name)

    def init(self, model: Scorer, tables: Tables, generator: torch.Generator, stats: LabelStats | None = None) -> MetaParams:
        """As `alpaca`, with the means, deviations and row biases of further targets from `stats.extra`."""
        linear = _linear(model)
        theta = linear.init(tables, generator)
        extra = () if stats is None else stats.extra
        std_K = torch.tensor([1.0 if stats is None else stats.std, *(part.std for part in extra)]).clamp_min(1e-6)
        width, codes = len(theta["task.mean"]), len(theta["row.id"])
        theta["task.choice"], theta["row.choice"] = torch.zeros(width, width), torch.zeros(codes, width)
        log_var_K2 = torch.tensor([math.log(0.6), math.log(0.7)]) + 2 * torch.log(std_K)[:, None]
        theta["noise.log_var"], theta["targets.log_var"] = log_var_K2[0], log_var_K2[1:]
        theta["predict.log_scale"], theta["targets.log_scale"] = torch.zeros(2), torch.zeros(len(std_K) - 1, 2)
        theta["range.std"] = std_K
        theta["prior.log_var"] = theta["prior.log_var"] + 2 * torch.log(std_K[0])
        if stats is not None:
            theta["mu"], theta["row.id_bias"] = torch.tensor(stats.mean), stats.offset_C1.clone()
        if stats is not None:
            theta |= start_axes(stats, tables.rows, self.row_axes, 0, width - 1, generator)
        offset_KC = torch.stack([part.offset_C1 for part in extra]) if extra else torch.zeros(0, codes)
        return linear.init_targets(theta, torch.tensor([part.mean for part in extra]), std_K[1:] / std_K[0], offset_KC)

    def adapt(self, model: Scorer, theta: MetaParams, support: Batch) -> FastWeights:
        """`mean` (T, D + 1), `factor` (T, D + 1, D + 1) with Cov[w] = factor factor', and `noise_scale` (T,)."""
        linear = _linear(model)
        z_TSD, offset_TS = linear.batch_features(theta, support)
        prior_TD = linear.task_prior(theta, support.tables.tasks, support.task_T)
        prior_TD = prior_TD + _choice(theta, z_TSD, support, unknown(support)).sum(1)
        noise_TS = _noise(theta, support)
        return posterior(theta, z_TSD, offset_TS, noise_TS, prior_TD, support, noise_shape=self.noise_shape)

    def predict(self, model: Scorer, theta: MetaParams, fast: FastWeights, query: Batch) -> Prediction:
        """Posterior predictive mean and variance (noise included) of each row's own target."""
        z_TQD, offset_TQ = _linear(model).batch_features(theta, query)
        scale_TQ = _levels(theta, "predict.log_scale", "targets.log_scale")[query.targets_TN, unknown(query)]
        variance_TQ = variance(fast, z_TQD, _noise(theta, query)) * scale_TQ
        return Prediction(mean_TQ=mean(theta, fast, z_TQD, offset_TQ), variance_TQ=variance_TQ)

    def meta_gradient(
        self, model: Scorer, theta: MetaParams, tasks: TaskBatch, generator: torch.Generator
    ) -> tuple[MetaParams, Metrics]:
        """Autograd through the solve: mean over tasks of the query error per interaction (+ likelihood and L2 terms)."""
        linear = _linear(model)
        live = {name: value.detach().requires_grad_() for name, value in trainable(theta).items()}
        support, query, width = tasks.support, tasks.query, tasks.support.row_TN.shape[1]
        rows = support.tables.rows
        unique_N, at_TN = unique_rows(torch.cat([support.row_TN, query.row_TN], 1), len(rows))
        keep_N = (torch.rand(len(unique_N), generator=generator) >= self.id_dropout).to(unique_N.device)
        cold_T = (torch.rand(query.num_tasks, generator=generator) < self.cold_tasks).to(unique_N.device)
        phi_ND, offset_NK, unknown_N = linear.dropped(live, rows, unique_N, keep_N)
        # Tasks of cold_T address the second half, the same rows without any id.
        at_TN = at_TN + cold_T.to(at_TN.dtype)[:, None] * len(unique_N)
        at_TS, at_TQ, target_TQ = at_TN[:, :width], at_TN[:, width:], query.targets_TN
        # As in `alpaca`: of the padded table of query rows what is there. Place K n + t is row n under target t.
        num_targets = offset_NK.shape[1]
        place_TS, place_TQ = at_TS * num_targets + support.targets_TN, at_TQ * num_targets + target_TQ
        asked_M = query.mask_TN.reshape(-1).nonzero()[:, 0]
        task_M, place_M, target_M = asked_M // at_TQ.shape[1], place_TQ.reshape(-1)[asked_M], target_TQ.reshape(-1)[asked_M]
        z_PD, offset_P = linear.mapped(live, phi_ND).flatten(0, 1), offset_NK.flatten()
        z_SD, z_MD = torch.split(embedding(torch.cat([place_TS.reshape(-1), place_M]), z_PD), [place_TS.numel(), len(place_M)])
        z_TSD = z_SD.view(*place_TS.shape, z_PD.shape[1])
        noise_K2 = _levels(live, "noise.log_var", "targets.log_var")
        noise_TS = noise_K2[support.targets_TN, unknown_N[at_TS]]
        prior_TD = linear.task_prior(live, support.tables.tasks, support.task_T)
        prior_TD = prior_TD + _choice(live, z_TSD, support, unknown_N[at_TS]).sum(1)
        fast = posterior(live, z_TSD, offset_P[place_TS], noise_TS, prior_TD, support, noise_shape=self.noise_shape)
        mean_M = live["mu"] + offset_P[place_M] + (z_MD * fast["mean"].index_select(0, task_M)).sum(1)
        residual_M = query.label_TN.reshape(-1)[asked_M].to(mean_M.dtype) - mean_M
        share_K = live["range.std"].detach() / live["range.std"].detach()[0]
        cost_M = bounded_squares(residual_M, units(live)[target_M], self.huber)
        worth_M = torch.where(target_M == 0, 1.0, self.extra_weight).to(cost_M.dtype) / share_K[target_M].square()
        weight_T = tasks.weight_T.to(mean_M.dtype) / tasks.weight_T.sum()
        count_T = (query.mask_TN & (target_TQ == 0)).sum(1).clamp_min(1).to(mean_M.dtype)
        error = (cost_M * worth_M * (weight_T / count_T)[task_M]).sum()
        # Two scales a target need few rows, and variances are what a step would spend most of its time on.
        few_TF = few_of_each(query.mask_TN, target_TQ, NLL_ROWS)
        mask_TF, target_TF, at_TF, place_TF = (part.gather(1, few_TF) for part in (query.mask_TN, target_TQ, at_TQ, place_TQ))
        unknown_TF = unknown_N[at_TF]
        with torch.no_grad():
            raw_TF = variance(fast, z_PD[place_TF], noise_K2[target_TF, unknown_TF])
            square_N = torch.zeros(at_TQ.numel(), dtype=mean_M.dtype, device=mean_M.device)
            square_TF = square_N.index_copy(0, asked_M, residual_M.square()).view(at_TQ.shape).gather(1, few_TF)
        variance_TF = raw_TF * _levels(live, "predict.log_scale", "targets.log_scale")[target_TF, unknown_TF]
        nll_TF = 0.5 * (square_TF / variance_TF + torch.log(variance_TF)) * mask_TF
        nll = (weight_T * nll_TF.sum(1) / mask_TF.sum(1).clamp_min(1)).sum()
        loss = error + nll + self._penalty(live, rows.code_N[unique_N], share_K)
        gradients = torch.autograd.grad(loss, list(live.values()), allow_unused=True)
        gradient = {
            name: torch.zeros_like(live[name]) if value is None else value for name, value in zip(live, gradients, strict=True)
        }
        for value in (*(gradient[name] for name in ("row.id", "row.id_bias", "row.choice")), gradient["targets.id_bias"].mT):
            value[0] = 0.0  # code 0 has no id: its row stays 0
        if "axes.row" in gradient:
            gradient["axes.row"].zero_()  # axes are given
        return gradient, {"loss": float(error.detach()), "nll": float(nll.detach()), "objective": float(loss.detach())}

    def _penalty(self, live: MetaParams, code_N: Tensor, share_K: Tensor) -> Tensor:
        """The L2 terms; those of further targets in units of the label."""
        further_K = (share_K / units(live))[1:]
        bias = live["row.id_bias"][code_N].square().sum() + (live["targets.id_bias"][:, code_N].mT / further_K).square().sum()
        shared = ("row.content", "row.content_bias", "axes.map", "axes.bias")
        maps = [*(live[name] for name in shared if name in live), live["targets.content_bias"] / further_K]
        content = torch.stack([part.square().sum() for part in maps]).sum()
        maps_KDD = live["targets.map"] / further_K[:, None, None]
        apart = (maps_KDD - torch.eye(maps_KDD.shape[-1], dtype=maps_KDD.dtype, device=maps_KDD.device)).square().sum()
        by_row = self.l2_id * live["row.id"][code_N].square().sum() + self.l2_bias * bias
        by_row = by_row + self.l2_choice * live["row.choice"][code_N].square().sum()
        return by_row / len(code_N) + self.l2_content * content + self.l2_map * apart / maps_KDD.shape[-1]

    def rescaled(self, theta: MetaParams, scale: float) -> MetaParams:
        """Theta that predicts `scale` times as much of the label from labels `scale` times as large; further targets stay."""
        std_K = theta["range.std"].clone()
        std_K[0] *= scale
        return {**rescaled(theta, scale), "targets.map": theta["targets.map"] / scale, "range.std": std_K}

    def prepare(self, model: Scorer, theta: MetaParams, rows: EntityTable) -> MetaParams:
        """Theta with the vectors of all `rows` cached."""
        return _linear(model).prepare(theta, rows)

    def row_vectors(self, model: Scorer, theta: MetaParams, rows: EntityTable) -> tuple[Tensor, Tensor]:
        """`phi` (I, D + 1) with the constant last, and mu + bias (I,) of target 0: mean = bias + phi @ task_vector."""
        phi_ID, bias_I = _linear(model).all_features(theta, rows)
        return phi_ID, bias_I + theta["mu"]

    def task_vector(self, fast: FastWeights) -> Tensor:
        """Posterior mean of w (T, D + 1), which is the vector of target 0."""
        return fast["mean"]

    def target_maps(self, model: Scorer, theta: MetaParams) -> Tensor:
        """L (K, D + 1, D + 1): the vector of target t is L_t' w."""
        return _linear(model).maps(theta)

    def target_offsets(self, model: Scorer, theta: MetaParams, rows: EntityTable) -> Tensor:
        """mu_t + b_t (I, K) of all rows: mean of target t = offset + phi @ (L_t' w)."""
        linear = _linear(model)
        prepared = theta if "cache.offset" in theta else linear.prepare(theta, rows)
        return prepared["cache.offset"] + theta["mu"]

    def contributions(self, model: Scorer, theta: MetaParams, support: Batch, query: Batch) -> dict[str, Tensor]:
        """The terms of `alpaca` for each query row's own target; mu_t is in `item` as far as it differs from the label's."""
        linear = _linear(model)
        z_TSD, offset_TS = linear.batch_features(theta, support)
        z_TQD, offset_TQ = linear.batch_features(theta, query)
        profile_TD = linear.task_prior(theta, support.tables.tasks, support.task_T)
        choice_TSD = _choice(theta, z_TSD, support, unknown(support))
        rows, asked = (z_TSD, offset_TS), (z_TQD, offset_TQ)
        return contributions(theta, rows, asked, _noise(theta, support), profile_TD, choice_TSD, support)


def _choice(theta: MetaParams, z_TSD: Tensor, support: Batch, unknown_TS: Tensor) -> Tensor:
    """What the choice of items says, by support row; 0 for rows of further targets."""
    return choice(theta, z_TSD, replace(support, mask_TN=support.mask_TN & (support.targets_TN == 0)), unknown_TS)


def _noise(theta: MetaParams, batch: Batch) -> Tensor:
    """Noise variance of each row (T, N)."""
    return _levels(theta, "noise.log_var", "targets.log_var")[batch.targets_TN, unknown(batch)]


def _levels(theta: MetaParams, label: str, further: str) -> Tensor:
    """exp of what is known by target (K, 2): of rows known to training, and unknown."""
    return torch.exp(torch.cat([theta[label][None], theta[further]]))


def _linear(model: Scorer) -> LinearTargets:
    if model.name != LinearTargets.name:
        raise ConfigError(f"learner 'alpaca_targets' needs model 'linear_targets', got '{model.name}'", field="model")
    return cast(LinearTargets, model)
