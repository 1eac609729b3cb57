"""Bayesian adaptation in closed form for explicit labels (DESIGN 4.1).

ALPaCA (Harrison, Sharma & Pavone 2018, eqs. 3-6): Bayesian linear regression on meta-learned features. With whitened features
z = phi diag(v)^(1/2), support residuals r = y - mu - b - phi' w0 and row noise R = diag(sigma^2_j),

    A = I + Z' R^-1 Z,    w = w0 + diag(v)^(1/2) A^-1 Z' R^-1 r,    Cov[w] = diag(v)^(1/2) A^-1 diag(v)^(1/2),

the primal form; A has eigenvalues of at least 1, so float32 is enough. The equal dual form alpha = (Z Z' + R)^-1 r gives
each support row's share of a score, alpha_j k(q, j): an exact explanation (R2-D2, Bertinetto et al. 2019, eqs. 4-6). Two
noise levels are learned: rows whose entity is unknown to training also carry what content cannot tell about them. The noise
of a task is scaled by its own residuals (normal-inverse-gamma, Bishop 2006, 2.3.6): some people rate more erratically.

What a task has rows about says something by itself, whatever the labels (SVD++, Koren 2008, eq. 15): the prior mean is

    w0 = W0 x + (1 + |S|)^(-1/2) sum_{j in S} (C phi_j + y_j)

with one learned map C, which unknown entities pass as known ones do, and a vector y_j per known entity. Without support it is
that of the profile; and row j's share of a score gains phi(q)' (C phi_j + y_j) / sqrt(1 + |S|), so that explanations stay exact.
"""

import math
from dataclasses import dataclass
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
    mean,
    noise,
    pooled_choice,
    posterior,
    rescaled,
    support_noise,
    unknown,
    variance,
)
from metarec.meta.contract import Metrics
from metarec.meta.start_axes import start_axes
from metarec.models.contract import FastWeights, MetaParams, Prediction, Scorer, trainable
from metarec.models.linear_gaussian import LinearGaussian, unique_rows
from metarec.tasks.batch import Batch, EntityTable, Tables, TaskBatch
from metarec.tasks.stats import LabelStats
from metarec.types import Target


@dataclass(frozen=True, kw_only=True)
class Alpaca:
    """The flagship on explicit labels.

    id_dropout: share of row entities whose id vector is hidden in a step, so that content carries unknown ones
    cold_tasks: share of tasks in a step whose rows are all shown without ids
    l2_id, l2_bias: weights of the mean squared id vector and id bias of the rows a batch touches
    l2_choice: the same of y
    l2_content: weight of the squared maps of content and axes
    huber: query errors beyond this many units of the label cost linearly in the outer loss (Huber 1964); 0: all squared
    noise_shape: prior rows of evidence on a task's noise level; 0 keeps the noise the same for all tasks
    row_axes: axes of each of two tables that vectors of known rows are built from in training (metarec.meta.row_axes); 0: none
    sampled_axes: further ones, of a Bayesian factorisation of the labels (metarec.meta.sampled_axes); 0: none
    """

    name: ClassVar[str] = "alpaca"
    target: ClassVar[Target] = "explicit"
    default_model: ClassVar[str] = LinearGaussian.name

    id_dropout: float = 0.1
    cold_tasks: float = 0.1
    l2_id: float = 0.5
    l2_bias: float = 0.05
    l2_choice: float = 0.03
    l2_content: float = 0.0
    huber: float = 0.0
    noise_shape: float = 8.0
    row_axes: int = 0
    sampled_axes: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name in ("id_dropout", "cold_tasks") and not 0 <= value < 1:
                raise ConfigError(f"{name} is {value}, must be in [0, 1)", field=name)
            if value < 0:
                raise ConfigError(f"{name} is {value}, must not be negative", field=name)

    def init(self, model: Scorer, tables: Tables, generator: torch.Generator, stats: LabelStats | None = None) -> MetaParams:
        """The model's parameters, noise levels, C and y; `stats` sets mu, the row biases and the scale of the noise."""
        theta = dict(model.init(tables, generator))
        std = 1.0 if stats is None else stats.std
        width = len(theta["task.mean"])
        theta["task.choice"] = torch.zeros(width, width)
        theta["row.choice"] = torch.zeros(len(theta["row.id"]), width)
        theta["predict.log_scale"] = torch.zeros(2)
        theta["noise.log_var"] = torch.tensor([math.log(0.6 * std**2 + 1e-6), math.log(0.7 * std**2 + 1e-6)])
        if stats is not None:
            theta["mu"] = torch.tensor(stats.mean)
            theta["row.id_bias"] = stats.offset_C1.clone()
            theta["prior.log_var"] = theta["prior.log_var"] + 2 * math.log(max(std, 1e-3))
            theta |= start_axes(stats, tables.rows, self.row_axes, self.sampled_axes, width - 1, generator)
        return theta

    def adapt(self, model: Scorer, theta: MetaParams, support: Batch) -> FastWeights:
        """`mean` (T, D + 1), `factor` (T, D + 1, D + 1) with Cov[w] = factor factor', and `noise_scale` (T,)."""
        linear = _linear(model)
        phi_TSD, bias_TS = linear.batch_features(theta, support)
        profile_TD = linear.task_prior(theta, support.tables.tasks, support.task_T)
        prior_TD = profile_TD + choice(theta, phi_TSD, support, unknown(support)).sum(1)
        noise_TS = support_noise(theta, support)
        return posterior(theta, phi_TSD, bias_TS, noise_TS, prior_TD, support, noise_shape=self.noise_shape)

    def predict(self, model: Scorer, theta: MetaParams, fast: FastWeights, query: Batch) -> Prediction:
        """Posterior predictive mean and variance (noise included) of the label."""
        phi_TQD, bias_TQ = _linear(model).batch_features(theta, query)
        variance_TQ = variance(fast, phi_TQD, noise(theta, query)) * torch.exp(theta["predict.log_scale"])[unknown(query)]
        return Prediction(mean_TQ=mean(theta, fast, phi_TQD, bias_TQ), variance_TQ=variance_TQ)

    def meta_gradient(
        self, model: Scorer, theta: MetaParams, tasks: TaskBatch, generator: torch.Generator
    ) -> tuple[MetaParams, Metrics]:
        """Autograd through the solve: mean over tasks of the mean squared query error (+ likelihood and L2 terms)."""
        linear = _linear(model)
        live = {name: value.detach().requires_grad_() for name, value in trainable(theta).items()}
        support, query = tasks.support, tasks.query
        rows, width = support.tables.rows, support.row_TN.shape[1]
        unique_N, at_TN = unique_rows(torch.cat([support.row_TN, query.row_TN], 1), len(rows))
        # Drawn on the CPU whatever the device, so that a seed means the same everywhere.
        keep_N = (torch.rand(len(unique_N), generator=generator) >= self.id_dropout).to(unique_N.device)
        cold_T = (torch.rand(query.num_tasks, generator=generator) < self.cold_tasks).to(unique_N.device)
        phi_ND, bias_N, unknown_N, at_TN = self._features(linear, live, rows, unique_N, keep_N, cold_T, at_TN)
        at_TS, at_TQ = at_TN[:, :width], at_TN[:, width:]
        # Of the padded table of query rows, as wide as the longest task, most is empty: what is there is taken out of it.
        asked_M = query.mask_TN.reshape(-1).nonzero()[:, 0]
        task_M, at_M = asked_M // at_TQ.shape[1], at_TQ.reshape(-1)[asked_M]
        phi_LD = embedding(torch.cat([at_TS.reshape(-1), at_M]), phi_ND)
        phi_SD, phi_MD = torch.split(phi_LD, [at_TS.numel(), len(at_M)])
        phi_TSD, noise_N = phi_SD.view(*at_TS.shape, phi_ND.shape[1]), torch.exp(live["noise.log_var"])[unknown_N]
        code_N = rows.code_N[unique_N]
        # Rows without their id, the second copies of cold tasks among them, have no y.
        y_ND = live["row.choice"][code_N.repeat(len(unknown_N) // len(code_N))] * (1 - unknown_N)[:, None]
        prior_TD = linear.task_prior(live, support.tables.tasks, support.task_T)
        prior_TD = prior_TD + pooled_choice(live, phi_ND, y_ND, at_TS, support)
        shape = self.noise_shape
        fast = posterior(live, phi_TSD, bias_N[at_TS], noise_N[at_TS], prior_TD, support, noise_shape=shape)
        mean_M = live["mu"] + bias_N[at_M] + (phi_MD * fast["mean"].index_select(0, task_M)).sum(1)
        residual_M = query.label_TN.reshape(-1)[asked_M].to(bias_N.dtype) - mean_M
        square_M = residual_M.square()
        cost_M = bounded_squares(residual_M, torch.ones_like(residual_M), self.huber) if self.huber else square_M
        weight_T = tasks.weight_T.to(bias_N.dtype) / tasks.weight_T.sum()
        count_T = query.mask_TN.sum(1).clamp_min(1).to(bias_N.dtype)
        error = (cost_M * (weight_T / count_T)[task_M]).sum()
        # Two scales need few rows, and variances are what a step would spend most of its time on.
        few = slice(None, NLL_ROWS)
        at_TF, mask_TF = at_TQ[:, few], query.mask_TN[:, few].to(bias_N.dtype)
        with torch.no_grad():
            raw_TF = variance(fast, phi_ND[at_TF], noise_N[at_TF])
            square_TQ = torch.zeros(at_TQ.numel(), dtype=bias_N.dtype, device=bias_N.device).index_copy(0, asked_M, square_M)
        variance_TF = raw_TF * torch.exp(live["predict.log_scale"])[unknown_N[at_TF]]
        nll_TF = 0.5 * (square_TQ.view(at_TQ.shape)[:, few] / variance_TF + torch.log(variance_TF) * mask_TF)
        nll = (weight_T * nll_TF.sum(1) / mask_TF.sum(1).clamp_min(1.0)).sum()
        loss = error + nll
        for name, weight in (("row.id", self.l2_id), ("row.id_bias", self.l2_bias), ("row.choice", self.l2_choice)):
            if weight:
                loss = loss + weight * live[name][code_N].square().sum() / len(unique_N)
        for name in ("row.content", "row.content_bias", "axes.map", "axes.bias"):
            if self.l2_content and name in live:
                loss = loss + self.l2_content * live[name].square().sum()
        names = [name for name in live if name != "axes.row"]  # axes are given
        gradients = torch.autograd.grad(loss, [live[name] for name in names], allow_unused=True)
        found = {name: value for name, value in zip(names, gradients, strict=True) if value is not None}
        gradient = {name: found.get(name, torch.zeros_like(value)) for name, value in live.items()}
        for name in ("row.id", "row.id_bias", "row.choice"):
            gradient[name][0] = 0.0  # code 0 has no id: its row stays 0
        metrics = {"loss": float(error.detach()), "nll": float(nll.detach()), "objective": float(loss.detach())}
        return gradient, metrics

    def _features(
        self,
        linear: LinearGaussian,
        live: MetaParams,
        rows: EntityTable,
        unique_N: Tensor,
        keep_N: Tensor,
        cold_T: Tensor,
        at_TN: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features of the batch's distinct rows with dropped ids; tasks of `cold_T` address a second copy without any id."""
        code_N = rows.code_N[unique_N]
        here_N = (code_N > 0) & keep_N
        cold_ND, cold_bias_N = linear.content_features(live, rows, unique_N)
        own_ND, own_bias_N = linear.own_features(live, code_N)
        phi_ND, bias_N = cold_ND + own_ND * here_N[:, None], cold_bias_N + own_bias_N * here_N
        unknown_N = (~here_N).to(torch.int64)
        if not bool(cold_T.any()):
            return phi_ND, bias_N, unknown_N, at_TN
        return (
            torch.cat([phi_ND, cold_ND]),
            torch.cat([bias_N, cold_bias_N]),
            torch.cat([unknown_N, torch.ones_like(unknown_N)]),
            at_TN + cold_T.to(at_TN.dtype)[:, None] * len(code_N),
        )

    def rescaled(self, theta: MetaParams, scale: float) -> MetaParams:
        """Theta that predicts `scale` times as much from labels `scale` times as large."""
        return rescaled(theta, scale)

    def prepare(self, model: Scorer, theta: MetaParams, rows: EntityTable) -> MetaParams:
        """Theta with the vectors of all `rows` cached."""
        return _linear(model).prepare(theta, rows)

    def row_vectors(self, model: Scorer, theta: MetaParams, rows: EntityTable) -> tuple[Tensor, Tensor]:
        """`phi` (I, D + 1) with the constant last, and mu + bias (I,): mean = bias + phi @ task_vector."""
        phi_ID, bias_I = _linear(model).all_features(theta, rows)
        return phi_ID, bias_I + theta["mu"]

    def task_vector(self, fast: FastWeights) -> Tensor:
        """Posterior mean of w (T, D + 1)."""
        return fast["mean"]

    def contributions(self, model: Scorer, theta: MetaParams, support: Batch, query: Batch) -> dict[str, Tensor]:
        """mu, b(q), phi(q)' W0 x and, for each support row j, alpha_j k(q, j) + phi(q)' (C phi_j + y_j) / sqrt(1 + |S|)."""
        linear = _linear(model)
        phi_TSD, bias_TS = linear.batch_features(theta, support)
        phi_TQD, bias_TQ = linear.batch_features(theta, query)
        profile_TD = linear.task_prior(theta, support.tables.tasks, support.task_T)
        choice_TSD = choice(theta, phi_TSD, support, unknown(support))
        rows, asked = (phi_TSD, bias_TS), (phi_TQD, bias_TQ)
        return contributions(theta, rows, asked, support_noise(theta, support), profile_TD, choice_TSD, support)


def _linear(model: Scorer) -> LinearGaussian:
    if model.name != LinearGaussian.name:
        raise ConfigError(f"learner 'alpaca' needs model 'linear_gaussian', got '{model.name}'", field="model")
    return cast(LinearGaussian, model)
