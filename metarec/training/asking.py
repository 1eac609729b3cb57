"""A trained head asked for the query rows of fixed episodes: what is fitted to its answers once training is over starts here."""

from collections.abc import Iterator

import torch

from metarec.meta.prior import Head
from metarec.models.contract import Prediction
from metarec.tasks.batch import TaskBatch
from metarec.tasks.sampler import EpisodeSampler
from metarec.training.heads import episode_config, head_seed
from metarec.training.inputs import Inputs
from metarec.training.recipe import HeadRecipe
from metarec.training.validation import validation_sampler

DRAWS = 4
"""Episodes of each task, with supports of all sizes."""


def episodes(inputs: Inputs, recipe: HeadRecipe, seed: int, *, validation: bool) -> EpisodeSampler:
    """Those of held-out tasks, or of as many training tasks, of the head's kind."""
    return validation_sampler(
        inputs.layout(recipe.kind, validation=validation),
        inputs.tables(recipe.kind),
        episode_config(recipe),
        head_seed(seed, recipe.target),
        recipe.validation_tasks,
    )


def answers(head: Head, sampler: EpisodeSampler, draws: int = DRAWS) -> Iterator[tuple[TaskBatch, Prediction]]:
    """Every batch of all draws, and what the head predicts of its query rows after adapting to its support."""
    prepared = head.prepared(sampler.tables.rows)
    for draw in range(draws):
        for tasks in sampler.epoch(draw):
            with torch.no_grad():
                fast = prepared.learner.adapt(prepared.model, prepared.theta, tasks.support)
                said = prepared.learner.predict(prepared.model, prepared.theta, fast, tasks.query)
            yield tasks, said
