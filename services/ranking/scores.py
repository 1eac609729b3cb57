"""Scores of a whole batch of users, computed together, as the engine that `metarec.ranking` works with."""

from collections.abc import Sequence
from itertools import accumulate, chain

import numpy as np
from numpy.typing import NDArray

from metarec.adaptation.adapted import Adapted
from metarec.adaptation.engine import Engine
from metarec.adaptation.uncertainty import directions, score_spread
from metarec.ranking.explore import Spread
from metarec.types import Contribution

Floats = NDArray[np.float32]


class BatchScores:
    """Scores of several users' items, computed together; `metarec.ranking` takes it for an engine whose users are places."""

    def __init__(self, engine: Engine, users: Sequence[tuple[Adapted, Sequence[str]]]) -> None:
        self._engine, self._users = engine, users
        self._scores = _scores(engine, users)

    def scores(self, place: int, item_ids: Sequence[str]) -> Floats:
        """The scores of the items that the user at `place` was given with."""
        assert len(item_ids) == len(self._scores[place])
        return self._scores[place]

    def knows(self, place: int, item_ids: Sequence[str]) -> NDArray[np.bool_]:
        """Which of the ids the user's view has."""
        return self._engine.knows(self._users[place][0], item_ids)

    def directions(self, place: int, item_ids: Sequence[str]) -> Floats:
        """Unit vectors of the items."""
        return directions(self._users[place][0], item_ids)

    def spread(self, place: int, item_ids: Sequence[str], *, cold: bool) -> Spread:
        """How uncertain the scores are."""
        user_CK, own_C = score_spread(self._users[place][0], item_ids, cold=cold)
        return Spread(user_CK=user_CK, own_C=own_C)

    def contributions(self, place: int, item_id: str) -> Sequence[Contribution]:
        """Terms of one score."""
        return self._engine.contributions(self._users[place][0], item_id)


def _scores(engine: Engine, users: Sequence[tuple[Adapted, Sequence[str]]]) -> list[Floats]:
    """One gather and one product for all users, where their scores are linear; the engine's own way for the others."""
    if any(user.mix is not None for user, _ in users):
        # Weights of their own: those users' items one user at a time, and the others' together.
        rest = iter(_scores(engine, [entry for entry in users if entry[0].mix is None]))
        return [next(rest) if user.mix is None else engine.scores(user, item_ids) for user, item_ids in users]
    if not users:
        return []
    views = {id(user.view): user.view for user, _ in users}
    vectors = next(iter(views.values())).vectors if len(views) == 1 else None
    user_vectors = [user.vector for user, _ in users if user.vector is not None]
    if vectors is None or len(user_vectors) < len(users):
        return [engine.scores(user, item_ids) for user, item_ids in users]
    sizes = [len(item_ids) for _, item_ids in users]
    row_N = users[0][0].view.catalogue.rows(chain.from_iterable(item_ids for _, item_ids in users))
    vector_UE = np.stack(user_vectors)
    user_N = np.repeat(np.arange(len(users)), sizes)
    score_N = vectors.bias_I[row_N] + np.einsum("ne,ne->n", vectors.phi_IE[row_N], vector_UE[user_N])
    ends = list(accumulate(sizes))
    parts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    return [
        score_N[part] if (row_N[part] >= 0).all() else engine.scores(user, item_ids)
        for part, (user, item_ids) in zip(parts, users, strict=True)
    ]
