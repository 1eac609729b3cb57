import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from metarec.data.schema import Field, Label, Schema
from metarec.errors import ConfigError, InvalidInputError
from metarec.features.encoder import FeatureEncoder
from metarec.features.field_blocks import EncoderSettings

SCHEMA = Schema(
    user_id="user",
    item_id="item",
    label=Label(column="rating", kind="rating", minimum=1.0, maximum=5.0),
    timestamp=None,
    scenario=None,
    users=(Field(name="gender", kind="categorical"), Field(name="age", kind="numeric")),
    items=(
        Field(name="title", kind="text"),
        Field(name="year", kind="numeric"),
        Field(name="genres", kind="multi_categorical", separator="|"),
        Field(name="plot", kind="text"),
        Field(name="look", kind="vector", dim=3),
    ),
    item_title="title",
    graph=True,
)
SPACE, STREET = ["moon", "ship", "star", "alien", "orbit"], ["crime", "city", "night", "cop", "gun"]
LOVE, WAR = ["love", "wedding", "paris", "kiss", "letter"], ["war", "soldier", "tank", "general", "army"]


def _tables(rows=60, seed=0):
    rng = np.random.default_rng(seed)
    users = pd.DataFrame({"gender": rng.choice(["F", "M"], rows), "age": rng.integers(8, 70, rows).astype(float)})
    users.loc[3, "age"] = np.nan
    items = pd.DataFrame(
        {
            "item": [f"i{k}" for k in range(rows)],
            "title": [f"title {k}" for k in range(rows)],
            "year": rng.integers(1930, 2000, rows).astype(float),
            "genres": [tuple(rng.choice(["a", "b", "c"], rng.integers(1, 3), replace=False)) for _ in range(rows)],
            "plot": [" ".join(rng.choice((SPACE, STREET, LOVE, WAR)[k % 4], 2)) if k % 5 else None for k in range(rows)],
            "look": [rng.normal(size=3).astype(np.float32) if k % 4 else None for k in range(rows)],
        }
    )
    graph = SimpleNamespace(
        head_N=np.array([f"e{k}" for k in range(rows)]),
        relation_N=np.array(["by"] * rows),
        tail_N=np.array([f"d{k % 3}" for k in range(rows)]),
        links={f"i{k}": f"e{k}" for k in range(0, rows, 2)},
    )
    return users, items, graph


@pytest.fixture(scope="module")
def fitted():
    users, items, graph = _tables()
    return FeatureEncoder.fit(SCHEMA, users, items, graph), users, items


def _features(frame, *, drop=()):
    return [{k: v for k, v in row.items() if k not in drop} for row in frame.to_dict("records")]


def _block(encoder, name):
    return next(slice(start, stop) for field, start, stop in encoder.item_blocks if field == name)


def test_one_row_encoded_alone_equals_the_same_row_in_bulk_to_the_last_bit(fitted):
    encoder, users, items = fitted
    for encode, table in ((encoder.encode_users, users), (encoder.encode_items, items)):
        bulk = encode(table)
        assert bulk.dtype == np.float32
        alone = np.concatenate([encode([features]) for features in _features(table)])
        np.testing.assert_array_equal(alone, bulk)


def test_blocks_cover_all_columns_in_the_order_of_the_schema(fitted):
    encoder, _, items = fitted
    assert [name for name, _, _ in encoder.item_blocks] == ["title", "year", "genres", "plot", "look", "graph"]
    assert [start for _, start, _ in encoder.item_blocks][1:] == [stop for _, _, stop in encoder.item_blocks][:-1]
    assert encoder.item_blocks[-1][2] == encoder.encode_items(items).shape[1]


def test_fitting_twice_gives_the_same_numbers(fitted):
    encoder, _, items = fitted
    users, again, graph = _tables()
    np.testing.assert_array_equal(
        FeatureEncoder.fit(SCHEMA, users, again, graph).encode_items(items), encoder.encode_items(items)
    )


def test_the_saved_state_is_json_and_arrays_and_gives_the_same_encoder(fitted):
    encoder, users, items = fitted
    state, arrays = encoder.to_state()
    loaded = FeatureEncoder.from_state(json.loads(json.dumps(state)), {k: v.copy() for k, v in arrays.items()})
    assert loaded.item_blocks == encoder.item_blocks
    assert loaded.user_blocks == encoder.user_blocks
    np.testing.assert_array_equal(loaded.encode_items(items), encoder.encode_items(items))
    np.testing.assert_array_equal(loaded.encode_users(users), encoder.encode_users(users))


def test_a_missing_value_is_zero_with_its_indicator_set(fitted):
    encoder, _, _ = fitted
    row = encoder.encode_items([{}])[0]
    for name, start, stop in encoder.item_blocks:
        assert row[stop - 1] == 1.0, name
        assert not row[start : stop - 1].any(), name


def test_an_unknown_category_is_all_zero_and_not_missing(fitted):
    encoder, _, _ = fitted
    assert not encoder.encode_items([{"genres": ("never seen",)}])[0, _block(encoder, "genres")].any()


def test_a_number_lies_between_its_two_knots(fitted):
    encoder, _, items = fitted
    block = next(block for block in encoder.item_encoders if block.name == "year")
    knots, rows = np.array(block.knots), encoder.encode_items(items)[:, _block(encoder, "year")]
    assert ((rows > 0).sum(1) <= 2).all()
    np.testing.assert_allclose(rows[:, :-1] @ knots, items["year"], rtol=1e-6)


def test_beyond_the_numbers_that_were_seen_the_curve_is_level(fitted):
    encoder, _, items = fitted
    ends = [items["year"].max(), items["year"].min()]
    beyond, last = (encoder.encode_items([{"year": float(year)} for year in years]) for years in ([1e9, -1e9], ends))
    np.testing.assert_array_equal(beyond, last)


def test_a_number_that_never_varied_has_one_column():
    users, items, _ = _tables()
    encoder = FeatureEncoder.fit(SCHEMA, users, items.assign(year=1990.0))
    year = _block(encoder, "year")
    assert encoder.encode_items([{"year": 1990.0}, {"year": 7.0}, {}])[:, year].tolist() == [[1, 0], [1, 0], [0, 1]]


def test_graph_facts_come_from_the_item_id_or_from_the_feature(fitted):
    encoder, _, items = fitted
    where = _block(encoder, "graph")
    linked = encoder.encode_items(items)[0, where]
    assert np.linalg.norm(linked) == pytest.approx(1.0)
    assert linked[-1] == 0.0
    np.testing.assert_array_equal(encoder.encode_items([{"item": "i0"}])[0, where], linked)
    np.testing.assert_array_equal(encoder.encode_items([{"graph": ("by=d0",)}])[0, where], linked)
    assert encoder.encode_items([{"item": "i1"}])[0, where][-1] == 1.0


def test_facts_in_a_column_fit_as_well_as_the_graph_itself(fitted):
    encoder, users, items = fitted
    facts = [(f"by=d{k % 3}",) if k % 2 == 0 else None for k in range(len(items))]
    other = FeatureEncoder.fit(SCHEMA, users, items.assign(graph=facts))
    np.testing.assert_array_equal(other.encode_items(items), encoder.encode_items(items))


def test_items_that_share_no_fact_are_near_where_their_rare_facts_go_together():
    """Two studios; each film has two of a studio's eight people. A new film is near the films of the studio of its one person."""
    rng = np.random.default_rng(0)
    users, items, _ = _tables(rows=400)
    facts = [tuple(f"star={'ab'[k % 2]}{person}" for person in rng.choice(8, 2, replace=False)) for k in range(len(items))]
    encoder = FeatureEncoder.fit(SCHEMA, users, items.assign(graph=facts), settings=EncoderSettings(graph_dim=2))
    where = _block(encoder, "graph")
    new, same, other = encoder.encode_items([{"graph": (f"star={name}",)} for name in ("a0", "a5", "b5")])[:, where]
    assert new @ same > 0.9 * np.linalg.norm(new) * np.linalg.norm(same)
    assert abs(new @ other) < 0.1 * np.linalg.norm(new) * np.linalg.norm(other)


def test_facts_of_one_item_alone_and_unheard_of_facts_say_nothing_but_are_not_missing(fitted):
    users, items, _ = _tables(rows=400)
    facts = [(f"by=d{k % 5}", f"only={k}") for k in range(len(items))]
    encoder = FeatureEncoder.fit(SCHEMA, users, items.assign(graph=facts))
    where = _block(encoder, "graph")
    rows = encoder.encode_items([{"graph": ("by=d1",)}, {"graph": ("by=d1", "only=1", "by=nobody")}, {"graph": ("only=1",)}])[
        :, where
    ]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert not rows[2].any()
    assert encoder.facts["i1"] == ("by=d1",)


def test_blocks_can_be_left_out(fitted):
    encoder, _, items = fitted
    without = encoder.without(items={"plot", "graph"}, users={"age"})
    assert [name for name, _, _ in without.item_blocks] == ["title", "year", "genres", "look"]
    assert [name for name, _, _ in without.user_blocks] == ["gender"]
    whole = encoder.encode_items(items)
    kept = np.concatenate([whole[:, _block(encoder, name)] for name, _, _ in without.item_blocks], axis=1)
    np.testing.assert_array_equal(without.encode_items(items), kept)
    state, arrays = without.to_state()
    assert FeatureEncoder.from_state(state, arrays).item_blocks == without.item_blocks
    assert encoder.without(items=[name for name, _, _ in encoder.item_blocks]).encode_items(items).shape == (len(items), 0)


def test_plots_about_the_same_thing_are_near_without_a_common_word():
    users, items, _ = _tables()
    encoder = FeatureEncoder.fit(SCHEMA, users, items, settings=EncoderSettings(text_dim=4))
    where = _block(encoder, "plot")
    moon, alien, crime = encoder.encode_items([{"plot": "moon ship"}, {"plot": "An ALIEN star!"}, {"plot": "crime city night"}])[
        :, where
    ]
    assert moon @ alien > 0.3 > moon @ crime


CHINESE = (
    ["飞船", "星球", "外星", "宇宙", "轨道"],
    ["警察", "城市", "犯罪", "枪战", "黑夜"],
    ["爱情", "婚礼", "巴黎", "亲吻", "书信"],
    ["战争", "士兵", "坦克", "将军", "军队"],
)


def _chinese() -> FeatureEncoder:
    users, items, _ = _tables(rows=200)
    rng = np.random.default_rng(1)
    items["plot"] = ["".join(rng.choice(CHINESE[k % 4], 2, replace=False)) for k in range(len(items))]
    return FeatureEncoder.fit(SCHEMA, users, items, settings=EncoderSettings(text_dim=4))


def test_plots_without_spaces_are_near_when_they_share_words():
    encoder = _chinese()
    plots = [{"plot": "一艘宇宙飞船"}, {"plot": "星球上有外星人"}, {"plot": "警察在城市"}]
    space, alien, crime = encoder.encode_items(plots)[:, _block(encoder, "plot")]
    assert space @ alien > 0.3 > abs(space @ crime)


def test_a_checkpoint_that_does_not_say_cuts_words_as_it_did():
    encoder, plots = _chinese(), [{"plot": "一艘宇宙飞船"}, {"plot": "宇宙 飞船"}]
    state, arrays = encoder.to_state()
    np.testing.assert_array_equal(FeatureEncoder.from_state(state, arrays).encode_items(plots), encoder.encode_items(plots))

    def aged(node):
        if isinstance(node, dict):
            return {name: aged(value) for name, value in node.items() if name != "scripts"}
        return [aged(value) for value in node] if isinstance(node, list) else node

    said = FeatureEncoder.from_state(aged(state), arrays).encode_items(plots)[:, _block(encoder, "plot")]
    assert not said[0].any(), "one word, which nobody knows"
    assert said[1].any(), "words of two letters, which pairs are"


@pytest.mark.parametrize(("name", "value"), [("year", "1990"), ("genres", (1.0,)), ("look", (1.0, 2.0)), ("plot", 3.0)])
def test_a_wrong_type_names_the_field(fitted, name, value):
    with pytest.raises(InvalidInputError) as refusal:
        fitted[0].encode_items([{name: value}])
    assert refusal.value.field == name


def test_an_unknown_feature_is_refused(fitted):
    with pytest.raises(InvalidInputError, match="'colour'"):
        fitted[0].encode_items([{"colour": "red"}])


def test_a_table_without_a_column_is_refused(fitted):
    with pytest.raises(InvalidInputError, match="'plot'"):
        fitted[0].encode_items(fitted[2].drop(columns="plot"))


def test_ids_may_be_the_index_but_row_numbers_are_no_ids(fitted):
    encoder, _, items = fitted
    np.testing.assert_array_equal(encoder.encode_items(items.set_index("item")), encoder.encode_items(items))
    with pytest.raises(InvalidInputError, match="'item'"):
        encoder.encode_items(items.drop(columns="item"))


def test_no_entities_give_no_rows(fitted):
    assert fitted[0].encode_items([]).shape == (0, fitted[0].item_blocks[-1][2])


def test_a_table_of_missing_values_still_fits():
    items = pd.DataFrame({"item": ["a", "b"], **{name: [None, None] for name in ("title", "year", "genres", "plot", "look")}})
    users = pd.DataFrame({"gender": [None], "age": [np.nan]})
    encoder = FeatureEncoder.fit(SCHEMA, users, items)
    assert (
        encoder.encode_items([{"year": 1990.0, "plot": "moon", "look": (1.0, 2.0, 3.0)}]).shape[1] == encoder.item_blocks[-1][2]
    )


def test_the_title_can_be_left_out():
    users, items, _ = _tables()
    encoder = FeatureEncoder.fit(SCHEMA, users, items, settings=EncoderSettings(encode_title=False))
    assert "title" not in [name for name, _, _ in encoder.item_blocks]
    assert encoder.encode_items([{"title": "still allowed"}]).shape[0] == 1


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="text_dim"):
        EncoderSettings(text_dim=0)
    with pytest.raises(ConfigError, match="'num_knots' must be at least 2"):
        EncoderSettings(num_knots=1)
