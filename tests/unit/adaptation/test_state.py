"""The stored state of a user: bytes and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarec.adaptation.state import UserState, profile_digest, support_of
from metarec.errors import MetarecError
from metarec.types import Interaction

interactions = st.builds(
    Interaction,
    user_id=st.just(""),
    item_id=st.text(min_size=1, max_size=5),
    label=st.floats(-5, 5),
    timestamp=st.floats(0, 2e9),
    scenario=st.sampled_from(["", "kids"]),
)


@given(support=st.lists(interactions, max_size=6), seen=st.lists(st.text(min_size=1), max_size=3), revision=st.integers(0, 2**40))
def test_what_is_encoded_is_decoded(support: list[Interaction], seen: list[str], revision: int) -> None:
    weights = {"implicit": {"vector": np.arange(3, dtype=np.float32)}, "explicit": {"a": np.ones((2, 2), np.float32)}}
    state = UserState(
        checkpoint="c-1",
        revision=revision,
        support=tuple(support),
        seen=tuple(seen),
        profile="abc",
        revisions={"i": -1},
        weights=weights,  # type: ignore[arg-type]  # names of targets
    )
    found = UserState.decode(state.encode())
    for target, group in weights.items():
        for name, value in group.items():
            np.testing.assert_array_equal(found.weights[target][name], value)  # type: ignore[index]  # as above
    assert [getattr(found, name) for name in ("checkpoint", "revision", "support", "seen", "profile", "revisions")] == [
        getattr(state, name) for name in ("checkpoint", "revision", "support", "seen", "profile", "revisions")
    ]


def test_a_state_without_weights_holds_the_support_set_alone() -> None:
    state = UserState(support=(Interaction(user_id="", item_id="a", label=1.0),))
    assert UserState.decode(state.encode()) == state


@pytest.mark.parametrize("data", [b"", b"nonsense", UserState().encode()[:-1], b"\x02" + bytes(7) + b"{}"])
def test_damaged_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(MetarecError, match="cannot be read"):
        UserState.decode(data)


def test_a_state_of_a_later_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarec.adaptation.state.FORMAT", 2)
    data = UserState().encode()
    monkeypatch.undo()
    with pytest.raises(MetarecError, match="format 2"):
        UserState.decode(data)


def test_profiles_with_equal_values_have_equal_digests() -> None:
    assert profile_digest({"a": 1.0, "b": None, "c": ("x",)}) == profile_digest({"c": ("x",), "a": 1.0})
    assert profile_digest({"a": 1.0}) != profile_digest({"a": 2.0})
    assert profile_digest(None) == profile_digest({"a": None}) == ""


def test_of_several_labels_of_an_item_the_latest_stands() -> None:
    events = [("a", 1.0, 5.0), ("b", 2.0, 3.0), ("a", 4.0, 2.0), ("b", 5.0, 3.0)]
    support = support_of([Interaction(user_id="u", item_id=item, label=label, timestamp=time) for item, label, time in events])
    assert [(entry.item_id, entry.label) for entry in support] == [("b", 5.0), ("a", 1.0)]
