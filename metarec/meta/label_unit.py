"""For learners whose parameters are in no unit that could be changed: a scale in theta between labels and what the network sees.

Support labels are divided by it and predictions multiplied, so that rates of inner loops, residuals and weights are those of
labels as training saw them (metarec.training.label_scale). Where theta has no such entry, in training and of old, it is 1.
"""

from dataclasses import replace

import torch

from metarec.models.contract import MetaParams, Prediction
from metarec.tasks.batch import Batch

NAME = "label.scale"


def rescaled(theta: MetaParams, scale: float) -> MetaParams:
    """Theta that predicts `scale` times as much from labels `scale` times as large."""
    like = next(iter(theta.values()))
    before = theta.get(NAME, torch.ones((), dtype=like.dtype, device=like.device))
    return {**theta, NAME: before * scale}


def inside(theta: MetaParams, support: Batch) -> Batch:
    """The batch with its labels as the network sees them."""
    return replace(support, label_TN=support.label_TN / theta[NAME]) if NAME in theta else support


def outside(theta: MetaParams, prediction: Prediction) -> Prediction:
    """What the network says, in units of the label."""
    if NAME not in theta:
        return prediction
    scale, variance_TQ = theta[NAME], prediction.variance_TQ
    return Prediction(
        mean_TQ=prediction.mean_TQ * scale, variance_TQ=None if variance_TQ is None else variance_TQ * scale.square()
    )
