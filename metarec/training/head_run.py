"""The outer loop, one for every learner: Adam under a one-cycle rate on sums of meta-gradients, with early stopping.

Batches come in parts (outer_step.py). Within a worker they run side by side in threads, each with few threads of its own:
operations are small, and where cores are busy torch's own threads wait for one another longer than they compute.

A head of several members is trained as many times, each with a seed of its own, and ends as what they make together.
"""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from metarec.errors import InterruptedRunError
from metarec.meta.contract import takes_targets
from metarec.meta.members import merged
from metarec.models.contract import MetaParams, trainable
from metarec.tasks.batch import Tables
from metarec.tasks.sampler import EpisodeSampler
from metarec.tasks.stats import label_stats
from metarec.training.batches import pick_device, tables_on
from metarec.training.heads import check_tasks, episode_config, head_layout, head_seed, make_head, training_learner
from metarec.training.inputs import Inputs
from metarec.training.label_scale import in_labels, in_scale, label_scale
from metarec.training.optimizer import Adam, OneCycle
from metarec.training.outer_step import OuterStep, diverged
from metarec.training.progress import Progress, early_stop_note
from metarec.training.recipe import HeadRecipe
from metarec.training.shared_validation import SharedValidation
from metarec.training.state import EpochMetrics, HeadState
from metarec.training.surroundings import Surroundings
from metarec.training.validation import validation_sampler


def train_head(inputs: Inputs, recipe: HeadRecipe, seed: int, around: Surroundings) -> HeadState:
    """Train one head, all its members, from its saved state or from the start to its end; returns the finished state.

    Its `best` is theta (as wide as all members together: metarec.meta.members).

    Raises InterruptedRunError after saving when `around.stopped` says so, FailedPreconditionError when the loss diverges.
    """
    return _HeadRun(inputs, recipe, seed, around).run()


class _HeadRun:
    """One head's training: what stays the same from step to step."""

    def __init__(self, inputs: Inputs, recipe: HeadRecipe, seed: int, around: Surroundings) -> None:
        self.recipe, self.around = recipe, around
        self.seeds = [head_seed(seed, recipe.target, member) for member in range(recipe.members)]
        config = episode_config(recipe)
        self.host = inputs.tables(recipe.kind)
        targets = takes_targets(make_head(recipe, {}).learner)
        layout = head_layout(inputs, recipe, validation=False, targets=targets)
        self.scale = label_scale(recipe, layout.label_N)
        layout = in_scale(layout, self.scale)
        self.samplers = [EpisodeSampler(layout, self.host, config, own) for own in self.seeds]
        check_tasks(recipe, layout)
        held_out = in_scale(head_layout(inputs, recipe, validation=True, targets=targets), self.scale)
        self.tables: Tables = tables_on(self.host, pick_device(around.device))
        self.stats = label_stats(layout, self.host.rows)
        self.head = replace(make_head(recipe, {}), learner=training_learner(recipe, len(layout.row_N), self.stats.std))
        self.validation = SharedValidation(
            head=self.head,
            sampler=validation_sampler(held_out, self.host, config, self.seeds[0], recipe.validation_tasks),
            tables=self.tables,
            workers=around.workers,
            scale=self.scale,
        )
        self.schedule = OneCycle(
            peak=recipe.outer_lr,
            num_steps=recipe.epochs * self.samplers[0].steps_per_epoch,
            warmup_fraction=recipe.warmup_fraction,
        )
        self.outer_step = OuterStep(self.head, self.tables, recipe, self.schedule, around)
        self.state = self._restore() or self._start(HeadState(theta={}, optimizer=Adam(), best={}))
        self.state.optimizer.beta2 = recipe.beta2

    @property
    def member(self) -> int:
        """The number of the training that runs."""
        return min(len(self.state.members), self.recipe.members - 1)

    @property
    def sampler(self) -> EpisodeSampler:
        """Its episodes."""
        return self.samplers[self.member]

    @property
    def _where(self) -> str:
        """The epoch that runs, for people."""
        member = f"member {self.member + 1}, " if self.recipe.members > 1 else ""
        return f"{member}epoch {self.state.epoch + 1}"

    def _start(self, before: HeadState) -> HeadState:
        """The state at the start of a training, after those of `before`."""
        member = len(before.members)
        told = Progress(stage="start", target=self.recipe.target, member=member + 1, members=self.recipe.members)
        self.around.watch(told)
        generator = torch.Generator().manual_seed(self.seeds[member])
        theta = self.head.learner.init(self.head.model, self.host, generator, self.stats)
        theta = {name: value.detach().clone() for name, value in trainable(theta).items()}
        optimizer = Adam(beta2=self.recipe.beta2)
        fresh = HeadState(theta=theta, optimizer=optimizer, best={}, members=before.members, history=before.history)
        return self._on_device(fresh)

    def _restore(self) -> HeadState | None:
        saved = self.around.store.load(self.recipe.target) if self.around.store else None
        return self._on_device(saved) if saved else None

    def _on_device(self, state: HeadState) -> HeadState:
        device = self.tables.rows.dense_NP.device

        def move(params: MetaParams) -> MetaParams:
            return {name: value.to(device) for name, value in params.items()}

        state.theta, state.best = move(state.theta), move(state.best)
        state.optimizer.mean, state.optimizer.square = move(state.optimizer.mean), move(state.optimizer.square)
        return state

    def run(self) -> HeadState:
        """Epochs until the last one or until validation has stopped improving."""
        threads = self.around.threads
        side_by_side = 1 if self.around.device == "gpu" else max(1, min(threads, len(self._shards())))
        before = torch.get_num_threads()
        torch.set_num_threads(max(1, threads // side_by_side))
        try:
            with ThreadPoolExecutor(side_by_side, thread_name_prefix="shard") as pool:
                return self._run(pool)
        finally:
            torch.set_num_threads(before)

    def _shards(self) -> range:
        """The parts of every batch that are this worker's."""
        return range(self.around.workers.rank, self.recipe.gradient_shards, self.around.workers.size)

    def _run(self, pool: ThreadPoolExecutor) -> HeadState:
        state = self.state
        while not state.finished:
            stop = self._epoch(pool)
            patience = self.recipe.patience
            waited = state.epoch - 1 - state.lowest_epoch
            if state.epoch >= self.recipe.epochs or (0 < patience <= waited):
                if state.epoch < self.recipe.epochs:
                    note = early_stop_note(state.epoch, self.recipe.epochs, state.lowest_epoch + 1, state.best_epoch + 1)
                    note = f"member {self.member + 1} {note}" if self.recipe.members > 1 else note
                    self.around.watch(Progress(stage="early_stop", target=self.recipe.target, note=note))
                state = self._next_member()
            self._save()
            if stop and not state.finished:
                raise self._interrupted()
        return state

    def _interrupted(self) -> InterruptedRunError:
        return InterruptedRunError(f"stopped in {self._where} of head '{self.recipe.target}'; the state is saved")

    def _next_member(self) -> HeadState:
        """The state at the start of the next training, or the finished one after the last."""
        state = self.state
        figures = state.history[-self.state.epoch :][state.best_epoch]
        state.members.append({name: value.detach().cpu() for name, value in state.best.items()})
        if len(state.members) < self.recipe.members:
            self.state = self._start(state)
            return self.state
        state.finished, state.best = True, merged(state.members)
        state.metrics = {name: value for name, value in figures.items() if name not in ("epoch", "member", "seconds", "kept")}
        if self.recipe.members > 1:
            # What all make together has no training loss of its own: the mean over members, each after its published epoch.
            published = {epoch.get("member", 1): epoch["train_loss"] for epoch in state.history if epoch["kept"]}
            state.metrics["train_loss"] = sum(published.values()) / len(published)
            state.metrics |= {f"validation_{name}": value for name, value in self.validation.of(state.best).items()}
        state.best = in_labels(self.head.learner, state.best, self.scale)
        state.members = []
        return state

    def _epoch(self, pool: ThreadPoolExecutor) -> bool:
        """What is left of an epoch; true when its last step was asked to stop."""
        state, steps = self.state, self.sampler.steps_per_epoch
        draws = {
            shard: self.sampler.epoch(state.epoch, state.step, rank=shard, world_size=self.recipe.gradient_shards)
            for shard in self._shards()
        }
        started = time.monotonic() - state.seconds
        stop = False
        while state.step < steps:
            stop = self.outer_step.take(state, draws, pool, seed=self.seeds[self.member], num_steps=steps, where=self._where)
            state.seconds = time.monotonic() - started
            self.around.watch(self._progress())
            if stop and state.step < steps:
                self._save()
                raise self._interrupted()
            if state.step % self.around.save_every_steps == 0 and state.step < steps:
                self._save()
        self._finish_epoch()
        return stop

    def _finish_epoch(self) -> None:
        state = self.state
        validation, kept = self.validation.of_epoch(state)
        if not math.isfinite(validation.get("loss", 0.0)):
            raise diverged(self.head, self.recipe, "validation loss", validation["loss"], f"after {self._where}")
        metrics: EpochMetrics = {"train_loss": self.scale**2 * state.loss_sum / state.weight_sum, "kept": float(kept)}
        metrics |= {f"validation_{name}": value for name, value in validation.items()}
        if kept:
            state.best_epoch = state.epoch
            state.best = {name: value.detach().clone() for name, value in state.theta.items()}
        member = {"member": self.member + 1.0} if self.recipe.members > 1 else {}
        state.history.append({**member, "epoch": state.epoch + 1, **metrics, "seconds": round(state.seconds, 3)})
        ended = self._progress(state.history[-1])
        state.epoch, state.step, state.loss_sum, state.weight_sum, state.seconds = state.epoch + 1, 0, 0.0, 0.0, 0.0
        self.around.watch(ended)

    def _progress(self, metrics: EpochMetrics | None = None) -> Progress:
        state = self.state
        return Progress(
            target=self.recipe.target,
            member=self.member + 1,
            members=self.recipe.members,
            epoch=state.epoch + 1,
            epochs=self.recipe.epochs,
            step=state.step,
            steps=self.sampler.steps_per_epoch,
            metrics=metrics or {},
        )

    def _save(self) -> None:
        if self.around.store and self.around.workers.rank == 0:
            self.around.store.save(self.recipe.target, self.state)
