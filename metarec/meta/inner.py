"""The inner loop of the gradient family: what a form of it does, and the form that fits every scorer and every rate.

A form is how the fast weights of many tasks are held and stepped at once. `ElementwiseForm` keeps all adapted weights of every
task and maps the gradient of one task's loss over them (torch.func.vmap); DualForm (metarec.meta.dual) is ten times faster and
needs rates that are shared within a layer.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from metarec.meta.objectives import Objective, task_loss
from metarec.models.contract import FastWeights, GradientScorer, MetaParams
from metarec.tasks.batch import Batch, Tables, TaskBatch

Inputs = tuple[Tensor, ...]
"""What does not adapt of a batch, embedded rows (T, N, E) first."""

Rates = Mapping[str, Tensor | float]
"""Rate of each adapted weight by its name: a number, or a tensor of the weight's shape."""


class Form(Protocol):
    """One way to take gradient steps on the support losses of all tasks of a batch."""

    def shapes(self, theta: MetaParams, tables: Tables) -> dict[str, torch.Size]:
        """The weights that adapt, by the names of their rates, and the shape of one task's."""
        ...

    def inputs(self, theta: MetaParams, batch: Batch, known_I: Tensor | None = None) -> Inputs:
        """What does not adapt; `known_I` (bool, one per row of the table) hides ids where false."""
        ...

    def both(self, theta: MetaParams, tasks: TaskBatch, known_I: Tensor | None = None) -> tuple[Inputs, Inputs]:
        """The inputs of support and query."""
        ...

    def joined(self, left: Inputs, right: Inputs) -> Inputs:
        """The inputs of both sets' rows, of the same tasks."""
        ...

    def start(self, theta: MetaParams, batch: Batch) -> FastWeights:
        """Fast weights before any step; empty where those are theta's own."""
        ...

    def path(self, theta: MetaParams, inputs: Inputs, batch: Batch, rates: Rates, steps: int) -> Iterator[FastWeights]:
        """Fast weights after 1, 2, ..., `steps` steps on the batch's losses; differentiable unless the form is of first order."""
        ...

    def score(self, theta: MetaParams, fast: FastWeights, inputs: Inputs) -> Tensor:
        """Scores (T, N)."""
        ...

    def shifted(self, theta: MetaParams, inputs: Inputs, shift_TNE: Tensor) -> Inputs:
        """The inputs with `shift_TNE` added to the embedded rows."""
        ...


@dataclass(frozen=True, kw_only=True)
class ElementwiseForm:
    """Every adapted weight once per task. With `first_order` inner gradients are constants of the outer step."""

    scorer: GradientScorer
    objective: Objective
    first_order: bool

    def shapes(self, theta: MetaParams, tables: Tables) -> dict[str, torch.Size]:
        """Those of the scorer's fast weights."""
        nothing = torch.zeros(1, 0)
        first_1 = torch.zeros(1, dtype=torch.int64)
        task = Batch(tables=tables, task_T=first_1, row_TN=nothing.long(), label_TN=nothing, mask_TN=nothing.bool())
        return {name: value.shape[1:] for name, value in self.scorer.initial(theta, task).items()}

    def inputs(self, theta: MetaParams, batch: Batch, known_I: Tensor | None = None) -> Inputs:
        """As the scorer has them."""
        return self.scorer.inputs(theta, batch, known_I)

    def both(self, theta: MetaParams, tasks: TaskBatch, known_I: Tensor | None = None) -> tuple[Inputs, Inputs]:
        """Support and query one after the other."""
        return self.inputs(theta, tasks.support, known_I), self.inputs(theta, tasks.query, known_I)

    def joined(self, left: Inputs, right: Inputs) -> Inputs:
        """Rows side by side. A layered scorer's second input is the task's; any other has rows alone."""
        rows = torch.cat([left[0], right[0]], 1)
        return rows, left[1] if hasattr(self.scorer, "layers") else torch.cat([left[1], right[1]], 1)

    def start(self, theta: MetaParams, batch: Batch) -> FastWeights:
        """The scorer's initial weights, once per task."""
        return self.scorer.initial(theta, batch)

    def path(self, theta: MetaParams, inputs: Inputs, batch: Batch, rates: Rates, steps: int) -> Iterator[FastWeights]:
        """w <- w - rate * dL_t/dw, all weights of all tasks at once."""
        slope = torch.func.vmap(torch.func.grad(self._loss))
        fast = self.start(theta, batch)
        for _ in range(steps):
            gradient = slope(fast, inputs, batch.label_TN, batch.mask_TN)
            if self.first_order:
                gradient = {name: value.detach() for name, value in gradient.items()}
            fast = {name: value - rates[name] * gradient[name] for name, value in fast.items()}
            yield fast

    def _loss(self, fast: FastWeights, inputs: Inputs, label_N: Tensor, mask_N: Tensor) -> Tensor:
        """One task's loss, which the scorer sees as a batch of one."""
        score_1N = self.scorer.forward({name: value[None] for name, value in fast.items()}, (inputs[0][None], inputs[1][None]))
        return task_loss(self.objective, score_1N, label_N[None], mask_N[None])[0]

    def score(self, theta: MetaParams, fast: FastWeights, inputs: Inputs) -> Tensor:
        """The scorer's forward pass."""
        return self.scorer.forward(fast, (inputs[0], inputs[1]))

    def shifted(self, theta: MetaParams, inputs: Inputs, shift_TNE: Tensor) -> Inputs:
        """Rows moved."""
        return (inputs[0] + shift_TNE, inputs[1])


def last(path: Iterator[FastWeights]) -> FastWeights:
    """Where a path of at least one step ends."""
    return deque(path, maxlen=1).pop()
