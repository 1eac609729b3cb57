"""What outer training builds the vectors of known rows from: axes of two tables and of a factorisation of the labels."""

import torch

from metarec.meta.row_axes import NORM, row_axes
from metarec.meta.sampled_axes import sampled_axes
from metarec.models.contract import MetaParams
from metarec.tasks.batch import EntityTable
from metarec.tasks.stats import LabelStats

MAP_SCALE = 0.035
"""Deviation of the entries of the map of axes at the start."""


def start_axes(stats: LabelStats, rows: EntityTable, axes: int, sampled: int, dim: int, generator: torch.Generator) -> MetaParams:
    """What training adds to theta: `axes.row` (C + 1, A), `axes.map` (A, dim) and `axes.bias` (A,).

    A are `axes` of each of two tables and `sampled` ones; nothing is added for none of either.
    """
    if not axes and not sampled:
        return {}
    axes_CA = torch.cat([row_axes(stats, rows, axes), NORM * sampled_axes(stats, rows, sampled, generator)], 1)
    width = axes_CA.shape[1]
    map_AD = torch.randn(width, dim, generator=generator) * MAP_SCALE
    return {"axes.row": axes_CA, "axes.map": map_AD, "axes.bias": torch.zeros(width)}
