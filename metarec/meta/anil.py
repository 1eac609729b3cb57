"""ANIL, almost no inner loop (Raghu, Raghu, Bengio & Vinyals 2020, section 4): MAML in which only the output layer adapts.

The hidden layers are passed once; each inner step is two small products, and a user's state is one vector.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, cast

import torch

from metarec.errors import ConfigError
from metarec.meta.dual import DualForm
from metarec.meta.inner import Form, Inputs, Rates
from metarec.meta.maml import Maml
from metarec.meta.objectives import row_slope
from metarec.models.contract import FastWeights, LayeredScorer, LayerInputs, MetaParams, Scorer
from metarec.tasks.batch import Batch, Tables

HEAD = ("decision.out", "decision.mean")


@dataclass(frozen=True, kw_only=True)
class HeadForm(DualForm):
    """Steps of the output layer alone; they fit rates of any shape."""

    def shapes(self, theta: MetaParams, tables: Tables) -> dict[str, torch.Size]:
        """The output layer's."""
        return {name: theta[name].shape for name in HEAD}

    def path(self, theta: MetaParams, inputs: Inputs, batch: Batch, rates: Rates, steps: int) -> Iterator[FastWeights]:
        """Steps on features that stay."""
        second_TSH = self.scorer.layers(theta, {}, cast(LayerInputs, inputs))[1]
        weight_TS = batch.mask_TN.to(second_TSH.dtype)
        weight_TS = weight_TS / weight_TS.sum(1, keepdim=True).clamp_min(1.0)
        fast = {name: theta[name].expand(batch.num_tasks, -1) for name in HEAD}
        for _ in range(steps):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.first_order):
                score_TS = (second_TSH @ fast["decision.out"][..., None])[..., 0] + fast["decision.mean"]
                slope_TS = row_slope(self.objective, score_TS, batch.label_TN) * weight_TS
                slope_TH = (second_TSH.mT @ slope_TS[..., None])[..., 0]
            fast = {
                "decision.out": fast["decision.out"] - rates["decision.out"] * slope_TH,
                "decision.mean": fast["decision.mean"] - rates["decision.mean"] * slope_TS.sum(1, keepdim=True),
            }
            yield fast


@dataclass(frozen=True, kw_only=True)
class Anil(Maml):
    """MAML of the output layer."""

    name: ClassVar[str] = "anil"

    inner_lr: float = 0.05
    inner_steps: int = 5

    def make_form(self, model: Scorer, *, first_order: bool) -> Form:
        """Needs a model with an output layer over hidden ones."""
        if not hasattr(model, "layers"):
            raise ConfigError(f"learner 'anil' needs model 'melu', got '{model.name}'", field="model")
        return HeadForm(scorer=cast(LayeredScorer, model), objective=self.objective, first_order=first_order)
