import numpy as np

from metarec.tasks.planted import checkerboard, linear_family
from metarec.tasks.sampler import EpisodeConfig, EpisodeSampler


def error(family, tasks) -> float:  # type: ignore[no-untyped-def]  # a family and a batch
    mask_TQ = tasks.query.mask_TN.numpy()
    return float((((family.bayes_mean(tasks) - tasks.query.label_TN.numpy()) ** 2) * mask_TQ).sum() / mask_TQ.sum())


def test_one_look_at_a_checkerboard_tells_all() -> None:
    family = checkerboard()
    tasks = next(
        EpisodeSampler(family.layout, family.tables, EpisodeConfig(batch_size=200, max_support=1, max_query=10), 0).epoch(0)
    )
    seen_T = tasks.support.mask_TN.any(1).numpy()
    mean_TQ, label_TQ, mask_TQ = family.bayes_mean(tasks), tasks.query.label_TN.numpy(), tasks.query.mask_TN.numpy()
    assert np.abs(mean_TQ - label_TQ)[mask_TQ & seen_T[:, None]].max() < 1e-3
    assert np.abs(mean_TQ - 3)[mask_TQ & ~seen_T[:, None]].max() < 1e-9


def test_the_bayes_error_falls_from_prior_to_noise_as_support_grows() -> None:
    family = linear_family(num_tasks=2000, noise=0.3)
    cold = next(EpisodeSampler(family.layout, family.tables, EpisodeConfig(batch_size=2000, max_support=0), 0).epoch(0))
    warm = next(EpisodeSampler(family.layout, family.tables, EpisodeConfig(batch_size=2000, max_support=20), 0).epoch(0))
    prior = float(((family.row_RD**2) @ family.variance_D).mean()) + family.noise_variance
    assert abs(error(family, cold) - prior) < 0.15 * prior
    assert family.noise_variance < error(family, warm) < 0.25 * error(family, cold)
