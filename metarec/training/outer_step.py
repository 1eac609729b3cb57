"""One outer step: gradients of the parts of a batch, added up over threads and workers, and Adam's move along their mean.

The gradient of a batch is always the weighted sum over `gradient_shards` parts of its tasks, each with a generator seeded from
(seed, epoch, step, shard). Workers share the parts, so N of them compute what one computes, up to the order of the sum.
Parts are added in order: no bit depends on threads.
"""

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from metarec.errors import FailedPreconditionError
from metarec.meta.prior import Head
from metarec.models.contract import MetaParams
from metarec.tasks.batch import Tables, TaskBatch
from metarec.training.batches import tasks_on
from metarec.training.optimizer import OneCycle
from metarec.training.recipe import HeadRecipe
from metarec.training.state import HeadState
from metarec.training.surroundings import Surroundings


class OuterStep:
    """The outer step of one head's training."""

    def __init__(self, head: Head, tables: Tables, recipe: HeadRecipe, schedule: OneCycle, around: Surroundings) -> None:
        self._head, self._tables, self._recipe, self._schedule, self._around = head, tables, recipe, schedule, around

    def take(
        self,
        state: HeadState,
        draws: Mapping[int, Iterator[TaskBatch]],
        pool: ThreadPoolExecutor,
        *,
        seed: int,
        num_steps: int,
        where: str,
    ) -> bool:
        """Move `state` on by one step; true when some worker was asked to stop.

        `draws` gives the next part of each of this worker's shards, `num_steps` are those of an epoch, `where` says for people
        which epoch runs. FailedPreconditionError when the loss diverges.
        """
        names = [name for name, value in sorted(state.theta.items()) if value.is_floating_point()]
        sizes = [state.theta[name].numel() for name in names]
        # One buffer for one all-reduce: every gradient, then the sum of losses, the sum of weights, and the wish to stop.
        flat = torch.zeros(sum(sizes) + 3, device=self._tables.rows.dense_NP.device)
        views = dict(zip(names, torch.split(flat[:-3], sizes), strict=True))
        for weight, gradient, loss in pool.map(lambda item: self._part(state, seed, *item), draws.items()):
            for name, value in gradient.items():
                views[name].add_(value.reshape(-1), alpha=weight)
            flat[-3] += weight * loss
            flat[-2] += weight
        flat[-1] = float(self._around.stopped())
        self._around.workers.sum_(flat)
        loss_sum, weight_sum, stop = flat[-3:].tolist()
        if not math.isfinite(loss_sum):
            raise diverged(self._head, self._recipe, "loss", loss_sum, f"in {where}, step {state.step + 1}")
        flat[:-3] /= weight_sum
        if self._recipe.clip_norm:
            flat[:-3] *= min(1.0, self._recipe.clip_norm / max(1e-12, float(flat[:-3].norm())))
        mean = {name: view.reshape(state.theta[name].shape) for name, view in views.items()}
        state.optimizer.step(state.theta, mean, self._schedule.rate(state.epoch * num_steps + state.step))
        state.loss_sum += loss_sum
        state.weight_sum += weight_sum
        state.step += 1
        return bool(stop > 0)

    def _part(self, state: HeadState, seed: int, shard: int, draw: Iterator[TaskBatch]) -> tuple[float, MetaParams, float]:
        """Weight, gradient and loss of one part of the step's batch; no gradient where the part has no tasks."""
        tasks = next(draw)
        weight = float(tasks.weight_T.sum())
        if weight == 0:
            return 0.0, {}, 0.0
        seeds = np.random.SeedSequence([seed, state.epoch, state.step, shard]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(seeds[0] >> np.uint64(1)))
        batch = tasks_on(tasks, self._tables)
        try:
            gradient, metrics = self._head.learner.meta_gradient(self._head.model, state.theta, batch, generator)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # theta is beyond any solve; every worker must hear of it
            return weight, {}, math.nan
        return weight, gradient, metrics["loss"]


def diverged(head: Head, recipe: HeadRecipe, what: str, value: float, where: str) -> FailedPreconditionError:
    """The error of a loss that is no number any more, with the settings to lower."""
    inner = getattr(head.learner, "inner_lr", None)
    also = "" if inner is None else f", lower learner.inner_lr ({inner:g})"
    return FailedPreconditionError(
        f"the {what} of head '{recipe.target}' became {value} {where}; "
        f"lower outer_lr ({recipe.outer_lr:g}){also} or set clip_norm"
    )
