"""Plain rating baselines against plain references, and one contract for all of them."""

from dataclasses import replace

import numpy as np
import pytest

from metarec.baselines.content import ContentRidge, ItemContentRidge
from metarec.baselines.factorisation import BiasALS
from metarec.baselines.fold_in import fold_in
from metarec.baselines.rating_registry import CONTENT, PLAIN, FittedRating, fit_rating_baselines
from metarec.baselines.rating_tasks import RatingData, RatingTasks, draw_tasks, starts
from metarec.baselines.ratings import Bias, ItemMean, SupportMean
from metarec.errors import ConfigError

USERS, ITEMS, CONTENT_DIM = 120, 40, 6
NAMES = [*PLAIN, *CONTENT]


def ratings(seed: int = 0, known_items: int = ITEMS) -> RatingData:
    """Ratings from biases, two taste factors and content that explains part of the items' biases."""
    random = np.random.default_rng(seed)
    content_IP = random.normal(size=(ITEMS, CONTENT_DIM)).astype(np.float32)
    bias_I = content_IP @ random.normal(0, 0.3, CONTENT_DIM) + random.normal(0, 0.2, ITEMS)
    taste_UD, item_ID = random.normal(0, 0.7, (USERS, 2)), random.normal(0, 0.7, (ITEMS, 2))
    user_N, item_N = np.nonzero(random.random((USERS, ITEMS)) < 0.5)
    keep_N = item_N < known_items
    user_N, item_N = user_N[keep_N], item_N[keep_N]
    label_N = 3.3 + bias_I[item_N] + random.normal(0, 0.4, USERS)[user_N] + (taste_UD[user_N] * item_ID[item_N]).sum(1)
    label_N = np.clip(np.round(label_N + random.normal(0, 0.3, len(user_N))), 1, 5)
    return RatingData(
        user_N=user_N,
        item_N=item_N,
        label_N=label_N,
        user_UP=np.zeros((USERS, 0), np.float32),
        item_IP=content_IP,
        minimum=1,
        maximum=5,
    )


def asked(data: RatingData, seed: int = 1) -> RatingTasks:
    return draw_tasks(data, seed=seed, max_support=12, max_query=8)


@pytest.fixture(scope="module")
def fitted() -> dict[str, FittedRating]:
    return fit_rating_baselines(ratings(known_items=ITEMS - 5), seed=0)


def test_the_support_mean_is_the_mean_of_the_support_or_of_training() -> None:
    data = ratings()
    tasks = asked(data)
    found = SupportMean().fit(data).predict(tasks)
    for task in range(len(tasks)):
        support = tasks.support_label_S[tasks.support_start_T1[task] : tasks.support_start_T1[task + 1]]
        expected = support.mean() if len(support) else data.label_N.mean()
        assert found[tasks.query_start_T1[task]] == pytest.approx(expected)


def test_item_means_shrink_towards_the_mean_of_all() -> None:
    data = ratings()
    tasks = asked(data)
    found = ItemMean(3.0).fit(data).predict(tasks)
    mean = data.label_N.mean()
    for row in (0, 5, 9):
        mine = data.label_N[data.item_N == tasks.query_item_Q[row]]
        assert found[row] == pytest.approx(mean + (mine - mean).sum() / (len(mine) + 3))


def test_biases_converge_to_the_ridge_regression_on_indicators() -> None:
    data = ratings()
    found = Bias(item_shrinkage=5, user_shrinkage=4, sweeps=200).fit(data)
    design = np.zeros((len(data.label_N), USERS + ITEMS))
    design[np.arange(len(design)), data.user_N] = 1
    design[np.arange(len(design)), USERS + data.item_N] = 1
    penalty = np.diag([4.0] * USERS + [5.0] * ITEMS)
    solved = np.linalg.solve(design.T @ design + penalty, design.T @ (data.label_N - data.label_N.mean()))
    np.testing.assert_allclose(found.offset_U, solved[:USERS], atol=1e-8)
    np.testing.assert_allclose(found.offset_I, solved[USERS:], atol=1e-8)


@pytest.mark.parametrize("dim", [3, 30])
def test_fold_in_is_one_ridge_regression_per_task(dim: int) -> None:
    random = np.random.default_rng(2)
    data = ratings()
    tasks = asked(data)
    vector_ID, precision_D = random.normal(size=(ITEMS, dim)), random.uniform(1, 5, dim)
    residual_S = random.normal(size=len(tasks.support_item_S))
    found = fold_in(vector_ID, precision_D, residual_S, tasks)
    for task in range(len(tasks)):
        rows = slice(*tasks.support_start_T1[task : task + 2])
        x_SD = vector_ID[tasks.support_item_S[rows]]
        expected = np.linalg.solve(x_SD.T @ x_SD + np.diag(precision_D), x_SD.T @ residual_S[rows])
        np.testing.assert_allclose(found[task], expected, atol=1e-10)


def test_als_sweeps_lower_its_objective() -> None:
    data = ratings()

    def objective(sweeps: int) -> float:
        model = BiasALS(embedding_dim=2, regularization=2.0, fold_regularization=2.0, sweeps=sweeps).fit(data)
        everything = RatingTasks(
            user_T=np.arange(USERS),
            support_start_T1=starts(np.bincount(data.user_N, minlength=USERS)),
            support_item_S=data.item_N,
            support_label_S=data.label_N,
            query_start_T1=starts(np.bincount(data.user_N, minlength=USERS)),
            query_item_Q=data.item_N,
            query_label_Q=data.label_N,
        )
        rest_N = data.label_N - model.fixed_I[data.item_N]
        weight_UD = fold_in(model.vector_ID, model.precision_D, rest_N, everything)
        fit = ((model.predict(everything) - data.label_N) ** 2).sum() + (model.precision_D * weight_UD**2).sum()
        offset_I, factor_ID = model.fixed_I - model.mean, model.vector_ID[:, 1:]
        return float(fit + Bias().item_shrinkage * (offset_I**2).sum() + 2.0 * (factor_ID**2).sum())

    assert objective(1) > objective(4) > objective(20)


def test_content_ridge_is_a_ridge_regression_on_offset_factors_and_directions() -> None:
    data = ratings()
    factors = BiasALS(embedding_dim=2, fold_regularization=3.0).fit(data)
    model = ContentRidge(factors, content_dim=CONTENT_DIM, content_regularization=9.0).fit(data)
    tasks = asked(data)
    found = model.predict(tasks)
    centred_IP = data.item_IP - data.item_IP.mean(0)
    x_ID = np.concatenate([factors.vector_ID, centred_IP], 1)
    precision = np.diag([factors.user_shrinkage, 3.0, 3.0] + [9.0] * CONTENT_DIM)
    for task in range(0, len(tasks), 7):
        rows, query = (slice(*start[task : task + 2]) for start in (tasks.support_start_T1, tasks.query_start_T1))
        x_SD = x_ID[tasks.support_item_S[rows]]
        rest_S = tasks.support_label_S[rows] - factors.fixed_I[tasks.support_item_S[rows]]
        weight_D = np.linalg.solve(x_SD.T @ x_SD + precision, x_SD.T @ rest_S)
        expected = factors.fixed_I[tasks.query_item_Q[query]] + x_ID[tasks.query_item_Q[query]] @ weight_D
        np.testing.assert_allclose(found[query], expected, atol=1e-5)  # a rotation of the directions changes nothing


def test_items_without_ratings_get_their_bias_from_content() -> None:
    whole, data = ratings(), ratings(known_items=ITEMS - 10)
    true_I = Bias().fit(whole).offset_I[-10:]
    plain, better = (make(BiasALS(embedding_dim=2)).fit(data) for make in (ContentRidge, ItemContentRidge))
    assert np.allclose(plain.fixed_I[-10:], data.label_N.mean())
    assert np.corrcoef(better.fixed_I[-10:], true_I)[0, 1] > 0.5
    np.testing.assert_array_equal(better.fixed_I[:-10], plain.fixed_I[:-10])


@pytest.mark.parametrize("name", NAMES)
def test_contract_predictions_are_finite_and_the_same_for_a_task_alone(name: str, fitted: dict[str, FittedRating]) -> None:
    tasks = asked(ratings(seed=0))
    mean_Q, variance_Q = fitted[name].predict(tasks)
    assert mean_Q.shape == variance_Q.shape == tasks.query_item_Q.shape
    assert np.isfinite(mean_Q).all()
    assert (variance_Q > 0).all()
    for task in (0, len(tasks) // 2, len(tasks) - 1):
        rows, query = (slice(*start[task : task + 2]) for start in (tasks.support_start_T1, tasks.query_start_T1))
        alone = RatingTasks(
            user_T=tasks.user_T[[task]],
            support_start_T1=np.array([0, rows.stop - rows.start]),
            support_item_S=tasks.support_item_S[rows],
            support_label_S=tasks.support_label_S[rows],
            query_start_T1=np.array([0, query.stop - query.start]),
            query_item_Q=tasks.query_item_Q[query],
            query_label_Q=tasks.query_label_Q[query],
        )
        np.testing.assert_allclose(fitted[name].predict(alone)[0], mean_Q[query], atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_contract_neither_the_user_nor_the_labels_to_predict_matter(name: str, fitted: dict[str, FittedRating]) -> None:
    tasks = asked(ratings())
    disguised = replace(tasks, user_T=tasks.user_T[::-1].copy(), query_label_Q=np.zeros_like(tasks.query_label_Q))
    np.testing.assert_array_equal(fitted[name].predict(tasks)[0], fitted[name].predict(disguised)[0])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("support_mean", "item_mean")])
def test_contract_more_shots_predict_better(name: str, fitted: dict[str, FittedRating]) -> None:
    tasks = asked(ratings())
    errors = [np.abs(fitted[name].predict(tasks.first_shots(shots))[0] - tasks.query_label_Q).mean() for shots in (0, 12)]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("times", [64.0, 1 / 64])
def test_the_unit_of_labels_does_not_matter(times: float) -> None:
    data = ratings(2)
    data = replace(data, label_N=10 * data.label_N)  # away from grades, so that both are scaled
    other = replace(data, label_N=times * data.label_N, minimum=times * data.minimum, maximum=times * data.maximum)
    tasks = asked(data)
    same = replace(tasks, support_label_S=times * tasks.support_label_S)
    one, two = (fit_rating_baselines(part, seed=4) for part in (data, other))
    for name, baseline in one.items():
        assert two[name].settings == baseline.settings, name
        np.testing.assert_allclose(two[name].predict(same)[0], times * baseline.predict(tasks)[0], rtol=1e-7, err_msg=name)


def test_tuning_sees_training_users_alone_and_is_deterministic() -> None:
    data = ratings()
    one, two = (fit_rating_baselines(data, seed=4, only=("bias", "bias_als")) for _ in range(2))
    assert set(one) == {"bias", "bias_als"}
    assert [model.settings for model in one.values()] == [model.settings for model in two.values()]
    np.testing.assert_array_equal(one["bias_als"].predict(asked(data))[0], two["bias_als"].predict(asked(data))[0])


def test_variances_are_about_as_large_as_the_errors(fitted: dict[str, FittedRating]) -> None:
    tasks = asked(ratings(), seed=9)
    mean_Q, variance_Q = fitted["bias_als"].predict(tasks)
    assert 0.5 < ((mean_Q - tasks.query_label_Q) ** 2).mean() / variance_Q[0] < 2


def test_data_without_content_has_no_baselines_on_content() -> None:
    bare = replace(ratings(), item_IP=np.zeros((ITEMS, 0), np.float32))
    assert set(fit_rating_baselines(bare)) == set(PLAIN)


def test_drawn_tasks_share_no_row_between_support_and_query() -> None:
    data = ratings()
    tasks = draw_tasks(data, seed=3)
    assert len(set(tasks.user_T.tolist())) == len(tasks)
    for task, user in enumerate(tasks.user_T):
        support = tasks.support_item_S[slice(*tasks.support_start_T1[task : task + 2])]
        query = tasks.query_item_Q[slice(*tasks.query_start_T1[task : task + 2])]
        assert not set(support) & set(query)
        assert len(query)
        assert set(support) | set(query) <= set(data.item_N[data.user_N == user])


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="shrinkage -1 is negative"):
        ItemMean(-1)
    with pytest.raises(ConfigError, match="embedding_dim 0"):
        BiasALS(embedding_dim=0)
    with pytest.raises(ConfigError, match="content_regularization -2 must be positive"):
        ContentRidge(content_regularization=-2)
