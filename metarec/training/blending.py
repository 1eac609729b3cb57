"""The blend of both heads: the usual weight of the ratings head, or the one that validation users show to rank better."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from metarec.meta.blend import choose_blend
from metarec.meta.prior import Head
from metarec.training.heads import episode_config, head_seed, takes_positive_only
from metarec.training.inputs import Inputs
from metarec.training.recipe import HeadRecipe
from metarec.training.validation import ranking_ndcg, validation_sampler
from metarec.types import Target

DRAWS = 4
"""Episodes of each validation user: one alone says little, and there may be few users."""

MAX_SCORES = 50_000_000
"""Most scores of one head held at once (200 MB): fewer episodes where the catalogue is large."""


def best_blend(inputs: Inputs, recipes: Mapping[Target, HeadRecipe], heads: Mapping[Target, Head], seed: int) -> float:
    """The weight of the explicit mean, judged by ndcg@10 of held-out query items in whole-catalogue rankings.

    Episodes are those of the implicit head, drawn from the seed alone. Where it passes rows of label 0 over, they are in support
    sets all the same, being evidence to the explicit head, and are not to be found. 0 without two heads of kind `user` or
    validation users.
    """
    if set(heads) != {"explicit", "implicit"} or any(recipe.kind != "user" for recipe in recipes.values()):
        return 0.0
    recipe, tables = recipes["implicit"], inputs.tables("user")
    most = min(recipe.validation_tasks, max(1, MAX_SCORES // max(1, len(tables.rows))))
    layout, taken_alone = inputs.layout("user", validation=True), takes_positive_only(recipe)
    if taken_alone:
        layout = layout.select(np.unique(layout.row_tasks[layout.label_N > 0]))
    sampler = validation_sampler(layout, tables, episode_config(recipe), head_seed(seed, "implicit"), most)
    if sampler.num_tasks == 0:
        return 0.0
    draws = max(1, min(DRAWS, most // sampler.num_tasks))
    episodes = [tasks for draw in range(draws) for tasks in sampler.epoch(draw)]
    if taken_alone:
        taken = [replace(tasks.query, mask_TN=tasks.query.mask_TN & (tasks.query.label_TN > 0)) for tasks in episodes]
        episodes = [replace(tasks, query=query) for tasks, query in zip(episodes, taken, strict=True)]

    def quality(number: int, score_TI: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(ranking_ndcg(torch.from_numpy(score_TI), episodes[number]), np.float64)

    return choose_blend(heads, [tasks.support for tasks in episodes], quality)
