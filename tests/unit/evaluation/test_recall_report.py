"""The recall report against counts made by hand, and the approximate index as part of it."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from metarec.adaptation.engine import Engine
from metarec.errors import InvalidInputError
from metarec.evaluation.recall_report import Case, held_out_cases, recall_report
from metarec.training.registry import Registry
from metarec.types import Interaction

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset
    from metarec.meta.prior import Prior


@pytest.fixture(scope="module")
def prior(tiny_registry: Path) -> "Prior":
    return Registry(tiny_registry).load("live")


def test_users_are_cut_in_the_middle_of_their_time(tiny_dataset: "Dataset") -> None:
    cases = held_out_cases(tiny_dataset, max_users=1000, seed=0)
    assert len(cases) == 80
    for case in cases:
        times = [entry.timestamp for entry in case.support]
        assert times == sorted(times)
        assert (len(case.support), len(case.targets)) == (7, 7)
        assert not {entry.item_id for entry in case.support} & case.targets
    assert len(held_out_cases(tiny_dataset, max_users=5, seed=0)) == 5
    assert held_out_cases(tiny_dataset, max_users=5, seed=0) == held_out_cases(tiny_dataset, max_users=5, seed=0)


def test_figures_are_those_of_counting(prior: "Prior", tiny_dataset: "Dataset") -> None:
    cases = held_out_cases(tiny_dataset, max_users=10, seed=1)
    told: list[tuple[int, int, str]] = []
    found = recall_report(prior, cases, ks=(5, 20), num_candidates=20, progress=lambda *said: told.append(said))
    items = len(prior.item_ids)
    assert told == [(items, items, "items in the index"), *[(n, len(cases), "users") for n in range(1, len(cases) + 1)]]
    engine, exact_hits = Engine(prior), []
    for case in cases:
        assert case.features is not None
        assert set(case.features) == {"gender", "age"}
        adapted = engine.adapt(case.support, case.features)
        scores = dict(zip(prior.item_ids, engine.scores(adapted, prior.item_ids).tolist(), strict=True))
        unseen = sorted(scores.keys() - adapted.seen_items, key=lambda item_id: (-scores[item_id], item_id))[:20]
        exact_hits.append(len(case.targets & set(unseen)) / len(case.targets))
    assert found.taken_next_exact == pytest.approx(np.mean(exact_hits))
    five, twenty = found.at
    assert five.merged == five.personal == 1.0
    assert twenty.personal == pytest.approx(16 / 20), "70 % of 20 places, and the 10 % that fresh items have no use for"
    assert 16 / 20 <= twenty.merged <= 1
    assert sum(share.exact_best for share in found.sources) == pytest.approx(twenty.merged)
    assert sum(share.taken_next for share in found.sources) == pytest.approx(found.taken_next_merged)
    assert {share.source: share.candidates for share in found.sources} == {
        "personal": pytest.approx(0.8),
        "fresh": 0.0,
        "content": pytest.approx(0.1),
        "popular": pytest.approx(0.1),
    }
    assert sum(share.candidates for share in found.sources) == pytest.approx(1.0)
    assert (found.num_users, found.num_items, found.num_candidates) == (10, 60, 20)


def test_the_approximate_index_is_measured_too(prior: "Prior", tiny_dataset: "Dataset") -> None:
    found = recall_report(prior, held_out_cases(tiny_dataset, max_users=20, seed=1), ks=(5,), num_candidates=10)
    assert found.at[0].approximate is not None
    assert found.at[0].approximate > 0.95


def test_what_cannot_be_reported_is_refused(prior: "Prior") -> None:
    with pytest.raises(InvalidInputError, match="nothing to recall"):
        recall_report(prior, [])
    case = Case(support=(Interaction(user_id="", item_id="i1", label=5.0),), targets=frozenset({"i2"}))
    for ks in ((), (0,), (11,)):
        with pytest.raises(InvalidInputError, match="k must be"):
            recall_report(prior, [case], ks=ks, num_candidates=10)
