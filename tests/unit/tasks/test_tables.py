from types import SimpleNamespace

import numpy as np
import pytest

from metarec.tasks.tables import build_tables, encode_unknown_items, encode_unknown_users, entity_table

BLOCKS = (("x", 0, 2),)
ENCODER = SimpleNamespace(
    encode_users=lambda users: np.full((len(users), 2), 1, np.float32),
    encode_items=lambda items: np.full((len(items), 2), 2, np.float32),
    user_blocks=BLOCKS,
    item_blocks=BLOCKS,
)
DATASET = SimpleNamespace(
    users=["u0", "u1", "u2"],
    items=["i0", "i1"],
    user_ids=["u0", "u1", "u2"],
    item_ids=["i0", "i1"],
    interactions=SimpleNamespace(user_N=np.array([0, 2, 2], np.int32), item_N=np.array([1, 1, 1], np.int32)),
)


def test_entities_with_interactions_get_codes_in_order() -> None:
    tables = build_tables(DATASET, ENCODER)  # type: ignore[arg-type]  # just the attributes it reads
    assert tables.tasks.code_N.tolist() == [1, 0, 2]
    assert tables.rows.code_N.tolist() == [0, 1]
    assert (tables.tasks.num_codes, tables.rows.num_codes) == (2, 1)


def test_masks_say_who_is_known_and_item_tasks_swap_the_sides() -> None:
    tables = build_tables(DATASET, ENCODER, np.array([True, False]), np.zeros(3, bool), kind="item")  # type: ignore[arg-type]  # as above
    assert tables.tasks.code_N.tolist() == [1, 0]
    assert tables.rows.code_N.tolist() == [0, 0, 0]
    assert float(tables.tasks.dense_NP[0, 0]) == 2


def test_new_entities_have_no_code() -> None:
    assert encode_unknown_users(ENCODER, [{}, {}]).code_N.tolist() == [0, 0]  # type: ignore[arg-type]  # as above
    assert encode_unknown_items(ENCODER, [{}]).code_N.tolist() == [0]  # type: ignore[arg-type]  # as above


def test_tables_append_only_tables_of_the_same_columns() -> None:
    known = entity_table(np.zeros((2, 2), np.float32), BLOCKS, np.ones(2, bool))
    more = known.append(encode_unknown_items(ENCODER, [{}]))  # type: ignore[arg-type]  # as above
    assert more.code_N.tolist() == [1, 2, 0]
    with pytest.raises(AssertionError):
        known.append(entity_table(np.zeros((1, 3), np.float32), (("y", 0, 3),), np.ones(1, bool)))
