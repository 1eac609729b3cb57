"""The link of an explicit head on binary labels, fitted on held-out tasks: how likely a click is, given the score."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from metarec.meta.link import MIN_TASKS, Link, fit_link, word_link
from metarec.meta.prior import Head
from metarec.tasks.sampler import EpisodeSampler
from metarec.training.asking import answers, episodes
from metarec.training.inputs import Inputs
from metarec.training.recipe import HeadRecipe

Doubles = NDArray[np.float64]


def best_link(inputs: Inputs, recipe: HeadRecipe, head: Head, seed: int) -> Link:
    """The link of `head` on its validation tasks; with too few of them, the one that takes its scores at their word."""
    held_out = episodes(inputs, recipe, seed, validation=True)
    if held_out.num_tasks < MIN_TASKS:
        return word_link(_asked(head, episodes(inputs, recipe, seed, validation=False))[0])
    return replace(fit_link(*_asked(head, held_out)), num_tasks=held_out.num_tasks)


def _asked(head: Head, sampler: EpisodeSampler) -> tuple[Doubles, Doubles]:
    """Scores and labels (N,) of the query rows of all draws."""
    scores, labels = [np.zeros(0)], [np.zeros(0)]
    for tasks, said in answers(head, sampler):
        scores.append(said.mean_TQ[tasks.query.mask_TN].double().numpy())
        labels.append(tasks.query.label_TN[tasks.query.mask_TN].double().numpy())
    return np.concatenate(scores), np.concatenate(labels)
