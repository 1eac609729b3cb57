"""What a Gaussian process over content says of a row that training did not know, beyond the linear content map.

    beyond(x) = level + A' x + sum_m exp(-|s (x - x_m)|^2 / 2) c_m

with x taken from the centre of the known rows, anchors x_m, scales s of the columns and vectors c_m: the posterior mean of a
process with a linear and a squared-exponential kernel, less the content map (Rasmussen & Williams 2006, eq. 2.25). Theta holds
it as `process.*` where training found one (metarec.meta.content_process). It concerns rows without an id alone: known rows have
vectors of their own.
"""

import torch
from torch import Tensor

from metarec.models.contract import MetaParams

CHUNK_ROWS = 4096
"""Rows compared with all anchors at once."""


def has_process(theta: MetaParams) -> bool:
    """Whether theta holds a process."""
    return "process.weight" in theta


def without_process(theta: MetaParams) -> MetaParams:
    """Theta whose unknown rows are what the content map says."""
    return {name: value for name, value in theta.items() if not name.startswith("process.")}


def beyond_content_map(theta: MetaParams, dense_IP: Tensor, row_N: Tensor) -> Tensor:
    """What the process adds to the content map's vectors (N, D) of the rows `row_N` of a table with this content."""
    anchor_MP, weight_MD = theta["process.anchor"], theta["process.weight"]
    parts = []
    for at_N in torch.split(row_N, CHUNK_ROWS):
        x_NP = dense_IP[at_N].to(weight_MD.dtype) - theta["process.centre"]
        scaled_NP = x_NP * theta["process.scale"]
        distance_NM = scaled_NP.square().sum(1, keepdim=True) + theta["process.square"] - 2 * scaled_NP @ anchor_MP.mT
        alike_NM = torch.exp(-0.5 * distance_NM.clamp_min(0))
        parts.append(theta["process.level"] + x_NP @ theta["process.map"] + alike_NM @ weight_MD)
    return torch.cat(parts)
