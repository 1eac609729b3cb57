"""Closed-form adaptation for implicit targets over the whole catalogue (DESIGN 4.1, 'Two kinds of target').

Bayesian linear regression on what a task holds, with a meta-learned prior and weight alpha0 on what it does not (Hu, Koren &
Volinsky 2008, eq. 4; Rendle et al. 2021, eqs. 5-6). With the Gram matrix G = sum_i phi_i phi_i' shared by all tasks, the vector
of a task with support S is

    w = w0 + gamma (A^-1 (Lambda w0 + sum_{j in S} c_j (t_j - b_j) phi_j) - w0)
    A = Lambda + alpha0 G + sum_{j in S} c_j phi_j phi_j'

one D x D solve whatever the catalogue's size: an item that everybody takes is no surprise, one that few take says much.
Confidence c and target t are learned per label level (one star is weak evidence); confidence fades with the number of newer rows
in the support. gamma is how far a task moves from its prior towards what its rows say: they tell the direction well, but they
were taken one after another from what was at hand, and say the same thing more than once. The offset b is the share of users, by
how many rows the task holds, and moves along with it (models/catalogue_start.py). Beside all this models of neighbours have
their say (models/neighbour_axes.py): nu times the mean cosine of an item and the support rows or, for a task of many rows, omega
times the regression on them.

Prior and offsets start as moments of the training tasks; the outer loss, back-propagated through the solve, is that of a
multinomial over the whole catalogue, whose probabilities are proportional to the positive part of the scores.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from metarec.errors import ConfigError
from metarec.meta.contract import Metrics
from metarec.meta.implicit_loss import SECONDS_PER_DAY, columns, multinomial_loss, occurring, recency, squared_loss
from metarec.meta.implicit_past import choose_evidence
from metarec.meta.implicit_regression import choose_regression, multiplied
from metarec.meta.implicit_terms import parts, system, vectors
from metarec.models.catalogue_scorer import CatalogueScorer
from metarec.models.catalogue_start import choose_recency
from metarec.models.contract import FastWeights, MetaParams, Prediction, Scorer, trainable
from metarec.tasks.batch import Batch, EntityTable, Tables, TaskBatch
from metarec.tasks.layout import TaskLayout
from metarec.tasks.stats import LabelStats
from metarec.types import Target

ANCHORED = ("row.id", "row.content")
FIXED = ("range.", "start.", "near.")
"""Names of theta that are facts of the training data or of the start: their gradient is 0."""


@dataclass(frozen=True, kw_only=True)
class ImplicitAlpaca:
    """The flagship on implicit targets.

    levels: label levels with a confidence and a target of their own; labels between two levels are interpolated
    noise_tasks: c starts as the number of training tasks over this one: with more of them the covariance is better known
    trust: gamma to start with
    weigh_by_past: start noise, trust and the lowest target from multiples chosen by the training part's own past, where there are
        timestamps (meta/implicit_past.py), and omega from one that other tasks choose (meta/implicit_regression.py)
    spread: how much wider than the training tasks' covariance the prior starts
    lowest_share: starting target of the lowest label; the highest label's is 1
    unobserved: starting value of alpha0, as a share of c
    fading_rows: newer rows in the support that halve a row's confidence, to start with
    neighbours, regression: nu and omega
    positive_only: rows of label 0 or less were not taken: training is given none, and adaptation passes them over
    id_dropout: share of items shown without their id in a step, so that content carries unknown ones
    loss: outer loss, `multinomial` (scale-free) or `squared` (over the whole catalogue)
    softness: width of the smooth positive part in the multinomial loss, in units of the score
    recent_fraction: outer weight of a task is exp(-age / this share of the training time); 0 weighs all alike
    sampled_items: catalogues above this size are sampled down to it (plus the task rows) in the outer loss
    l2_profile: weight of the squared profile map
    l2_start: weight of the squared distance of vectors and content map from where they started; the start is an estimate
        from the same interactions, which few tasks improve and easily spoil
    """

    name: ClassVar[str] = "alpaca_implicit"
    target: ClassVar[Target] = "implicit"
    default_model: ClassVar[str] = CatalogueScorer.name

    levels: int = 5
    noise_tasks: float = 250.0
    trust: float = 1.0
    weigh_by_past: bool = True
    spread: float = 2.0
    lowest_share: float = 0.5
    unobserved: float = 5e-3
    fading_rows: float = 30.0
    neighbours: float = 0.4
    regression: float = 0.2
    positive_only: bool = False
    id_dropout: float = 0.05
    loss: Literal["multinomial", "squared"] = "multinomial"
    softness: float = 0.05
    recent_fraction: float = 0.5
    sampled_items: int = 8192
    l2_profile: float = 1e-3
    l2_start: float = 0.1

    def __post_init__(self) -> None:
        if self.levels < 2 or self.sampled_items < 1:
            raise ConfigError(f"levels {self.levels} must be at least 2, sampled_items at least 1", field="levels")
        for name in ("noise_tasks", "trust", "spread", "lowest_share", "unobserved", "fading_rows", "softness"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be positive", field=name)
        for name in ("neighbours", "regression", "recent_fraction", "l2_profile", "l2_start"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, must not be negative", field=name)
        if not 0 <= self.id_dropout < 1:
            raise ConfigError(f"id_dropout is {self.id_dropout}, must be in [0, 1)", field="id_dropout")
        if self.loss not in ("multinomial", "squared"):
            raise ConfigError(f"loss '{self.loss}' is unknown; use 'multinomial' or 'squared'", field="loss")

    def init(self, model: Scorer, tables: Tables, generator: torch.Generator, stats: LabelStats | None = None) -> MetaParams:
        """The model's parameters plus those of the solve; `stats` starts the vectors and sets ranges of labels and times."""
        scorer = _catalogue(model)
        theta = dict(scorer.init(tables, generator))
        theta["solve.log_precision"] = torch.full((scorer.embedding_dim,), -math.log(self.spread))
        layout = None if stats is None else stats.layout
        tasks = 0 if layout is None else int((layout.counts > 0).sum())
        confidence = math.log(max(1, tasks) / self.noise_tasks)
        theta["solve.log_unobserved"] = torch.tensor(confidence + math.log(self.unobserved))
        theta["solve.log_confidence"] = torch.full((self.levels,), confidence)
        theta["solve.log_positive"] = torch.log(torch.linspace(self.lowest_share, 1.0, self.levels))
        theta["solve.log_trust"] = torch.tensor(math.log(self.trust))
        theta["solve.log_fading"] = torch.tensor(math.log(self.fading_rows))
        theta["near.weight"] = torch.tensor([self.neighbours, self.regression])
        # Of the training data, not trained: smallest and largest label; newest time and length of the training time in days.
        theta["range.label"] = torch.tensor([0.0, 1.0])
        theta["range.days"] = torch.tensor([0.0, 0.0])
        theta |= {f"start.{name}": theta[name].clone() for name in ANCHORED}
        if layout is None or not tasks:
            return theta
        theta = scorer.start_from(theta, layout, tables)
        theta |= {f"start.{name}": theta[name].clone() for name in ANCHORED}
        theta["range.label"] = torch.tensor([float(layout.label_N.min()), float(layout.label_N.max())])
        first, last = float(layout.timestamp_N.min()), float(layout.timestamp_N.max())
        theta["range.days"] = torch.tensor([last, last - first], dtype=torch.float64).div(SECONDS_PER_DAY).float()
        return self._weighed(scorer, theta, layout, tables) if self.weigh_by_past else theta

    def _weighed(self, scorer: CatalogueScorer, theta: MetaParams, layout: TaskLayout, tables: Tables) -> MetaParams:
        """Theta with the evidence and the regression that did best for tasks of `layout` that were not known."""
        recency = choose_recency(layout) if layout.has_timestamps else None

        def start(before: TaskLayout) -> MetaParams:
            # The noise is that of the whole layout, though fewer tasks are known: how far rows are to be believed is asked, and
            # with less noise for every further task the past would answer with less than the present needs.
            return self.prepare(scorer, scorer.start_from(theta, before, tables, recency), tables.rows)

        def scores(past: MetaParams, support: Batch) -> Tensor:
            phi_IE, bias_I = scorer.row_features(past, tables.rows)
            return bias_I + self.adapt(scorer, past, support)["mean"] @ phi_IE.T

        chosen, _ = choose_evidence(layout, tables, start, scores)
        if not scorer.neighbour_dim or not self.regression:
            return chosen.applied(theta)
        multiple = choose_regression(layout, tables, lambda before: chosen.applied(start(before)), scores)
        return multiplied(chosen.applied(theta), multiple)

    def adapt(self, model: Scorer, theta: MetaParams, support: Batch) -> FastWeights:
        """`mean` (T, E): the task vectors, with the weights of the stages and the task's place among neighbours last."""
        scorer, support = _catalogue(model), self._taken(support)
        phi_IE, bias_I = scorer.row_features(theta, support.tables.rows)
        return {"mean": vectors(scorer, theta, support, phi_IE, bias_I)}

    def _taken(self, support: Batch) -> Batch:
        """The support without the rows that were not taken."""
        return replace(support, mask_TN=support.mask_TN & (support.label_TN > 0)) if self.positive_only else support

    def factor(self, model: Scorer, theta: MetaParams, support: Batch) -> Tensor:
        """F (T, E, D) with F F' the posterior covariance of the task vectors; other rows are 0."""
        scorer, support = _catalogue(model), self._taken(support)
        phi_IE, bias_I = scorer.row_features(theta, support.tables.rows)
        chol_TDD, _, _ = system(scorer, theta, support, phi_IE, bias_I)
        eye_DD = torch.eye(chol_TDD.shape[-1], dtype=chol_TDD.dtype, device=chol_TDD.device)
        inverse_TDD: Tensor = torch.linalg.solve_triangular(chol_TDD, eye_DD.expand_as(chol_TDD), upper=False)
        certain = phi_IE.shape[1] - inverse_TDD.shape[1]
        return torch.cat([inverse_TDD.mT, inverse_TDD.new_zeros(len(inverse_TDD), certain, inverse_TDD.shape[2])], 1)

    def predict(self, model: Scorer, theta: MetaParams, fast: FastWeights, query: Batch) -> Prediction:
        """Ranking scores of the query rows."""
        return Prediction(mean_TQ=model.score(theta, fast, query))

    def meta_gradient(
        self, model: Scorer, theta: MetaParams, tasks: TaskBatch, generator: torch.Generator
    ) -> tuple[MetaParams, Metrics]:
        """Autograd through the solve of the weighted mean over tasks of the whole-catalogue query loss."""
        scorer = _catalogue(model)
        live = {name: value.detach().requires_grad_() for name, value in trainable(theta).items()}
        support, query = self._taken(tasks.support), self._taken(tasks.query)
        rows = support.tables.rows
        keep_I = (torch.rand(len(rows), generator=generator) >= self.id_dropout).to(rows.code_N.device)
        phi_IE, bias_I = scorer.row_features(live, rows, keep_I)
        w_TE = vectors(scorer, live, support, phi_IE, bias_I)
        pick_C, scale_C = columns(tasks, len(rows), self.sampled_items, generator)
        score_TC = bias_I[pick_C] + w_TE @ phi_IE[pick_C].T
        seen_TC = occurring(support, len(rows))[:, pick_C]
        relevant_TC = occurring(query, len(rows))[:, pick_C] & ~seen_TC
        weight_TC = ~seen_TC * scale_C
        if self.loss == "squared":
            loss_T = squared_loss(score_TC, relevant_TC, weight_TC)
        else:
            loss_T = multinomial_loss(score_TC, relevant_TC, weight_TC, self.softness)
        recent_T = recency(query, theta["range.days"], self.recent_fraction)
        weight_T = tasks.weight_T.to(loss_T.dtype) * recent_T * relevant_TC.any(1)
        loss = (weight_T * loss_T).sum() / weight_T.sum().clamp_min(1e-12)
        objective = loss + self.l2_profile * live["task.content"].square().sum()
        for name in ANCHORED:
            objective = objective + self.l2_start * (live[name] - theta[f"start.{name}"]).square().sum()
        names = [name for name in live if not name.startswith(FIXED)]
        found = torch.autograd.grad(objective, [live[name] for name in names], allow_unused=True)
        gradient = {name: torch.zeros_like(value) for name, value in theta.items() if name in live}
        gradient |= {name: value for name, value in zip(names, found, strict=True) if value is not None}
        for name in ("row.id", "row.id_bias", "row.id_stage"):
            gradient[name][0] = 0.0  # code 0 has no id: its row stays 0
        return gradient, {"loss": float(loss.detach()), "objective": float(objective.detach())}

    def prepare(self, model: Scorer, theta: MetaParams, rows: EntityTable) -> MetaParams:
        """Theta with vectors, offsets and Gram matrix of all `rows` cached."""
        theta = trainable(theta)
        phi_IE, bias_I = _catalogue(model).row_features(theta, rows)
        phi_ID = phi_IE[:, : len(theta["task.mean"])]
        return {**theta, "cache.phi": phi_IE, "cache.bias": bias_I, "cache.gram": phi_ID.T @ phi_ID}

    def row_vectors(self, model: Scorer, theta: MetaParams, rows: EntityTable) -> tuple[Tensor, Tensor]:
        """`phi` (I, E) and `b` (I,): score = b + phi @ task_vector."""
        return _catalogue(model).row_features(theta, rows)

    def task_vector(self, fast: FastWeights) -> Tensor:
        """w (T, E)."""
        return fast["mean"]

    def contributions(self, model: Scorer, theta: MetaParams, support: Batch, query: Batch) -> dict[str, Tensor]:
        """b(q) at the task's stage, phi(q)' (gamma A^-1 Lambda + 1 - gamma) w0, and for each support row j gamma phi(q)' A^-1 c_j
        (t_j - b_j) phi_j and what is near it; no `global` term."""
        return parts(_catalogue(model), theta, self._taken(support), query)


def _catalogue(model: Scorer) -> CatalogueScorer:
    if model.name != CatalogueScorer.name:
        raise ConfigError(f"learner 'alpaca_implicit' needs model 'catalogue', got '{model.name}'", field="model")
    return cast(CatalogueScorer, model)
