"""The item side: what is left of users without one row, and priors of items whose truth is known."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from metarec.meta.alpaca import Alpaca
from metarec.meta.content_kernel import Blocks
from metarec.meta.item_side import MIN_ITEMS, ItemSide, learn_item_side, posterior
from metarec.meta.prior import Head
from metarec.meta.prior_users import UserVectors, user_vectors
from metarec.models.linear_gaussian import LinearGaussian
from metarec.tasks.batch import EntityTable
from metarec.tasks.planted import PlantedFamily, linear_family
from metarec.tasks.tables import entity_table

pytestmark = pytest.mark.usefixtures("one_thread")

DIM = 3


@pytest.fixture(scope="module")
def planted() -> tuple[PlantedFamily, Head]:
    """A family and the very head that drew it: content is an item's true vector."""
    family = linear_family(num_tasks=60, num_rows=40, rows_per_task=12, known=False, seed=1)
    learner, model = Alpaca(noise_shape=0.0), LinearGaussian(embedding_dim=DIM)
    theta = learner.init(model, family.tables, torch.Generator().manual_seed(0))
    theta |= {
        "mu": torch.tensor(family.mean),
        "row.content": torch.eye(DIM),
        "row.content_bias": torch.zeros(DIM),
        "task.content": torch.zeros_like(theta["task.content"]),
        "task.content_bias": torch.zeros_like(theta["task.content_bias"]),
        "noise.log_var": torch.log(torch.full((2,), family.noise_variance)),
    }
    return family, Head(target="explicit", learner=learner, model=model, theta={k: v.double() for k, v in theta.items()})


def vectors(family: PlantedFamily, head: Head) -> UserVectors:
    return user_vectors(head, family.tables.tasks, family.tables.rows, family.layout)


def test_users_without_a_row_are_those_who_never_had_it(planted: tuple[PlantedFamily, Head]) -> None:
    family, head = planted
    users = vectors(family, head)
    for row in (0, 17, 300):
        keep = np.arange(len(family.layout.row_N)) != row
        anew = vectors(replace(family, layout=family.layout.where(keep)), head)
        task, item = int(users.user_N[row]), int(users.item_N[row])
        x_NE, level_N, noise_N = users.without(np.array([row]))
        np.testing.assert_allclose(x_NE[0, :-1], anew.mean_UE[task, :-1], atol=1e-5)
        assert level_N[0] == pytest.approx(anew.mean_UE[task, -1], abs=1e-5)
        spread = np.square(users.phi_IE[item] @ anew.factor_UEE[task]).sum()
        assert noise_N[0] == pytest.approx(family.noise_variance + spread, rel=1e-4)


def test_of_many_users_some_are_held_each_as_they_are(
    planted: tuple[PlantedFamily, Head], monkeypatch: pytest.MonkeyPatch
) -> None:
    family, head = planted
    someone_else = np.arange(len(family.layout)) % 3 > 0  # every third has no rows
    family = replace(family, layout=family.layout.select(np.flatnonzero(someone_else)))
    every = vectors(family, head)
    monkeypatch.setattr("metarec.meta.prior_users.MAX_USERS", 7)
    some = vectors(family, head)
    assert some.mean_UE.shape[0] == some.factor_UEE.shape[0] == len(np.unique(some.user_N)) == 7
    chosen = [next(u for u in every.user_N if np.allclose(every.mean_UE[u], mean_E, atol=1e-6)) for mean_E in some.mean_UE]
    assert chosen == sorted(chosen)
    for place, user in enumerate(chosen):
        np.testing.assert_array_equal(some.item_N[some.user_N == place], every.item_N[every.user_N == user])
        np.testing.assert_allclose(some.factor_UEE[place], every.factor_UEE[user], atol=1e-6)


def test_the_posterior_is_the_dual_form_of_the_same_regression() -> None:
    rng = np.random.default_rng(0)
    x, mean = rng.normal(size=(5, 3)), rng.normal(size=3)
    spread, noise, residual = np.diag([0.5, 1.0, 2.0]), rng.uniform(0.2, 1, 5), rng.normal(size=5)
    found, covariance = posterior(mean, spread, x, residual, noise)
    gain = spread @ x.T @ np.linalg.inv(x @ spread @ x.T + np.diag(noise))
    np.testing.assert_allclose(found, mean + gain @ (residual - x @ mean), atol=1e-10)
    np.testing.assert_allclose(covariance, spread - gain @ x @ spread, atol=1e-10)


def curved(content_IP: "np.ndarray") -> "np.ndarray":  # type: ignore[type-arg]  # any dtype will do
    """An item's vector and offset as the planted truth: a step in the offset, a line in the taste."""
    return np.column_stack([0.8 * content_IP[:, :1], np.zeros((len(content_IP), 1)), np.sign(content_IP[:, 1])])


KINDS = ("number", "number", "vector")


def drawn(truth: "Callable[[np.ndarray], np.ndarray]", num_items: int = 160) -> tuple[UserVectors, EntityTable]:  # type: ignore[type-arg]  # any dtype will do
    """Users known for sure, and labels of items that follow from their content."""
    rng = np.random.default_rng(3)
    content = rng.normal(size=(num_items, 4)).astype(np.float32)
    theta = truth(content)
    user_N = np.repeat(np.arange(50), num_items)
    item_N = np.tile(np.arange(num_items), 50)
    mean_UE = rng.normal(size=(50, 3))
    x_NE = np.column_stack([mean_UE[user_N, :2], np.ones(len(user_N))])
    label_N = 3 + mean_UE[user_N, 2] + (x_NE * theta[item_N]).sum(1) + rng.normal(size=len(user_N)) * 0.3
    users = UserVectors(
        mean_UE=mean_UE,
        factor_UEE=np.zeros((50, 3, 3), np.float32),
        user_N=user_N,
        item_N=item_N,
        label_N=label_N,
        phi_IE=np.column_stack([theta[:, :2], np.ones(num_items)]),
        bias_I=theta[:, 2],
        noise_I=np.full(num_items, 0.09),
        mu=3.0,
    )
    blocks = (("line", 0, 1), ("step", 1, 2), ("nothing", 2, 4))
    return users, entity_table(content, blocks, np.zeros(num_items, bool))


@pytest.fixture(scope="module")
def learned() -> ItemSide:
    side = learn_item_side(*drawn(curved), KINDS, 0)
    assert side is not None
    return side


def test_content_tells_what_an_unseen_item_is_like_also_where_it_is_no_line(learned: ItemSide) -> None:
    content = np.random.default_rng(9).normal(size=(300, 4)).astype(np.float32)
    found = learned.mean(entity_table(content, (("line", 0, 1), ("step", 1, 2), ("nothing", 2, 4)), np.zeros(300, bool)))
    truth = curved(content)
    clear = np.abs(content[:, 1]) > 0.3
    assert np.abs(found - truth)[clear].mean(0) == pytest.approx([0, 0, 0], abs=0.15)
    assert found.shape == (300, 3)


def test_blocks_that_tell_nothing_count_for_little(learned: ItemSide) -> None:
    weight = learned.offset.squared_B
    assert weight[1] > weight[2] + 1


def test_gram_matrices_of_blocks_give_the_same_kernel(learned: ItemSide) -> None:
    value_NP = torch.from_numpy(np.random.default_rng(2).normal(size=(7, 4)))
    items = Blocks(value_NP=value_NP, block_P=learned.block_P)
    columns = ([0], [1], [2, 3])
    gram_BNN = torch.stack([value_NP[:, block] @ value_NP[:, block].mT for block in columns])
    torch.testing.assert_close(learned.offset.of_grams(gram_BNN), learned.offset(items, items))


def test_the_spread_is_what_content_cannot_tell() -> None:
    rng = np.random.default_rng(4)
    side = learn_item_side(*drawn(lambda content: rng.normal(size=(len(content), 3)) * [0.2, 0.4, 0.8]), KINDS, 0)
    assert side is not None
    np.testing.assert_allclose(np.sqrt(np.diag(side.spread)), [0.2, 0.4, 0.8], rtol=0.25)


def test_it_comes_back_from_its_arrays_as_it_was(learned: ItemSide) -> None:
    _, items = drawn(curved)
    again = ItemSide.from_arrays(learned.to_arrays())
    np.testing.assert_array_equal(again.mean(items), learned.mean(items))
    np.testing.assert_array_equal(again.spread, learned.spread)
    assert again.places is not None


def test_a_second_opinion_counts_for_its_share(learned: ItemSide) -> None:
    """Offsets are shared for a rater of mean taste; item sides of before there were places have the first opinion alone."""
    _, items = drawn(curved)
    assert learned.places is not None
    before = ItemSide.from_arrays({name: value for name, value in learned.to_arrays().items() if not name.startswith("places.")})
    assert before.places is None
    found, first, second = learned.mean(items), before.mean(items), learned.places.mean(items).numpy()
    np.testing.assert_allclose(found[:, :-1], 0.7 * first[:, :-1] + 0.3 * second[:, :-1], atol=1e-12)
    for one in (found, first):
        one[:, -1] += one[:, :-1] @ learned.taste_D.numpy()
    np.testing.assert_allclose(found[:, -1], (first[:, -1] + second[:, -1]) / 2, atol=1e-12)


def test_too_few_items_teach_nothing() -> None:
    assert learn_item_side(*drawn(curved, MIN_ITEMS - 1), KINDS, 0) is None


def test_items_without_content_have_no_item_side() -> None:
    users, items = drawn(curved)
    assert learn_item_side(users, replace(items, dense_NP=items.dense_NP[:, :0], blocks=()), (), 0) is None
