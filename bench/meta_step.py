"""Tasks per CPU-second of a meta-step: the dual form beside vmap(grad), a plain loop, and learn2learn where it is installed.

    python bench/meta_step.py [--rounds N] [--tasks N] [--json FILE]

All take the outer gradient of all parameters of the same scorer (8 fields of 32, two hidden layers of 64) on the same tasks
(support of 5 to 20 rows, 10 query rows) with one thread. Rounds are interleaved, so that other work on the machine slows all
alike; figures are medians over rounds of process time. Gradients are compared in float64 before anything is timed.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metarec.meta.inner import ElementwiseForm, Form
from metarec.meta.maml import Maml
from metarec.models.contract import GradientScorer, MetaParams, Scorer
from metarec.models.melu import Melu
from metarec.tasks.batch import Batch, EntityTable, Tables, TaskBatch

MODEL = Melu(embedding_dim=32, hidden_dim=64)
CONFIGURATIONS = ((1, False), (1, True), (5, False), (5, True))
LOOPED = 32
"""Tasks of a round for those that take one at a time."""

Step = Callable[[], object]


class ElementwiseMaml(Maml):
    """MAML in the fallback form, whose rates are numbers all the same."""

    def make_form(self, model: Scorer, *, first_order: bool) -> Form:
        """vmap(grad) over weights of each task."""
        assert isinstance(model, Melu)
        scorer: GradientScorer = model
        return ElementwiseForm(scorer=scorer, objective=self.objective, first_order=first_order)


def table(rng: np.random.Generator, size: int, fields: int, coded: bool) -> EntityTable:
    """One-hot content of `fields` fields with 20 values each."""
    width = 20
    dense = np.zeros((size, fields * width), np.float32)
    for field in range(fields):
        dense[np.arange(size), field * width + rng.integers(0, width, size)] = 1
    code = torch.arange(1, size + 1) if coded else torch.zeros(size, dtype=torch.int64)
    blocks = tuple((f"f{field}", field * width, (field + 1) * width) for field in range(fields))
    return EntityTable(code_N=code, dense_NP=torch.from_numpy(dense), blocks=blocks, num_codes=size if coded else 0)


def draw(num_tasks: int, dtype: torch.dtype) -> TaskBatch:
    """Random tasks over 3000 rows (3 fields and an id) and 6000 tasks (4 fields)."""
    rng = np.random.default_rng(0)
    rows, tasks = table(rng, 3000, 3, True), table(rng, 6000, 4, False)
    tables = Tables(tasks=_cast(tasks, dtype), rows=_cast(rows, dtype))
    task_T = torch.from_numpy(rng.integers(0, 6000, num_tasks))

    def part(counts: np.ndarray) -> Batch:
        shape = (num_tasks, int(counts.max()))
        mask_TN = torch.from_numpy(np.arange(shape[1]) < counts[:, None])
        row_TN = torch.from_numpy(rng.integers(0, 3000, shape)) * mask_TN
        label_TN = torch.from_numpy(rng.integers(1, 6, shape)).float() * mask_TN
        return Batch(tables=tables, task_T=task_T, row_TN=row_TN, label_TN=label_TN, mask_TN=mask_TN)

    support, query = part(rng.integers(5, 21, num_tasks)), part(np.full(num_tasks, 10))
    return TaskBatch(support=support, query=query, weight_T=torch.ones(num_tasks, dtype=dtype))


def _cast(entities: EntityTable, dtype: torch.dtype) -> EntityTable:
    return EntityTable(
        code_N=entities.code_N, dense_NP=entities.dense_NP.to(dtype), blocks=entities.blocks, num_codes=entities.num_codes
    )


def first(tasks: TaskBatch, count: int) -> TaskBatch:
    """The first tasks of a batch."""

    def cut(batch: Batch) -> Batch:
        return Batch(
            tables=batch.tables,
            task_T=batch.task_T[:count],
            row_TN=batch.row_TN[:count],
            label_TN=batch.label_TN[:count],
            mask_TN=batch.mask_TN[:count],
        )

    return TaskBatch(support=cut(tasks.support), query=cut(tasks.query), weight_T=tasks.weight_T[:count])


def embedded(theta: MetaParams, part: Batch, t: int) -> tuple[Tensor, Tensor]:
    """A task's rows, embedded and joined with its own embedding (N, 256), and their labels."""
    row_N = part.row_TN[t][part.mask_TN[t]]
    items, users = part.tables.rows, part.tables.tasks
    fields = [items.dense_NP[row_N, start:stop] @ theta["row.content"][start:stop] for _, start, stop in items.blocks]
    user = users.dense_NP[part.task_T[t]]
    own = torch.cat([user[start:stop] @ theta["task.content"][start:stop] for _, start, stop in users.blocks])
    rows = torch.cat([*fields, theta["row.id"][items.code_N[row_N]], own.expand(len(row_N), -1)], 1)
    return rows, part.label_TN[t][part.mask_TN[t]].to(rows.dtype)


def loop_gradient(theta: MetaParams, tasks: TaskBatch, learner: Maml) -> MetaParams:
    """The plain form: one task after the other, weights copied, autograd for every gradient."""
    live = {name: value.detach().requires_grad_() for name, value in theta.items()}
    total: dict[str, Tensor] = {}
    for t in range(tasks.query.num_tasks):
        weights = {name: value for name, value in live.items() if name.startswith("decision.")}
        for _ in range(learner.inner_steps):
            slopes = torch.autograd.grad(
                _loss(weights, *embedded(live, tasks.support, t)), list(weights.values()), create_graph=not learner.first_order
            )
            weights = {n: w - learner.inner_lr * slope for (n, w), slope in zip(weights.items(), slopes, strict=True)}
        loss = _loss(weights, *embedded(live, tasks.query, t)) / tasks.query.num_tasks
        for name, value in zip(live, torch.autograd.grad(loss, list(live.values())), strict=True):
            total[name] = total[name] + value if name in total else value
    total["row.id"][0] = 0.0
    return total


def _loss(weights: MetaParams, rows: Tensor, label: Tensor) -> Tensor:
    matrix = torch.cat([weights["decision.row"], weights["decision.task"]])
    one = torch.relu(rows @ matrix + weights["decision.bias1"])
    two = torch.relu(one @ weights["decision.hidden"] + weights["decision.bias2"])
    return (two @ weights["decision.out"] + weights["decision.mean"] - label).square().mean()


def learn2learn_step(theta: MetaParams, tasks: TaskBatch, learner: Maml) -> Step | None:
    """MAML of learn2learn on the same network; None where it is not installed."""
    try:
        from learn2learn.algorithms import MAML  # type: ignore[import-not-found]  # an optional comparison, not a dependency
    except ImportError as error:
        print(f"learn2learn is left out: {error}", file=sys.stderr)
        return None
    network = nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    live = {name: value.detach().requires_grad_() for name, value in theta.items() if not name.startswith("decision.")}
    maml: Any = MAML(network, lr=learner.inner_lr, first_order=learner.first_order)

    def step() -> None:
        for t in range(tasks.query.num_tasks):
            clone = maml.clone()
            for _ in range(learner.inner_steps):
                rows, label = embedded(live, tasks.support, t)
                clone.adapt((clone(rows)[:, 0] - label).square().mean())
            rows, label = embedded(live, tasks.query, t)
            ((clone(rows)[:, 0] - label).square().mean() / tasks.query.num_tasks).backward()

    return step


def check(learner: Maml, elementwise: Maml) -> float:
    """Largest difference of gradients between the three forms in float64."""
    tasks = draw(6, torch.float64)
    theta = {k: v.double() for k, v in MODEL.init(tasks.query.tables, torch.Generator().manual_seed(0)).items()}
    expected = loop_gradient(theta, tasks, learner)
    worst = 0.0
    for ours in (learner, elementwise):
        found, _ = ours.meta_gradient(MODEL, theta, tasks, torch.Generator())
        worst = max(worst, *(float((found[name] - expected[name]).abs().max()) for name in expected))
    if worst > 1e-10:
        sys.exit(f"gradients differ by {worst:.1e}; nothing was timed")
    return worst


def measure(steps: dict[str, tuple[Step, int]], rounds: int) -> dict[str, float]:
    """Median tasks per CPU-second of each step over interleaved rounds, after one to warm up."""
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, (step, count) in steps.items():
            start = time.process_time()
            step()
            if number:
                rates[name].append(count / (time.process_time() - start))
    return {name: statistics.median(found) for name, found in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tasks", type=int, default=256)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tasks = draw(arguments.tasks, torch.float32)
    few = first(tasks, min(LOOPED, arguments.tasks))
    theta = MODEL.init(tasks.query.tables, torch.Generator().manual_seed(0))
    figures = []
    for inner_steps, first_order in CONFIGURATIONS:
        settings: dict[str, Any] = {"inner_steps": inner_steps, "first_order": first_order, "id_dropout": 0.0, "l2_id": 0.0}
        dual, elementwise = Maml(**settings), ElementwiseMaml(**settings)
        difference = check(dual, elementwise)
        steps: dict[str, tuple[Step, int]] = {
            "loop": (partial(loop_gradient, theta, few, dual), few.query.num_tasks),
            "vmap": (partial(elementwise.meta_gradient, MODEL, theta, tasks, torch.Generator()), arguments.tasks),
            "dual": (partial(dual.meta_gradient, MODEL, theta, tasks, torch.Generator()), arguments.tasks),
        }
        other = learn2learn_step(theta, few, dual)
        if other is not None:
            steps["learn2learn"] = (other, few.query.num_tasks)
        rates = measure(steps, arguments.rounds)
        name = f"{'first' if first_order else 'second'} order, {inner_steps} step{'s' if inner_steps > 1 else ''}"
        shown = ", ".join(f"{form} {rate:,.0f} ({rate / rates['loop']:.1f}x)" for form, rate in rates.items())
        print(f"{name}: tasks per CPU-second: {shown}; float64 difference {difference:.0e}")
        figures.append({"inner_steps": inner_steps, "first_order": first_order, "tasks_per_cpu_second": rates})
    if arguments.json is not None:
        text = json.dumps({"torch": torch.__version__, "tasks": arguments.tasks, "figures": figures}, indent=1)
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
