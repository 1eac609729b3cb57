"""Vectors of unknown rows by a Gaussian process over content, in place of the linear content map alone.

The item side has learned which content makes items alike: a linear and a squared-exponential kernel with a weight for each field,
by the leave-one-out error of a label (metarec.meta.item_side). Its kernel of tastes is a better judge of what an unknown row's
vector is than a ridge regression, whose penalty is one for all fields. The process is conditioned on the totals of the known rows
(content and own part together, as in metarec.meta.content_refit), with noise of 1 / (n / (n + SHRINKAGE)) in the kernel's unit:
totals of rows with few interactions are mostly shrinkage. Biases keep the content map, whose level is the matter there.

Found on MovieLens-1M's warm ratings with films of one year, or a random twelfth of all, and 480 users hidden (docs/learning.md).
"""

import torch
from torch import Tensor

from metarec.meta.content_refit import SHRINKAGE
from metarec.meta.item_side import ItemSide
from metarec.models.contract import MetaParams
from metarec.tasks.batch import EntityTable

MAX_ANCHORS = 5000
"""Most known rows of a table that has a process: cost grows with their cube, and conditioned on a part of them it is hardly any
better than the ridge regression on all of them."""


def with_process(theta: MetaParams, rows: EntityTable, count_I: Tensor, side: ItemSide) -> MetaParams:
    """Theta of a linear-Gaussian model with the process's mean for unknown rows; known rows are untouched.

    `count_I` are the training interactions of every row, which are positive for known ones. Theta comes back as it is where more
    than MAX_ANCHORS rows are known.
    """
    anchor_M = (rows.code_N > 0).nonzero()[:, 0]
    if len(anchor_M) > MAX_ANCHORS:
        return theta
    x_MP, count_M = rows.dense_NP[anchor_M].double(), count_I[anchor_M].double()
    map_PD = theta["row.content"].double()
    total_MD = x_MP @ map_PD + theta["row.id"][rows.code_N[anchor_M]].double()
    precision_M = count_M / (count_M + SHRINKAGE)
    level_D = precision_M @ total_MD / precision_M.sum()
    anchors, kernel = side.blocks(x_MP), side.taste
    with torch.no_grad():
        matrix_MM = kernel(anchors, anchors) + torch.diag(1 / precision_M)
        weight_MD = torch.cholesky_solve(total_MD - level_D, torch.linalg.cholesky(matrix_MM))
        linear_P = torch.exp(kernel.linear_B)[side.block_P] * side.column_P
        linear_PD = linear_P[:, None] * (anchors.value_NP.mT @ weight_MD)
        scale_P = torch.exp(0.5 * kernel.squared_B)[side.block_P] * side.column_P
        anchor_MP = (x_MP - side.centre_P) * scale_P
        parts = {
            "process.centre": side.centre_P,
            "process.level": level_D + torch.exp(kernel.constant) * weight_MD.sum(0) - side.centre_P @ map_PD,
            "process.map": linear_PD - map_PD,
            "process.anchor": anchor_MP,
            "process.square": anchor_MP.square().sum(1),
            "process.scale": scale_P,
            "process.weight": torch.exp(kernel.variance) * weight_MD,
        }
    return {**theta, **{name: value.to(theta["row.content"].dtype).contiguous() for name, value in parts.items()}}
