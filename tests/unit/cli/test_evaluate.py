"""What `metarec evaluate` trains anew, and how much it says."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from metarec.cli import evaluate_output
from metarec.cli.evaluate_inputs import Loaded
from metarec.meta.prior import Prior
from metarec.training.recipes import get_recipe


@pytest.mark.parametrize(("blend", "targets"), [(0.0, ["implicit"]), (0.3, ["explicit", "implicit"])])
def test_protocols_of_lists_train_the_heads_that_count(blend: float, targets: list[str]) -> None:
    prior = cast(Prior, SimpleNamespace(heads={"explicit": None, "implicit": None}, blend=blend))
    loaded = Loaded(prior=prior, recipe=get_recipe("alpaca"), seed=0, same_data=True, facts={})
    assert [head.target for head in loaded.ranking_recipe.heads] == targets
    assert loaded.recipe == get_recipe("alpaca")


def test_a_single_head_is_the_ranking() -> None:
    prior = cast(Prior, SimpleNamespace(heads={"explicit": None}, blend=0.0))
    loaded = Loaded(prior=prior, recipe=get_recipe("maml"), seed=0, same_data=True, facts={})
    assert [head.target for head in loaded.ranking_recipe.heads] == ["explicit"]


def test_without_a_terminal_there_is_a_line_every_ten_seconds_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [100.0], []
    monkeypatch.setattr(evaluate_output.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(evaluate_output, "note", said.append)
    monkeypatch.setattr(evaluate_output.sys, "stderr", cast(Any, SimpleNamespace(isatty=lambda: False)))
    with evaluate_output.watching() as watch:
        for at in np.arange(0.0, 25.0, 0.5):
            now[0] = 100.0 + at
            watch(f"{at:g} s")
    assert said == ["evaluating: 0 s", "evaluating: 10 s", "evaluating: 20 s"]
