"""How much of the exact answer the recall stage finds: merged sources and the approximate index against the whole catalogue.

The exact answer for a user are the k items of highest ranking score among all that they have not seen. What retrieval misses of
them, ranking never sees. Beside it stands what retrieval is for: the share of what the user really took next that is among the
candidates. Items are those of the checkpoint: what the source `fresh` adds in serving, items upserted since, does not exist here.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from metarec.adaptation.adapted import Adapted, score
from metarec.adaptation.engine import Engine
from metarec.data.dataset import Dataset
from metarec.errors import InvalidInputError
from metarec.features.sources import plain
from metarec.meta.prior import Prior
from metarec.recall.contract import RecallUser, best
from metarec.recall.index import ApproximateIndex
from metarec.recall.recaller import Recaller
from metarec.types import Features, Interaction

Rows = NDArray[np.int64]
MAX_SUPPORT = 200
"""As in serving (metarec.interactions.log): the newest interactions that adaptation sees."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A user: what is known of them, and the items they took afterwards."""

    support: tuple[Interaction, ...]
    targets: frozenset[str]
    features: Features | None = None


@dataclass(frozen=True, kw_only=True)
class RecallAtK:
    """Mean share of the exact k best: among the merged candidates, among those of them that the personal source proposed, and
    among the k best of the approximate index (None where scores are not linear)."""

    k: int
    merged: float
    personal: float
    approximate: float | None


@dataclass(frozen=True, kw_only=True)
class SourceShare:
    """A source's part in the merged list: of the candidates, of the exact best (of the largest k), of what users took next."""

    source: str
    candidates: float
    exact_best: float
    taken_next: float


@dataclass(frozen=True, kw_only=True)
class RecallReport:
    """`taken_next_*`: mean share of what users took next among as many candidates, merged and by exact search."""

    num_users: int
    num_items: int
    num_candidates: int
    at: tuple[RecallAtK, ...]
    sources: tuple[SourceShare, ...]
    taken_next_merged: float
    taken_next_exact: float


def held_out_cases(held: Dataset, *, max_users: int, seed: int) -> list[Case]:
    """Users of `held` with at least two interactions: the earlier half is known, the later half comes afterwards."""
    events = held.interactions
    count_U = np.bincount(events.user_N, minlength=len(held.user_ids))
    users = np.random.default_rng([seed, 41]).permutation(np.flatnonzero(count_U >= 2))[:max_users]
    order = np.lexsort((np.arange(len(events.user_N)), events.timestamp_N, events.user_N))
    first_U1 = np.searchsorted(events.user_N[order], np.arange(len(held.user_ids) + 1))
    cases = []
    for user in users.tolist():
        rows = order[first_U1[user] : first_U1[user + 1]]
        known, later = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        support = {
            str(held.item_ids[events.item_N[row]]): Interaction(
                user_id="",
                item_id=str(held.item_ids[events.item_N[row]]),
                label=float(events.label_N[row]),
                timestamp=float(events.timestamp_N[row]),
            )
            for row in known.tolist()
        }
        later = later[events.label_N[later] >= held.taken_from]
        targets = {str(held.item_ids[item]) for item in events.item_N[later].tolist()} - support.keys()
        features = {field.name: plain(field.kind, held.users[field.name].iloc[user], field.name) for field in held.schema.users}
        if targets:
            cases.append(Case(support=tuple(support.values())[-MAX_SUPPORT:], targets=frozenset(targets), features=features))
    return cases


def recall_report(
    prior: Prior,
    cases: Sequence[Case],
    *,
    ks: Sequence[int] = (10, 50, 100),
    num_candidates: int = 200,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> RecallReport:
    """The report for these users. InvalidInputError without users, or for k above `num_candidates`.

    `progress` is told how many items are in the approximate index, then how many users have been looked at.
    """
    if not cases:
        raise InvalidInputError("no user has interactions before and after a cut; there is nothing to recall", field="data")
    if not ks or min(ks) < 1 or max(ks) > num_candidates:
        raise InvalidInputError(f"k must be 1 to the {num_candidates} candidates, not {list(ks)}", field="k")
    engine = Engine(prior)
    view = engine.view
    recaller, ids = Recaller(view), view.catalogue.ids
    graph = None
    if view.vectors is not None:
        graph = ApproximateIndex(
            view.vectors.phi_IE, view.vectors.bias_I, watch=lambda done, total: progress(done, total, "items in the index")
        )
    tally = _Tally()
    for number, case in enumerate(cases):
        adapted = engine.adapt(case.support, case.features)
        exact = _exact(engine, adapted, num_candidates)
        merged = {candidate.item_id: candidate.source for candidate in recaller.retrieve(_user(adapted), num_candidates)}
        tally.add(case, ks, exact, merged, _approximate(graph, adapted, ids, num_candidates))
        progress(number + 1, len(cases), "users")
    return tally.report(ks, num_users=len(cases), num_items=len(ids), num_candidates=num_candidates)


@dataclass(frozen=True)
class _Tally:
    """Shares of each user so far: by figure, and by source and figure."""

    found: dict[str, list[float]] = field(default_factory=dict)
    shares: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(
        self, case: Case, ks: Sequence[int], exact: Sequence[str], source_of: Mapping[str, str], near: Sequence[str] | None
    ) -> None:
        """One user: the exact best, the source of each merged candidate, and what the approximate index finds, best first."""
        personal = {item_id for item_id, source in source_of.items() if source == "personal"}
        for k in ks:
            best_k = set(exact[:k])
            self._note(f"merged@{k}", best_k & source_of.keys(), len(best_k))
            self._note(f"personal@{k}", best_k & personal, len(best_k))
            if near is not None:
                self._note(f"approximate@{k}", best_k & set(near[:k]), len(best_k))
        self._note("next merged", case.targets & source_of.keys(), len(case.targets))
        self._note("next exact", case.targets & set(exact), len(case.targets))
        best_k = set(exact[: max(ks)])
        for source in ("personal", "fresh", "content", "popular"):
            own = {item_id for item_id, name in source_of.items() if name == source}
            share = self.shares.setdefault(source, {})
            share.setdefault("candidates", []).append(len(own) / max(len(source_of), 1))
            share.setdefault("exact_best", []).append(len(own & best_k) / len(best_k))
            share.setdefault("taken_next", []).append(len(own & case.targets) / len(case.targets))

    def _note(self, name: str, hits: Set[str], among: int) -> None:
        self.found.setdefault(name, []).append(len(hits) / among)

    def report(self, ks: Sequence[int], *, num_users: int, num_items: int, num_candidates: int) -> RecallReport:
        """Means over users."""
        mean = {name: float(np.mean(values)) for name, values in self.found.items()}
        return RecallReport(
            num_users=num_users,
            num_items=num_items,
            num_candidates=num_candidates,
            at=tuple(
                RecallAtK(
                    k=k, merged=mean[f"merged@{k}"], personal=mean[f"personal@{k}"], approximate=mean.get(f"approximate@{k}")
                )
                for k in ks
            ),
            sources=tuple(
                SourceShare(source=source, **{name: float(np.mean(values)) for name, values in share.items()})
                for source, share in self.shares.items()
            ),
            taken_next_merged=mean["next merged"],
            taken_next_exact=mean["next exact"],
        )


def _user(adapted: Adapted) -> RecallUser:
    return RecallUser(
        vector=adapted.vector,
        scores=lambda view, rows: score(view, adapted, rows),  # type: ignore[arg-type]  # an EngineView, as everywhere
        support=adapted.used,
        seen=adapted.seen_items,
    )


def _exact(engine: Engine, adapted: Adapted, limit: int) -> list[str]:
    """The unseen items of highest ranking score, best first."""
    ids = engine.view.catalogue.ids
    seen = set(engine.view.catalogue.rows(adapted.seen_items).tolist())
    rows = np.array([row for row in range(len(ids)) if row not in seen], np.int64)
    return [ids[row] for row, _ in best(rows, score(engine.view, adapted, rows), ids, limit)]


def _approximate(graph: ApproximateIndex | None, adapted: Adapted, ids: Sequence[str], limit: int) -> list[str] | None:
    """What the approximate index finds, best first; None where there is no vector to search by."""
    if graph is None or adapted.vector is None:
        return None
    rows, scores = graph.search(adapted.vector, limit + len(adapted.seen_items))
    unseen = np.array([ids[row] not in adapted.seen_items for row in rows.tolist()], bool)
    return [ids[row] for row, _ in best(rows[unseen], scores[unseen], ids, limit)]
