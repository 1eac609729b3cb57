import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from metarec.errors import InvalidInputError, NotFoundError
from metarec.meta.alpaca import Alpaca
from metarec.meta.catalogue import Catalogue
from metarec.meta.prior import Head, Prior
from metarec.models.linear_gaussian import LinearGaussian
from metarec.tasks.planted import linear_family
from metarec.types import Item


def encode(items: list[dict[str, float]]) -> np.ndarray:
    if any("x" not in item for item in items):
        raise InvalidInputError("field 'x' is wrong", field="x")
    return np.array([[item["x"]] * 3 for item in items], np.float32)


@pytest.fixture
def prior() -> Prior:
    tables = linear_family(num_tasks=4, num_rows=5, rows_per_task=3).tables
    model, learner = LinearGaussian(embedding_dim=3), Alpaca()
    theta = learner.init(model, tables, torch.Generator().manual_seed(0))
    return Prior(
        schema=SimpleNamespace(),  # type: ignore[arg-type]  # not read here
        encoder=SimpleNamespace(encode_items=encode, item_blocks=tables.rows.blocks),  # type: ignore[arg-type]  # what is read
        item_ids=tuple("abcde"),
        items=tables.rows,
        popularity_I=np.ones(5, np.float32),
        heads={"explicit": Head(target="explicit", learner=learner, model=model, theta=theta)},
        checkpoint="c-1",
    )


def test_ids_address_rows(prior: Prior) -> None:
    catalogue = Catalogue(prior)
    assert catalogue.rows(["c", "nope", "a"]).tolist() == [2, -1, 0]
    assert len(catalogue) == 5
    assert "e" in catalogue
    assert catalogue.features("a") is None
    assert (catalogue.revision("a"), catalogue.revision("nope")) == (0, None)


def test_new_items_get_rows_without_a_code_and_known_ones_keep_theirs(prior: Prior) -> None:
    catalogue = Catalogue(prior)
    before = catalogue.snapshot
    rows = catalogue.upsert(
        [
            Item(item_id="new", features={"x": 1.0}, revision=3),
            Item(item_id="b", features={"x": 2.0}, revision=4),
            Item(item_id="new", features={"x": 5.0}, revision=7),
        ]
    )
    assert rows.tolist() == [5, 1, 5]
    assert catalogue.ids == (*"abcde", "new")
    assert catalogue.items.code_N.tolist() == [1, 2, 3, 4, 5, 0]
    assert catalogue.items.dense_NP[5].tolist() == [5, 5, 5]
    assert catalogue.items.dense_NP[1].tolist() == [2, 2, 2]
    assert catalogue.revision("new") == 7
    assert catalogue.features("b") == {"x": 2.0}
    assert len(before.ids) == len(before.items) == 5
    assert torch.equal(prior.items.dense_NP[0], catalogue.items.dense_NP[0])
    assert not torch.equal(prior.items.dense_NP[1], catalogue.items.dense_NP[1])
    assert catalogue.version == 1


def test_a_wrong_item_changes_nothing(prior: Prior) -> None:
    catalogue = Catalogue(prior)
    with pytest.raises(InvalidInputError):
        catalogue.upsert([Item(item_id="ok", features={"x": 1.0}), Item(item_id="bad", features={})])
    assert len(catalogue) == 5
    assert catalogue.upsert([]).tolist() == []
    assert catalogue.version == 0


def test_concurrent_upserts_lose_nothing(prior: Prior) -> None:
    catalogue = Catalogue(prior)

    def add(worker: int) -> None:
        for n in range(20):
            catalogue.upsert([Item(item_id=f"{worker}-{n}", features={"x": float(n)})])

    threads = [threading.Thread(target=add, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(catalogue) == len(catalogue.items) == 85
    assert all(catalogue.ids[catalogue.rows([item_id])[0]] == item_id for item_id in catalogue.ids)
    assert all(float(catalogue.items.dense_NP[catalogue.rows([f"2-{n}"])[0], 0]) == n for n in range(20))


def test_a_prior_knows_its_heads(prior: Prior) -> None:
    assert prior.head("explicit").learner.name == "alpaca"
    assert prior.retrieval_target == "explicit"
    assert "cache.phi" in prior.head("explicit").prepared(prior.items).theta
    with pytest.raises(NotFoundError, match="'c-1' has no 'implicit' head"):
        prior.head("implicit")


def test_an_inconsistent_prior_is_refused(prior: Prior) -> None:
    with pytest.raises(InvalidInputError, match="1 item ids"):
        Prior(
            schema=prior.schema,
            encoder=prior.encoder,
            item_ids=("a",),
            items=prior.items,
            popularity_I=prior.popularity_I,
            heads=prior.heads,
        )
    with pytest.raises(InvalidInputError, match="at least one head"):
        Prior(
            schema=prior.schema,
            encoder=prior.encoder,
            item_ids=prior.item_ids,
            items=prior.items,
            popularity_I=prior.popularity_I,
            heads={},
        )
