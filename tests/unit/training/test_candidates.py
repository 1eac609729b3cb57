from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from metarec.data.inspection import Findings, inspect
from metarec.training.candidates import Candidate, eligible
from metarec.training.heads import make_head
from metarec.training.recipes import RECIPES

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset


@pytest.fixture
def findings(tiny_dataset: "Dataset") -> Findings:
    return inspect(tiny_dataset)


def test_every_recipe_for_labels_is_tried_as_it_is_and_some_with_other_settings(findings: Findings) -> None:
    found = eligible(findings, "explicit")
    plain = [one.recipe for one in found.candidates if not one.settings]
    assert set(plain) == {name for name in RECIPES if name != "alpaca_targets"}
    assert [one.settings for one in found.candidates[: len(plain)]] == [{}] * len(plain)
    assert len({one.name for one in found.candidates}) == len(found.candidates)
    assert "further targets" in found.refused["alpaca_targets"]


def test_further_targets_let_their_recipe_in(findings: Findings) -> None:
    found = eligible(replace(findings, further_targets=("watched",)), "explicit")
    assert "alpaca_targets" in {one.recipe for one in found.candidates}


def test_equal_labels_refuse_whatever_estimates_labels(findings: Findings) -> None:
    found = eligible(replace(findings, varied=False), "explicit")
    assert found.candidates == ()
    assert "all labels here are alike" in found.refused["maml"]


def test_only_recipes_with_a_head_for_lists_are_tried_for_lists(findings: Findings) -> None:
    found = eligible(findings, "implicit")
    assert {one.recipe for one in found.candidates} == {"alpaca"}
    assert "no head for what a user will take" in found.refused["maml"]
    assert all(one.head("rating").target == "implicit" for one in found.candidates)


def test_clicks_add_the_objective_that_is_theirs(findings: Findings) -> None:
    found = eligible(replace(findings, label_kind="binary"), "explicit")
    objectives = {one.recipe for one in found.candidates if one.settings.get("learner.objective") == "cross_entropy"}
    assert objectives == {"fomaml", "neural_process"}


@pytest.mark.parametrize("target", ["explicit", "implicit"])
@pytest.mark.parametrize("kind", ["rating", "binary"])
def test_every_candidate_has_settings_that_exist(findings: Findings, kind: str, target: str) -> None:
    for one in eligible(replace(findings, label_kind=kind), target).candidates:  # type: ignore[arg-type]  # one of both
        make_head(one.head(kind), {})


def test_a_candidates_name_says_what_is_changed_and_its_overrides_repeat_it() -> None:
    one = Candidate(recipe="alpaca", target="explicit", settings={"model.embedding_dim": "16"})
    assert one.name == "alpaca embedding_dim=16"
    assert one.overrides() == {"explicit.model.embedding_dim": "16"}
    assert one.head("rating").model_settings["embedding_dim"] == 16
