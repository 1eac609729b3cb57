"""The link of an explicit head on binary labels, fitted on held-out tasks: how likely a click is, given the score."""

from dataclasses import replace

import numpy as np
import torch

from metarec.meta.link import MIN_TASKS, Link, fit_link, tangent_link
from metarec.meta.prior import Head
from metarec.training.heads import episode_config, head_seed
from metarec.training.inputs import Inputs
from metarec.training.recipe import HeadRecipe
from metarec.training.validation import validation_sampler

DRAWS = 4
"""Episodes of each validation task, with supports of all sizes."""


def best_link(inputs: Inputs, recipe: HeadRecipe, head: Head, seed: int) -> Link:
    """The link of `head` on its validation tasks; with too few of them, the one that takes the score at its word."""
    tables = inputs.tables(recipe.kind)
    sampler = validation_sampler(
        inputs.layout(recipe.kind, validation=True),
        tables,
        episode_config(recipe),
        head_seed(seed, recipe.target),
        recipe.validation_tasks,
    )
    if sampler.num_tasks < MIN_TASKS:
        return tangent_link(inputs.layout(recipe.kind, validation=False).label_N)
    head = head.prepared(tables.rows)
    scores, labels = [], []
    with torch.no_grad():
        for tasks in (tasks for draw in range(DRAWS) for tasks in sampler.epoch(draw)):
            fast = head.learner.adapt(head.model, head.theta, tasks.support)
            mean_TQ = head.learner.predict(head.model, head.theta, fast, tasks.query).mean_TQ
            scores.append(mean_TQ[tasks.query.mask_TN].double().numpy())
            labels.append(tasks.query.label_TN[tasks.query.mask_TN].double().numpy())
    return replace(fit_link(np.concatenate(scores), np.concatenate(labels)), num_tasks=sampler.num_tasks)
