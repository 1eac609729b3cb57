"""Adversarial meta-training, a switch of every gradient learner: robust against small changes of what rows look like.

ADML (Yin, Tang, Xu & Wang 2018) adapts to perturbed rows and asks about clean ones, and the reverse. As in adversarial
recommendation (He et al. 2018, eq. 4) not the raw features move but the embedded row: by a share of its own length, along the
gradient of the loss. The outer loss becomes

    (1 - a) L(S, Q) + a / 2 (L(S*, Q) + L(S, Q*)),

where L(S, Q) is the learner's own outer loss. S* is perturbed against the weights before adaptation, Q* against the adapted
ones. Perturbations are constants of the outer step.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from metarec.meta.inner import Form, Inputs
from metarec.meta.objectives import Objective, task_loss
from metarec.models.contract import FastWeights, MetaParams
from metarec.tasks.batch import Batch, TaskBatch

OuterLoss = Callable[[Inputs, Inputs], Tensor]
Adapt = Callable[[MetaParams, Inputs], FastWeights]


def adversarial_loss(
    form: Form,
    theta: MetaParams,
    inputs: tuple[Inputs, Inputs],
    tasks: TaskBatch,
    outer_loss: OuterLoss,
    adapt: Adapt,
    *,
    objective: Objective,
    share: float,
    size: float,
) -> Tensor:
    """The mixed outer loss of each task (T,); `share` is a, `size` the length of a perturbation in units of the embedding."""
    support, query = inputs
    fixed = {name: value.detach() for name, value in theta.items()}
    with torch.no_grad():
        start, adapted = form.start(fixed, tasks.support), adapt(fixed, support)
    shift_TSE = perturbation(form, fixed, start, support, tasks.support, objective, size)
    shift_TQE = perturbation(form, fixed, adapted, query, tasks.query, objective, size)
    crossed_T = outer_loss(form.shifted(theta, support, shift_TSE), query) + outer_loss(
        support, form.shifted(theta, query, shift_TQE)
    )
    return (1 - share) * outer_loss(support, query) + share / 2 * crossed_T


def perturbation(
    form: Form, theta: MetaParams, fast: FastWeights, inputs: Inputs, batch: Batch, objective: Objective, size: float
) -> Tensor:
    """`size` times each embedded row's length along the gradient of its task's loss (T, N, E); 0 for padded rows."""
    still = tuple(value.detach() for value in inputs)
    shift_TNE = torch.zeros_like(still[0]).requires_grad_()
    with torch.enable_grad():
        score_TN = form.score(theta, fast, form.shifted(theta, still, shift_TNE))
        loss = task_loss(objective, score_TN, batch.label_TN, batch.mask_TN).sum()
        (slope_TNE,) = torch.autograd.grad(loss, [shift_TNE])
    length_TN1: Tensor = torch.linalg.vector_norm(still[0], dim=-1, keepdim=True)
    return size * length_TN1 * torch.nn.functional.normalize(slope_TNE, dim=-1, eps=torch.finfo(slope_TNE.dtype).tiny)
