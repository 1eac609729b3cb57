import pytest

from metarec.errors import FailedPreconditionError, InvalidInputError
from metarec.features.encoder import FeatureEncoder
from metarec.features.groups import choose_groups, feature_groups


@pytest.fixture(scope="module")
def encoder(tiny_dataset):
    return FeatureEncoder.fit(tiny_dataset.schema, tiny_dataset.users, tiny_dataset.items)


def test_groups_are_content_profile_kinds_and_fields(encoder):
    groups = feature_groups(encoder)
    kinds = ["content", "profile", "text", "categories", "numbers"]
    assert list(groups) == [*kinds, "items.title", "items.genres", "items.year", "users.gender", "users.age"]
    assert groups["numbers"].items == {"year"}
    assert groups["profile"].users == {"gender", "age"}
    assert not groups["profile"].items
    whole = encoder.item_blocks[-1][2]
    assert groups["content"].columns == whole == sum(groups[name].columns for name in kinds[2:])


def test_without_names_there_are_the_kinds_and_the_fields_if_asked_for(encoder):
    assert [group.name for group in choose_groups(encoder, (), fields=False)] == [
        "content", "profile", "text", "categories", "numbers"
    ]  # fmt: skip
    assert len(choose_groups(encoder, (), fields=True)) == 10
    assert [group.name for group in choose_groups(encoder, ("numbers", "text", "numbers"), fields=True)] == ["numbers", "text"]


def test_an_unknown_group_is_refused_with_those_there_are(encoder):
    with pytest.raises(InvalidInputError, match=r"no feature group 'graph'; it has content, profile, text"):
        choose_groups(encoder, ("graph",), fields=True)


def test_an_encoder_without_features_has_nothing_to_leave_out() -> None:
    bare = FeatureEncoder(user_encoders=(), item_encoders=(), item_id="i", user_fields=(), item_fields=())
    with pytest.raises(FailedPreconditionError, match="nothing to leave out"):
        choose_groups(bare, (), fields=True)
