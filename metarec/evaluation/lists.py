"""Collects the top-N lists of models over protocols and cuts, and pools them into results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from metarec.evaluation.results import ProtocolResult
from metarec.evaluation.scores import ScoreFile
from metarec.evaluation.temporal_splits import TopNEpisode
from metarec.evaluation.topn_models import LIST_LENGTH, Measured

Strings = NDArray[np.object_]


@dataclass(kw_only=True)
class ListResults:
    """Episodes of several cuts are pooled per protocol: one user at one cut is one episode. `user_ids`, `item_ids` name rows."""

    learner: str
    joint: str
    user_ids: Strings
    item_ids: Strings
    seed: int
    scores: ScoreFile | None = None
    found: dict[str, dict[str, list[Measured]]] = field(default_factory=dict)
    users: dict[str, list[NDArray[np.int64]]] = field(default_factory=dict)

    def add(self, protocol: str, part: str, episodes: Sequence[TopNEpisode], measured: Mapping[str, Measured]) -> None:
        """What every model did on the episodes of one part (a cut) of a protocol."""
        user_U = np.array([episode.user for episode in episodes], np.int64)
        self.users.setdefault(protocol, []).append(user_U)
        for model, one in measured.items():
            self.found.setdefault(protocol, {}).setdefault(model, []).append(one)
            if self.scores is not None and len(episodes):
                names = self.user_ids[user_U]
                self.scores.write_lists(
                    protocol,
                    model,
                    self.seed,
                    np.array([f"{part}/{user}" for user in names], object),
                    names,
                    self.item_ids[one.list_UN],
                    np.array([np.isin(row, e.target_Q) for row, e in zip(one.list_UN, episodes, strict=True)], bool),
                    one.score_UN,
                    np.array([len(episode.target_Q) for episode in episodes], np.int64),
                )

    def results(self, shots: Mapping[str, tuple[str, int | None]]) -> list[ProtocolResult]:
        """One result per protocol that has an episode; `shots` gives each protocol's base name and number of shots."""
        found = []
        for protocol, models in self.found.items():
            user_T = np.concatenate(self.users[protocol])
            if not len(user_T):
                continue
            base, k = shots[protocol]
            found.append(
                ProtocolResult(
                    name=protocol,
                    base=base,
                    shots=k,
                    learner=self.learner,
                    joint=self.joint,
                    seed_T=np.full(len(user_T), self.seed),
                    user_T=user_T,
                    values={
                        model: {
                            f"recall@{LIST_LENGTH}": np.concatenate([part.recall_U for part in parts]),
                            f"ndcg@{LIST_LENGTH}": np.concatenate([part.ndcg_U for part in parts]),
                        }
                        for model, parts in models.items()
                    },
                    constant={
                        model: {f"coverage@{LIST_LENGTH}": float(np.nanmean([part.coverage for part in parts]))}
                        for model, parts in models.items()
                    },
                    resampling_seed=self.seed,
                )
            )
        return found
