"""Validation for several workers: worker 0 computes it and tells the others, who must agree on when to stop."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metarec.meta.prior import Head
from metarec.models.contract import MetaParams
from metarec.tasks.batch import Tables
from metarec.tasks.sampler import EpisodeSampler
from metarec.training.label_scale import told
from metarec.training.state import EpochMetrics, HeadState
from metarec.training.surroundings import Workers
from metarec.training.validation import as_good, validate


@dataclass(frozen=True, kw_only=True)
class SharedValidation:
    """The validation tasks of a head's training: `sampler` draws them, `tables` are on the device that trains.

    Labels were divided by `scale`; figures are told in their own unit.
    """

    head: Head
    sampler: EpisodeSampler
    tables: Tables
    workers: Workers
    scale: float

    @property
    def measures(self) -> tuple[str, str]:
        """What it tells of."""
        return ("loss", "ndcg@10") if self.head.target == "implicit" else ("loss", "mae")

    def of_epoch(self, state: HeadState) -> tuple[EpochMetrics, bool]:
        """Means over tasks of an epoch that has ended, and whether to keep its theta; `state.lowest_*` follow."""
        if self.sampler.num_tasks == 0:
            state.lowest_epoch = state.epoch
            return {}, True  # the last epoch is the best one there is to know of
        said: list[float] = []
        if self.workers.rank == 0:
            found = self._found(state.theta)
            lowest = state.lowest_T is None or bool(found["loss"].mean() < state.lowest_T.mean())
            if lowest or state.lowest_T is None:
                state.lowest_T = found["loss"]
            said = [*self._means(found), float(lowest), float(as_good(found["loss"], state.lowest_T))]
        *means, is_lowest, kept = self._shared(said, len(self.measures) + 2)
        if is_lowest:
            state.lowest_epoch = state.epoch
        return self._told(means), bool(kept)

    def of(self, theta: MetaParams) -> EpochMetrics:
        """Means over tasks for any theta; empty without tasks."""
        if self.sampler.num_tasks == 0:
            return {}
        said = self._means(self._found(theta)) if self.workers.rank == 0 else []
        return self._told(self._shared(said, len(self.measures)))

    def _found(self, theta: MetaParams) -> dict[str, Tensor]:
        device = self.tables.rows.dense_NP.device
        head = replace(self.head, theta={name: value.to(device) for name, value in theta.items()})
        try:
            return validate(head, self.sampler, self.tables)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # not in torch's stubs; diverged, which others must hear of
            return {name: torch.full((self.sampler.num_tasks,), torch.nan, dtype=torch.float64) for name in self.measures}

    def _means(self, found: dict[str, Tensor]) -> list[float]:
        return [float(found[name].mean()) for name in self.measures]

    def _shared(self, said: list[float], size: int) -> list[float]:
        """What worker 0 said, `size` numbers; the others say nothing."""
        shared = torch.zeros(size, dtype=torch.float64, device=self.tables.rows.dense_NP.device)
        if said:
            shared += torch.tensor(said, dtype=torch.float64, device=shared.device)
        self.workers.sum_(shared)
        return list(map(float, shared.tolist()))

    def _told(self, means: list[float]) -> EpochMetrics:
        return told(dict(zip(self.measures, means, strict=True)), self.scale)
