"""How much newer support weighs more: learned where old labels tell little, and left out where they tell as much."""

from dataclasses import replace
from typing import cast

import numpy as np
import torch

from metarec.data.interactions import Interactions
from metarec.meta.alpaca import Alpaca
from metarec.meta.decay import NAME
from metarec.meta.prior import Head
from metarec.models.linear_gaussian import LinearGaussian
from metarec.tasks.planted import linear_family
from metarec.training.decay import with_decay
from metarec.training.inputs import Inputs

DAY = 86_400.0


def planted(old_noise: float, *, timed: bool = True) -> tuple[Inputs, Head]:
    """Users who rated twenty items a year ago, with this much noise, and twenty in the last days; a head that knows the rest."""
    family = linear_family(num_tasks=160, num_rows=60, rows_per_task=40, known=False, seed=1)
    layout, rng = family.layout, np.random.default_rng(0)
    place_N = np.concatenate([np.arange(count) for count in layout.counts])
    old_N = place_N < 20
    label_N = layout.label_N + old_noise * old_N * rng.normal(size=len(old_N))
    time_N = (np.where(old_N, 0.0, 365.0) + 0.01 * place_N) * DAY if timed else np.zeros(len(old_N))
    held_out_U = np.arange(160) >= 100
    inputs = Inputs(
        users=family.tables.tasks,
        items=family.tables.rows,
        interactions=Interactions(
            user_N=layout.row_tasks.astype(np.int32),
            item_N=layout.row_N.astype(np.int32),
            label_N=label_N.astype(np.float32),
            timestamp_N=time_N,
            scenario_N=np.zeros(len(old_N), np.int16),
        ),
        validation_user_U=held_out_U,
        validation_item_I=np.zeros(60, bool),
    )
    learner, model = Alpaca(noise_shape=0.0), LinearGaussian(embedding_dim=family.row_RD.shape[1])
    theta = learner.init(model, family.tables, torch.Generator().manual_seed(0))
    profile_TP = family.tables.tasks.dense_NP.double().numpy()
    solved = torch.from_numpy(np.linalg.lstsq(profile_TP, family.task_TD, rcond=None)[0]).float()
    theta |= {
        "mu": torch.tensor(family.mean),
        "row.content": torch.eye(family.row_RD.shape[1]),
        "row.content_bias": torch.zeros(family.row_RD.shape[1]),
        "task.content": solved,
        "task.mean": torch.zeros_like(theta["task.mean"]),
        "prior.log_var": torch.log(torch.tensor([*family.variance_D, 1e-4])).float(),
        "noise.log_var": torch.log(torch.full((2,), family.noise_variance)).float(),
    }
    return inputs, Head(target="explicit", learner=learner, model=model, theta={k: v.float() for k, v in theta.items()})


def test_old_labels_that_tell_little_weigh_less() -> None:
    inputs, head = planted(old_noise=3.0)
    learned = with_decay(inputs, head, seed=0)
    gamma, log_tau = learned.theta[NAME].tolist()
    assert gamma > 0
    assert (1 + 365 / np.exp(log_tau)) ** gamma > 3
    assert {name for name in learned.theta if name not in head.theta} == {NAME}


def test_the_unit_of_labels_does_not_matter() -> None:
    inputs, head = planted(old_noise=3.0)
    learner = replace(cast(Alpaca, head.learner), huber=1.0)
    head = replace(head, learner=learner)
    events = inputs.interactions
    points = replace(inputs, interactions=replace(events, label_N=events.label_N * np.float32(64)))
    learned = with_decay(inputs, head, seed=0)
    other = with_decay(points, replace(head, theta=learner.rescaled(head.theta, 64.0)), seed=0, scale=64.0)
    torch.testing.assert_close(other.theta[NAME], learned.theta[NAME], rtol=1e-3, atol=1e-3)


def test_labels_that_tell_as_much_weigh_alike() -> None:
    inputs, head = planted(old_noise=0.0)
    assert NAME not in with_decay(inputs, head, seed=0).theta


def test_without_times_there_is_no_decay() -> None:
    inputs, head = planted(old_noise=3.0, timed=False)
    assert with_decay(inputs, head, seed=0) is head


def test_too_few_held_out_users_do_not_judge() -> None:
    inputs, head = planted(old_noise=3.0)
    held_out_U = np.zeros(160, bool)
    held_out_U[:10] = True
    assert with_decay(replace(inputs, validation_user_U=held_out_U), head, seed=0) is head
