"""The link of an explicit head on binary labels, fitted on held-out tasks: how likely a click is, given the score."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from metarec.meta.link import MIN_TASKS, Link, fit_link, word_link
from metarec.meta.prior import Head
from metarec.tasks.sampler import EpisodeSampler
from metarec.training.heads import episode_config, head_seed
from metarec.training.inputs import Inputs
from metarec.training.recipe import HeadRecipe
from metarec.training.validation import validation_sampler

DRAWS = 4
"""Episodes of each task, with supports of all sizes."""

Doubles = NDArray[np.float64]


def best_link(inputs: Inputs, recipe: HeadRecipe, head: Head, seed: int) -> Link:
    """The link of `head` on its validation tasks; with too few of them, the one that takes its scores at their word."""
    held_out = _sampler(inputs, recipe, seed, validation=True)
    if held_out.num_tasks < MIN_TASKS:
        return word_link(_asked(inputs, recipe, head, _sampler(inputs, recipe, seed, validation=False))[0])
    return replace(fit_link(*_asked(inputs, recipe, head, held_out)), num_tasks=held_out.num_tasks)


def _sampler(inputs: Inputs, recipe: HeadRecipe, seed: int, *, validation: bool) -> EpisodeSampler:
    return validation_sampler(
        inputs.layout(recipe.kind, validation=validation),
        inputs.tables(recipe.kind),
        episode_config(recipe),
        head_seed(seed, recipe.target),
        recipe.validation_tasks,
    )


def _asked(inputs: Inputs, recipe: HeadRecipe, head: Head, sampler: EpisodeSampler) -> tuple[Doubles, Doubles]:
    """Scores and labels (N,) of the query rows of all draws."""
    head = head.prepared(inputs.tables(recipe.kind).rows)
    scores, labels = [np.zeros(0)], [np.zeros(0)]
    with torch.no_grad():
        for tasks in (tasks for draw in range(DRAWS) for tasks in sampler.epoch(draw)):
            fast = head.learner.adapt(head.model, head.theta, tasks.support)
            mean_TQ = head.learner.predict(head.model, head.theta, fast, tasks.query).mean_TQ
            scores.append(mean_TQ[tasks.query.mask_TN].double().numpy())
            labels.append(tasks.query.label_TN[tasks.query.mask_TN].double().numpy())
    return np.concatenate(scores), np.concatenate(labels)
