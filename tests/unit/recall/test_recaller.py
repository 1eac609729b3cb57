"""Candidates: sources in order with their shares, nothing twice, nothing left out that may come."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from metarec.adaptation.adapted import Adapted, score
from metarec.adaptation.engine import Engine
from metarec.ranking.rank import rank
from metarec.recall.contract import RecallUser
from metarec.recall.recaller import Recaller
from metarec.recall.registry import SOURCES
from metarec.training.registry import Registry
from metarec.types import Candidate, Interaction, Item


@pytest.fixture
def engine(tiny_registry: Path) -> Engine:
    return Engine(Registry(tiny_registry).load("live"))


def fan(engine: Engine, *item_ids: str, label: float = 5.0) -> Adapted:
    return engine.adapt(
        [Interaction(user_id="u", item_id=item_id, label=label, timestamp=1e6 + k) for k, item_id in enumerate(item_ids)]
    )


def user(adapted: Adapted) -> RecallUser:
    return RecallUser(
        vector=adapted.vector,
        scores=lambda view, rows: score(view, adapted, rows),  # type: ignore[arg-type]  # an EngineView
        support=adapted.used,
        seen=adapted.seen_items,
    )


def ids(candidates: Sequence[Candidate]) -> list[str]:
    return [candidate.item_id for candidate in candidates]


def test_recall_and_ranking_agree_on_the_best(engine: Engine) -> None:
    adapted = fan(engine, "i0", "i4")
    candidates = Recaller(engine.view).retrieve(user(adapted), 20)
    personal = [candidate for candidate in candidates if candidate.source == "personal"]
    ranked = rank(engine, adapted, engine.prior.item_ids)
    unseen = [item for item in ranked if item.item_id not in ("i0", "i4")]
    assert ids(personal)[:10] == [item.item_id for item in unseen[:10]]
    assert [candidate.score for candidate in personal[:10]] == pytest.approx([item.score for item in unseen[:10]], rel=1e-5)


def test_every_source_has_its_share_and_nothing_comes_twice(engine: Engine) -> None:
    engine.upsert([Item(item_id=f"n{k}", features={"genres": ("drama",)}, revision=3) for k in range(20)])
    candidates = Recaller(engine.view).retrieve(user(fan(engine, "i0")), 20)
    assert len(candidates) == 20 == len(set(ids(candidates)))
    assert Counter(candidate.source for candidate in candidates) == {"personal": 14, "fresh": 2, "content": 2, "popular": 2}
    assert {candidate.revision for candidate in candidates if candidate.item_id.startswith("n")} == {3}
    assert {candidate.revision for candidate in candidates if candidate.item_id.startswith("i")} == {0}


def test_what_one_source_lacks_others_fill(engine: Engine) -> None:
    nobody = Recaller(engine.view).retrieve(user(engine.adapt([])), 30)
    assert len(nobody) == 30
    assert Counter(candidate.source for candidate in nobody) == {"personal": 27, "popular": 3}
    assert len(Recaller(engine.view).retrieve(user(engine.adapt([])), 500)) == 60


def test_seen_and_excluded_items_stay_away(engine: Engine) -> None:
    recaller, adapted = Recaller(engine.view), fan(engine, "i0", "i4", "i8")
    found = set(ids(recaller.retrieve(user(adapted), 60, exclude=["i12", "no such item"])))
    assert found == set(engine.prior.item_ids) - {"i0", "i4", "i8", "i12"}
    assert set(ids(recaller.retrieve(user(adapted), 60, include_seen=True))) == set(engine.prior.item_ids)
    assert len(recaller.retrieve(user(adapted), 57)) == 57


def test_content_neighbours_share_what_was_liked(engine: Engine) -> None:
    (content,) = (source for source, _ in SOURCES if source.name == "content")
    recaller = Recaller(engine.view, sources=[(content, 1.0)])
    found = recaller.retrieve(user(fan(engine, "i2")), 8)
    assert [int(item_id[1:]) % 4 for item_id in ids(found)] == [2] * 8
    assert "i2" not in ids(recaller.retrieve(user(fan(engine, "i2")), 59, include_seen=True))
    assert recaller.retrieve(user(fan(engine, "i2", label=1.0)), 8) == []


def test_popular_items_come_by_training_interactions(engine: Engine) -> None:
    (popular,) = (source for source, _ in SOURCES if source.name == "popular")
    found = Recaller(engine.view, sources=[(popular, 1.0)]).retrieve(user(engine.adapt([])), 60)
    counts = engine.prior.popularity_I
    assert [candidate.score for candidate in found] == sorted(counts[counts > 0], reverse=True)


def test_an_emerging_item_can_reach_the_top_at_once(engine: Engine) -> None:
    recaller = Recaller(engine.view)
    # Nobody has taken it; its content alone must carry it past the popular items of other genres.
    engine.upsert([Item(item_id="new", features={"genres": ("space",), "title": "space story", "year": 1960.0}, revision=1)])
    recaller.refresh(engine.view)
    seen = [f"i{k}" for k in range(0, 60, 4)]
    candidates = recaller.retrieve(user(fan(engine, *seen[:8])), 60, exclude=seen)
    sources = {candidate.item_id: candidate.source for candidate in candidates}
    assert "new" in ids(candidates)[:5]
    assert sources["new"] == "fresh"


def test_new_content_of_a_known_item_is_found_by_it(engine: Engine) -> None:
    (content,) = (source for source, _ in SOURCES if source.name == "content")
    recaller, who = Recaller(engine.view, sources=[(content, 1.0)]), user(fan(engine, "i0"))
    farthest = ids(recaller.retrieve(who, 59))[-1]
    item = Item(item_id=farthest, features={"genres": ("space",), "title": "space story", "year": 1963.0}, revision=1)
    engine.upsert([item])
    recaller.refresh(engine.view)
    assert ids(recaller.retrieve(who, 59)).index(farthest) < 20


def test_fresh_items_are_the_newest_that_hardly_anybody_took(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    (fresh,) = (source for source, _ in SOURCES if source.name == "fresh")
    monkeypatch.setattr("metarec.recall.recaller.MAX_FRESH", 3)
    engine.upsert([Item(item_id=f"n{k}", features={}, revision=1) for k in range(5)])
    engine.upsert([Item(item_id="i0", features={}, revision=1)])
    found = Recaller(engine.view, sources=[(fresh, 1.0)]).retrieve(user(engine.adapt([])), 10)
    assert set(ids(found)) == {"n4", "n3", "n2"}


def test_an_approximate_index_serves_the_same_calls(engine: Engine) -> None:
    exact, approximate = Recaller(engine.view), Recaller(engine.view, exact_limit=10)
    engine.upsert([Item(item_id="new", features={"genres": ("horror",)}, revision=1)])
    for recaller in (exact, approximate):
        recaller.refresh(engine.view)
        recaller.refresh(engine.view)  # nothing has changed since
    who = user(fan(engine, "i3", "i7"))
    assert approximate.retrieve(who, 30) == exact.retrieve(who, 30)
    assert "new" in ids(approximate.retrieve(who, 61))


def test_without_item_vectors_the_whole_catalogue_is_scored(engine: Engine) -> None:
    adapted = fan(engine, "i1")

    class NoVectors:
        prior, catalogue, vectors, content_IE = engine.prior, engine.view.catalogue, None, engine.view.content_IE

    who = RecallUser(vector=None, scores=lambda view, rows: np.float32(rows % 7), support=adapted.used, seen=("i6",))
    best = Recaller(NoVectors()).retrieve(who, 5)  # type: ignore[arg-type]  # class attributes in place of properties
    assert [int(item_id[1:]) % 7 for item_id in ids(best)[:4]] == [6] * 4
    assert "i6" not in ids(best)
