"""The scale at which labels are trained on, so that the unit they come in does not matter.

Rates, bounds of errors and penalties of a recipe are settings for labels of one deviation, that of grades from 1 to 5: where
labels go from 0 to 100, a rate of 0.004 hardly moves a bias, and an error of one unit is nothing. So labels of another deviation
are divided by what theirs is over that one, training does what it would have done on labels that had come so, and what it has
learned is put back into the labels' own unit (`ScaledLearner.rescaled`). Nobody else knows of the scale.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from metarec.meta.contract import MetaLearner, takes_scale
from metarec.models.contract import MetaParams
from metarec.tasks.layout import TaskLayout
from metarec.tasks.stats import scale_over
from metarec.training.recipe import HeadRecipe


def label_scale(recipe: HeadRecipe, label_N: NDArray[np.float32]) -> float:
    """What to divide these training labels by; 1 where the recipe does not say what labels its settings are meant for."""
    return scale_over(label_N, recipe.label_std) if recipe.label_std else 1.0


def in_scale(layout: TaskLayout, scale: float) -> TaskLayout:
    """The layout with its labels, but not those of further targets, divided by `scale`."""
    return layout if scale == 1 else replace(layout, label_N=(layout.label_N / scale).astype(np.float32))


def in_labels(learner: MetaLearner, theta: MetaParams, scale: float) -> MetaParams:
    """Theta that was trained on labels divided by `scale`, as it predicts the labels themselves."""
    return theta if scale == 1 or not takes_scale(learner) else learner.rescaled(theta, scale)


def told(figures: dict[str, float], scale: float) -> dict[str, float]:
    """Figures of validation in labels divided by `scale`, in the labels' own unit."""
    unit = {"loss": scale**2, "mae": scale}
    return {name: value * unit[name] if name in unit and scale != 1 else value for name, value in figures.items()}
