"""Profiles completed and items previewed by an engine, from heads and segments learned on the tiny dataset."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from metarec.adaptation.adapted import UserInput
from metarec.adaptation.engine import Engine
from metarec.errors import FailedPreconditionError
from metarec.meta.link import Link
from metarec.meta.profiles import Profiles
from metarec.training.checkpoint import load_checkpoint
from metarec.training.inputs import prepare
from metarec.training.profiles import learn_profiles, profile_field
from metarec.training.recipes import get_recipe
from metarec.training.registry import Registry
from metarec.types import Interaction, Item

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset


@pytest.fixture(scope="module")
def engine(tiny_registry: Path, tiny_dataset: "Dataset") -> Engine:
    prior = Registry(tiny_registry).load("live")
    recipe = replace(get_recipe("alpaca"), validation_fraction=0.1)
    inputs = prepare(tiny_dataset, prior.encoder, recipe, 0)
    return Engine(replace(prior, profiles=learn_profiles(prior.heads, prior.encoder, tiny_dataset, inputs, 0)))


def fan(genre: int) -> list[Interaction]:
    """Somebody who loves a genre and dislikes the one after next."""
    loved = [Interaction(user_id="x", item_id=f"i{genre + 4 * k}", label=5.0) for k in range(8)]
    other = (genre + 2) % 4
    return loved + [Interaction(user_id="x", item_id=f"i{other + 4 * k}", label=1.0) for k in range(4)]


def by_value(engine: Engine, user: UserInput, name: str) -> dict[str, float]:
    _, fields = engine.infer_profile(user)
    (field,) = [field for field in fields if field.name == name]
    return {value.value: value.probability for value in field.values}


def test_behaviour_tells_gender(engine: Engine) -> None:
    for genre, gender in enumerate("FFMM"):
        found = by_value(engine, UserInput(support=fan(genre)), "gender")
        assert sum(found.values()) == pytest.approx(1.0)
        assert found[gender] > 0.7, (genre, found)


def test_a_stranger_gets_the_frequencies_and_known_fields_come_back_as_given(engine: Engine) -> None:
    profiles = engine.prior.profiles
    assert profiles is not None
    field = profiles.field("gender")
    assert field is not None
    found = by_value(engine, UserInput(), "gender")
    assert [found[name] for name in field.classes] == pytest.approx(field.share_C / field.share_C.sum())
    _, (gender, age) = engine.infer_profile(UserInput(features={"gender": "M"}))
    assert (gender.observed, [(v.value, v.probability) for v in gender.values]) == (True, [("M", 1.0)])
    assert not age.observed
    assert sum(value.probability for value in age.values) == pytest.approx(1.0)
    ends = sorted((value.lower if value.lower is not None else -np.inf, value.upper) for value in age.values)
    assert ends[0][0] == -np.inf
    assert ends[-1][1] is None
    assert [low for low, _ in ends[1:]] == [high for _, high in ends[:-1]]


def test_the_audience_of_an_unseen_item_is_those_who_love_its_genre(engine: Engine) -> None:
    items = [Item(item_id="", features={"title": "story", "genres": (genre,)}) for genre in ("space", "horror")]
    space, horror = engine.preview_items(items, neighbours=3)
    for preview, loves, other in ((space, "F", "M"), (horror, "M", "F")):
        assert preview.target == "explicit"
        lift = {part.value: part.lift for part in preview.audience if part.field == "gender"}
        assert lift[loves] > 0.15 > -0.15 > lift[other]
        assert [part.lift for part in preview.audience] == sorted((part.lift for part in preview.audience), reverse=True)
        assert preview.stddev > 0
        assert 1 < preview.mean < 5
    assert {int(near.item_id[1:]) % 4 for near in space.neighbours} == {0}
    assert {int(near.item_id[1:]) % 4 for near in horror.neighbours} == {3}
    assert len(engine.catalogue) == 60


def test_the_mean_of_a_segment_is_the_mean_over_its_users(engine: Engine, tiny_dataset: "Dataset") -> None:
    """What the preview says of everybody is what the vectors of all training users say on average."""
    profiles = engine.prior.profiles
    assert profiles is not None
    (preview,) = engine.preview_items([Item(item_id="", features={"genres": ("space",)})], neighbours=0)
    vector = next(part for part in preview.vectors if part.target == "explicit")
    assert preview.mean == pytest.approx(vector.offset + np.dot(vector.values, profiles.everybody_E["explicit"]))
    shares = [part.num_users * part.lift for part in preview.audience if part.field == "gender"]
    assert sum(shares) == pytest.approx(0.0, abs=1e-6 * len(tiny_dataset.user_ids))
    assert preview.neighbours == ()


def test_how_sure_the_lift_of_a_click_is_depends_on_the_item_alone(engine: Engine) -> None:
    clicks = Engine(replace(engine.prior, link=Link(offset=-3.0, slope=2.0)))
    items = [Item(item_id="", features={"genres": (genre,)}) for genre in ("horror", "drama", "space")]
    together = clicks.preview_items(items, neighbours=0)
    for item, found in zip(items, together, strict=True):
        (alone,) = clicks.preview_items([item], neighbours=0)
        assert [part.lift_stddev for part in found.audience] == pytest.approx([part.lift_stddev for part in alone.audience])


def test_an_item_is_not_its_own_neighbour(engine: Engine) -> None:
    (preview,) = engine.preview_items(
        [Item(item_id="i0", features={"title": "space story 0", "genres": ("space",)})], neighbours=60
    )
    assert len(preview.neighbours) == 59
    assert "i0" not in {near.item_id for near in preview.neighbours}


def test_a_checkpoint_without_profiles_says_so(tiny_registry: Path) -> None:
    bare = Engine(replace(load_checkpoint(tiny_registry), profiles=None))
    with pytest.raises(FailedPreconditionError, match="knows nothing of profiles"):
        bare.infer_profile(UserInput())
    with pytest.raises(FailedPreconditionError, match="knows nothing of profiles"):
        bare.preview_items([Item(item_id="", features={})], neighbours=1)


def test_profiles_survive_their_state(engine: Engine) -> None:
    profiles = engine.prior.profiles
    assert profiles is not None
    described, arrays = profiles.to_state()
    again = Profiles.from_state(json.loads(json.dumps(described)), arrays)
    other = Engine(replace(engine.prior, profiles=again))
    user = UserInput(support=fan(2))
    assert by_value(other, user, "gender") == by_value(engine, user, "gender")
    assert again.segments == profiles.segments


def test_identifiers_are_not_learned_and_rare_values_stand_together() -> None:
    from metarec.features.blocks import CategoryBlock
    from metarec.meta.profiles import OTHER

    block = CategoryBlock(name="job", vocabulary=("a", "b"), multiple=False)
    assert profile_field(block, [f"z{k}" for k in range(100)]) is None
    field = profile_field(block, ["a"] * 60 + ["b"] * 30 + ["rare"] * 5 + [None] * 5)
    assert field is not None
    assert field.classes == ("a", "b", OTHER)
    assert field.share_C == pytest.approx((np.array([60, 30, 5]) + 1 / 3) / 96)
    assert field.classes_of("never seen") == (2,)
    assert field.classes_of(None) is None
    tags = profile_field(CategoryBlock(name="tags", vocabulary=("a", "b"), multiple=True), [("a",)] * 20 + [("a", "b")] * 20)
    assert tags is not None
    assert (tags.exclusive, tags.classes) == (False, ("a", "b"))
