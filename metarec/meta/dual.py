"""The inner loop in dual form: gradient steps of all tasks at once without a first layer per task.

What the first layer sees does not change in the inner loop, so its update is a sum of outer products with the task's own rows,

    W_row - rate sum_k E_s' D_k = W_row - rate E_s' A,   A = sum_k D_k   (D_k: the loss's gradient by the first layer, S x H),

and enters only through the Gram matrix of those rows: E_q W - rate (E_q E_s') A. The task half of the input is the same for all
rows of a task; its update and the bias's shift one vector per task by (rate x'x + rate) sum_s A_s. The gradients are written
out, so that adapting needs no autograd; the outer gradient is autograd through these lines. With `first_order` what the inner
gradients depend on is constant, while the query's side of the Gram matrix stays live: the embeddings need it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from metarec.meta.inner import Inputs, Rates
from metarec.meta.objectives import Objective, row_slope
from metarec.models.contract import FastWeights, LayeredScorer, LayerInputs, MetaParams
from metarec.tasks.batch import Batch, Tables, TaskBatch


@dataclass(frozen=True, kw_only=True)
class DualForm:
    """Low-rank updates of the first layer, per-task weights above it. Rates must be numbers (one per weight)."""

    scorer: LayeredScorer
    objective: Objective
    first_order: bool

    def shapes(self, theta: MetaParams, tables: Tables) -> dict[str, torch.Size]:
        """Those of the decision layers."""
        return {name: value.shape for name, value in theta.items() if name.startswith("decision.")}

    def inputs(self, theta: MetaParams, batch: Batch, known_I: Tensor | None = None) -> Inputs:
        """As the scorer has them."""
        return self.scorer.layer_inputs(theta, batch, known_I)

    def both(self, theta: MetaParams, tasks: TaskBatch, known_I: Tensor | None = None) -> tuple[Inputs, Inputs]:
        """One look-up and one product per distinct row of support and query together."""
        support, query = tasks.support, tasks.query
        width = support.row_TN.shape[1]
        rows = replace(query, row_TN=torch.cat([support.row_TN, query.row_TN], 1))
        row_TNE, first_TNH, task_TE, offset_TH = self.scorer.layer_inputs(theta, rows, known_I)
        return (
            (row_TNE[:, :width], first_TNH[:, :width], task_TE, offset_TH),
            (row_TNE[:, width:], first_TNH[:, width:], task_TE, offset_TH),
        )

    def joined(self, left: Inputs, right: Inputs) -> Inputs:
        """Rows side by side."""
        return torch.cat([left[0], right[0]], 1), torch.cat([left[1], right[1]], 1), *left[2:]

    def start(self, theta: MetaParams, batch: Batch) -> FastWeights:
        """Nothing: the weights are theta's."""
        return {}

    def path(self, theta: MetaParams, inputs: Inputs, batch: Batch, rates: Rates, steps: int) -> Iterator[FastWeights]:
        """The steps, each from a forward pass and its gradients written out."""
        row_TSE, _, task_TE, offset_TH = inputs
        seen_TSE, seen_TE = (row_TSE.detach(), task_TE.detach()) if self.first_order else (row_TSE, task_TE)
        weight_TS = batch.mask_TN.to(row_TSE.dtype)
        weight_TS = weight_TS / weight_TS.sum(1, keepdim=True).clamp_min(1.0)
        # Before the first step there is nothing to multiply it with.
        gram_TSS = row_TSE @ seen_TSE.mT if steps > 1 else None
        shift_T1 = rates["decision.task"] * (task_TE * seen_TE).sum(1, keepdim=True) + rates["decision.bias1"]
        fast = self.start(theta, batch)
        for _ in range(steps):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.first_order):
                down_TSH, slope = self._slopes(theta, fast, cast(LayerInputs, inputs), batch, weight_TS, gram_TSS)
            fast = {
                "dual.row": seen_TSE,
                "dual.step": fast.get("dual.step", 0.0) - rates["decision.row"] * down_TSH,
                "decision.offset": fast.get("decision.offset", offset_TH) - shift_T1 * down_TSH.sum(1),
                **{name: fast.get(name, theta[name]) - rates[name] * value for name, value in slope.items()},
            }
            yield fast

    def _slopes(
        self,
        theta: MetaParams,
        fast: FastWeights,
        inputs: LayerInputs,
        batch: Batch,
        weight_TS: Tensor,
        gram_TSS: Tensor | None,
    ) -> tuple[Tensor, FastWeights]:
        """Gradients of each task's loss by what enters the first layer (T, S, H), and by the weights above it."""
        first_TSH, second_TSH, score_TS = self.scorer.layers(theta, fast, inputs, gram_TSS)
        slope_TS = row_slope(self.objective, score_TS, batch.label_TN) * weight_TS
        weights = {**theta, **fast}
        up_TSH = slope_TS[..., None] * weights["decision.out"][..., None, :] * (second_TSH > 0)
        down_TSH = (up_TSH @ weights["decision.hidden"].mT) * (first_TSH > 0)
        return down_TSH, {
            "decision.hidden": first_TSH.mT @ up_TSH,
            "decision.bias2": up_TSH.sum(1),
            "decision.out": (second_TSH.mT @ slope_TS[..., None])[..., 0],
            "decision.mean": slope_TS.sum(1, keepdim=True),
        }

    def score(self, theta: MetaParams, fast: FastWeights, inputs: Inputs) -> Tensor:
        """Scores by the scorer's layers."""
        return self.scorer.layers(theta, fast, cast(LayerInputs, inputs))[2]

    def shifted(self, theta: MetaParams, inputs: Inputs, shift_TNE: Tensor) -> Inputs:
        """Rows moved, and their half of the first layer with them."""
        row_TNE, first_TNH, task_TE, offset_TH = inputs
        return row_TNE + shift_TNE, first_TNH + shift_TNE @ theta["decision.row"], task_TE, offset_TH
