"""The ranking score over both heads and the choice of their blend."""

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from metarec.errors import ConfigError
from metarec.meta.blend import GRID, USUAL, catalogue_scores, choose_blend, head_scores, support_batch
from metarec.meta.prior import Head
from metarec.meta.registry import make_learner
from metarec.models.registry import make_model
from metarec.tasks.batch import Batch
from metarec.tasks.planted import linear_family
from metarec.tasks.stats import label_stats
from metarec.types import Target


def both() -> tuple[dict[Target, Head], Batch]:
    family = linear_family(num_tasks=12, num_rows=15, rows_per_task=8, seed=3)
    heads: dict[Target, Head] = {}
    for target, name in (("implicit", "alpaca_implicit"), ("explicit", "alpaca")):
        learner = make_learner(name)
        model = make_model(learner.default_model, {"embedding_dim": 4})
        stats = label_stats(family.layout, family.tables.rows)
        theta = learner.init(model, family.tables, torch.Generator().manual_seed(1), stats)
        heads[cast(Target, target)] = Head(target=cast(Target, target), learner=learner, model=model, theta=theta)
    support = [(np.array([task, task + 1]), np.array([1.0, 4.0], np.float32), None) for task in range(12)]
    return heads, support_batch(family.tables, range(12), support)


def test_the_ranking_score_is_the_weighted_sum() -> None:
    heads, batch = both()
    implicit, explicit = head_scores(heads["implicit"], batch), head_scores(heads["explicit"], batch)
    np.testing.assert_allclose(catalogue_scores(heads, 0.3, batch), implicit + 0.3 * explicit, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(catalogue_scores(heads, 0.0, batch), implicit)


@pytest.mark.parametrize("target", ["implicit", "explicit"])
def test_one_head_alone_ranks_by_its_own_score(target: Target) -> None:
    heads, batch = both()
    alone = {target: heads[target]}
    np.testing.assert_array_equal(catalogue_scores(alone, 0.7, batch), head_scores(heads[target], batch))
    assert choose_blend(alone, [batch], lambda n, score: np.ones(len(score))) == 0.0


def test_learners_without_vectors_score_the_catalogue_row_by_row() -> None:
    family = linear_family(num_tasks=12, num_rows=15, rows_per_task=8, seed=3)
    learner = make_learner("fomaml")
    model = make_model(learner.default_model, {"embedding_dim": 4})
    theta = learner.init(model, family.tables, torch.Generator().manual_seed(1), label_stats(family.layout, family.tables.rows))
    head = Head(target="explicit", learner=learner, model=model, theta=theta)
    batch = support_batch(family.tables, [2, 5], [(np.array([1]), np.array([2.0], np.float32), None)] * 12)
    assert head_scores(head, batch).shape == (2, 15)


def in_units(heads: dict[Target, Head], batch: Batch, share: float) -> float:
    """A weight of the grid in units of the scores."""
    implicit, explicit = head_scores(heads["implicit"], batch), head_scores(heads["explicit"], batch)
    return share * float(implicit.std(1).mean() / explicit.std(1).mean())


def test_the_usual_blend_stays_unless_another_is_better() -> None:
    heads, batch = both()
    assert choose_blend(heads, [batch], lambda n, score: np.ones(len(score))) == pytest.approx(in_units(heads, batch, USUAL))


@pytest.mark.parametrize(("target", "share"), [("explicit", max(GRID)), ("implicit", 0.0)])
def test_the_blend_is_the_weight_of_the_best_quality_in_units_of_the_scores(target: Target, share: float) -> None:
    heads, batch = both()
    liked = head_scores(heads[target], batch)

    def like(number: int, score_TI: NDArray[np.float32]) -> NDArray[np.float64]:
        assert number == 0
        return np.array([np.corrcoef(one, other)[0, 1] for one, other in zip(score_TI, liked, strict=True)])

    assert choose_blend(heads, [batch], like) == pytest.approx(in_units(heads, batch, share), rel=1e-5)


def test_a_blend_that_is_better_by_luck_is_not_taken() -> None:
    heads, batch = both()
    explicit = head_scores(heads["explicit"], batch)
    sign_T = np.where(np.arange(len(explicit)) < 7, 1.0, -1.0)  # seven of twelve users are ranked better with more weight

    def quality(number: int, score_TI: NDArray[np.float32]) -> NDArray[np.float64]:
        alike_T = [np.corrcoef(one, other)[0, 1] for one, other in zip(score_TI, explicit, strict=True)]
        return np.asarray(sign_T * alike_T, np.float64)

    assert choose_blend(heads, [batch], quality) == pytest.approx(in_units(heads, batch, USUAL), rel=1e-5)


def test_a_user_asked_several_times_counts_once() -> None:
    heads, batch = both()
    gains = iter(range(10**6))

    def quality(number: int, score_TI: NDArray[np.float32]) -> NDArray[np.float64]:
        # Of many draws of one user, however they agree, nobody knows how others would be ranked.
        return np.full(1, float(next(gains)))

    one = support_batch(batch.tables, range(1), [(np.array([0, 1]), np.array([1.0, 4.0], np.float32), None)])
    assert choose_blend(heads, [one] * 20, quality) == pytest.approx(in_units(heads, one, USUAL), rel=1e-5)


def test_ratings_without_an_opinion_get_no_weight() -> None:
    heads, batch = both()
    theta = heads["explicit"].theta
    level = {name: torch.zeros_like(value) if name.startswith("row.") else value for name, value in theta.items()}
    heads["explicit"] = replace(heads["explicit"], theta=level)
    assert choose_blend(heads, [batch], lambda n, score: np.ones(len(score))) == 0.0


def test_a_grid_must_hold_the_usual_weight() -> None:
    heads, batch = both()
    with pytest.raises(ConfigError, match="must hold the usual one"):
        choose_blend(heads, [batch], lambda n, score: np.ones(len(score)), grid=(0.0, 0.2))


def test_one_user_alone_shows_nothing() -> None:
    heads, batch = both()
    calls = iter(range(100))

    def quality(number: int, score_TI: NDArray[np.float32]) -> NDArray[np.float64]:
        # The usual weight is asked first, then the grid: every other weight ranks one user better, by anything.
        return np.where(np.arange(len(score_TI)) == 5, 0.1 * next(calls), 0.3)

    assert choose_blend(heads, [batch], quality) == pytest.approx(in_units(heads, batch, USUAL), rel=1e-5)
