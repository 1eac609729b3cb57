"""What a Gaussian process over content says of a row that training did not know, beyond the linear content map.

    beyond(x) = level + A' x + sum_m exp(-|s (x - x_m)|^2 / 2) c_m

with x taken from the centre of the known rows, anchors x_m, scales s of the columns and vectors c_m: the posterior mean of a
process with a linear and a squared-exponential kernel, less the content map (Rasmussen & Williams 2006, eq. 2.25). The bias is
half what the content map says, half what the row's place says in a space of content in which every field counts the same
(metarec.models.content_space): with z the place, for a task of mean taste,

    bias(x) + phi(x)' taste = level' + sum_m exp(-|z(x) - z_m|^2 / 2) c'_m

Theta holds all of it as `process.*` where training found it (metarec.meta.content_process). It concerns rows without an id alone:
known rows have vectors of their own.
"""

import torch
from torch import Tensor

from metarec.models.content_space import ContentSpace, closeness
from metarec.models.contract import MetaParams

CHUNK_ROWS = 4096
"""Rows compared with all anchors at once."""
BIAS_SHARE = 0.5
"""What places count in a bias."""
SPACE = "process.space."


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


def with_places(theta: MetaParams, dense_IP: Tensor, row_N: Tensor, phi_ND: Tensor, bias_N: Tensor) -> Tensor:
    """Biases (N,) of the rows `row_N`, which have these vectors, and of which the content map says `bias_N`; just that in theta
    of before places counted."""
    if "process.place" not in theta:
        return bias_N
    return bias_N + BIAS_SHARE * (place_biases(theta, dense_IP, row_N, phi_ND) - bias_N)


def place_biases(theta: MetaParams, dense_IP: Tensor, row_N: Tensor, phi_ND: Tensor) -> Tensor:
    """What places alone say of the biases (N,)."""
    space = ContentSpace(**{name.removeprefix(SPACE): value for name, value in theta.items() if name.startswith(SPACE)})
    near_N = [
        closeness(space.places(dense_IP[at_N]), theta["process.place"]) @ theta["process.place_weight"]
        for at_N in torch.split(row_N, CHUNK_ROWS)
    ]
    return theta["process.place_level"] + torch.cat(near_N) - phi_ND @ theta["process.taste"]
