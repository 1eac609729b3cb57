"""By how much newer support weighs more (metarec.meta.decay), learned once a head is trained, in time order.

The head is trained on supports in random order, in which age says nothing. Here the support of each episode precedes what is
asked: gamma and tau descend the outer loss of training users from gamma = 0, everything else as it is. They are kept only where
users that training held out are predicted better by more than chance, two standard errors of the gain per user.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from metarec.meta.alpaca import Alpaca
from metarec.meta.blend import support_batch
from metarec.meta.decay import NAME
from metarec.meta.prior import Head
from metarec.tasks.batch import Batch, Tables
from metarec.tasks.layout import TaskLayout
from metarec.threads import one_core
from metarec.training.heads import head_seed
from metarec.training.inputs import Inputs

TAUS = (1.0, 30.0)
"""Days at which tau starts; the better end stands."""
MAX_TASKS = 600
MIN_JUDGES = 30
"""Held-out users that it takes to judge."""
MIN_ROWS, MAX_SUPPORT, MAX_QUERY = 12, 90, 100
CHUNK = 128
STEPS = 8
STREAM = 71


def with_decay(inputs: Inputs, head: Head, seed: int, *, scale: float = 1.0) -> Head:
    """The head with its decay; as it is where there is no time, too little to learn from, or nothing gained.

    `scale` is what labels were divided by in training (metarec.training.label_scale).
    """
    if head.learner.name != Alpaca.name or head.kind != "user":
        return head
    layouts = [inputs.layout("user", validation=held_out) for held_out in (False, True)]
    if not layouts[0].has_timestamps:
        return head
    with one_core():
        rng = np.random.default_rng([head_seed(seed, head.target), STREAM])
        train, held_out = (_episodes(layout, inputs, rng) for layout in layouts)
        if _tasks(held_out) < MIN_JUDGES:
            return head
        prepared = head.prepared(inputs.items)
        learned_2 = learn_decay(prepared, train, scale)
        gain_T = _losses(prepared, held_out, scale) - _losses(_with(prepared, learned_2), held_out, scale)
        error = float(gain_T.std()) / math.sqrt(len(gain_T))
        newer_counts_more = float(learned_2[0]) > 0 and float(gain_T.mean()) > 2 * error
        return _with(head, learned_2) if newer_counts_more else head


Episode = tuple[Batch, Batch]


def learn_decay(head: Head, episodes: Sequence[Episode], scale: float) -> Tensor:
    """gamma and log tau (days) that minimise the query loss of these episodes, by L-BFGS from gamma = 0."""
    best, best_loss = torch.zeros(2), math.inf
    for tau in TAUS:
        value_2 = torch.tensor([0.0, math.log(tau)], requires_grad=True)
        descent = torch.optim.LBFGS([value_2], lr=0.5, max_iter=STEPS, line_search_fn="strong_wolfe")

        def loss(value_2: Tensor = value_2, descent: torch.optim.LBFGS = descent) -> Tensor:
            descent.zero_grad()
            total = _losses(_with(head, value_2), episodes, scale).mean()
            total.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            return total.detach()

        descent.step(loss)  # type: ignore[no-untyped-call]  # as above
        reached = float(loss())
        if reached < best_loss:
            best, best_loss = value_2.detach().clone(), reached
    return best


def _with(head: Head, decay_2: Tensor) -> Head:
    return replace(head, theta={**head.theta, NAME: decay_2.to(head.theta["mu"].dtype)})


def _losses(head: Head, episodes: Sequence[Episode], scale: float) -> Tensor:
    """Mean query loss (T,) of each task, in labels divided by `scale` as training counts it."""
    found = []
    huber = cast(Alpaca, head.learner).huber
    for support, query in episodes:
        with torch.set_grad_enabled(bool(head.theta.get(NAME, torch.zeros(0)).requires_grad)):
            fast = head.learner.adapt(head.model, head.theta, support)
            mean_TQ = head.learner.predict(head.model, head.theta, fast, query).mean_TQ
            residual_TQ = (query.label_TN - mean_TQ) * query.mask_TN / scale
            cost_TQ = residual_TQ.square()
            if huber:
                cost_TQ = 2 * huber_loss(residual_TQ, torch.zeros_like(residual_TQ), reduction="none", delta=huber)
            found.append(cost_TQ.sum(1) / query.mask_TN.sum(1))
    return torch.cat(found) if found else torch.zeros(0)


def _tasks(episodes: Sequence[Episode]) -> int:
    return sum(support.num_tasks for support, _ in episodes)


def _episodes(layout: TaskLayout, inputs: Inputs, rng: np.random.Generator) -> list[Episode]:
    """One episode for each of up to MAX_TASKS users: a random number of their oldest rows, and those that follow."""
    users = rng.permutation(np.flatnonzero(layout.counts >= MIN_ROWS))[:MAX_TASKS]
    users = users[np.argsort(layout.counts[users], kind="stable")]
    found = []
    for first in range(0, len(users), CHUNK):
        chunk = users[first : first + CHUNK]
        place = torch.from_numpy(chunk)
        tasks = inputs.users.at(place)
        tables = Tables(tasks=tasks, rows=inputs.items)
        rows = [layout.rows_of(user) for user in chunk.tolist()]
        cuts = [part.start + int(rng.integers(1, min(MAX_SUPPORT + 1, part.stop - part.start - 4))) for part in rows]

        def batch(parts: Sequence[slice], tables: Tables = tables) -> Batch:
            shown = [(layout.row_N[part], layout.label_N[part], layout.timestamp_N[part]) for part in parts]
            return support_batch(tables, range(len(parts)), shown)

        support = batch([slice(part.start, cut) for part, cut in zip(rows, cuts, strict=True)])
        query = batch([slice(cut, min(cut + MAX_QUERY, part.stop)) for part, cut in zip(rows, cuts, strict=True)])
        found.append((support, query))
    return found
