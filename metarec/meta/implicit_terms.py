"""The solve over the whole catalogue that adaptation and explanations of `alpaca_implicit` share.

Its equations are those of metarec.meta.implicit.
Shapes: T tasks, S support rows, Q query rows, I items, D dimensions, R stages, N axes of neighbours (of cosines, then as many of
the regression), E = D + R + N, L label levels.
"""

import math

import torch
from torch import Tensor

from metarec.models.catalogue_scorer import NUM_STAGES, CatalogueScorer, stages
from metarec.models.contract import MetaParams
from metarec.tasks.batch import Batch


def vectors(scorer: CatalogueScorer, theta: MetaParams, support: Batch, phi_IE: Tensor, bias_I: Tensor) -> Tensor:
    """The task vectors (T, E)."""
    chol_TDD, weight_TS, prior_TD = system(scorer, theta, support, phi_IE, bias_I)
    dim = prior_TD.shape[1]
    moment_TD = torch.einsum("ts,tsd->td", weight_TS, phi_IE[:, :dim][support.row_TN])
    w_TD = torch.cholesky_solve((prior_TD + moment_TD)[..., None], chol_TDD)[..., 0]
    start_TD = scorer.task_prior(theta, support.tables.tasks, support.task_T)
    w_TD = start_TD + trust(theta) * (w_TD - start_TD)
    near_IN = phi_IE[:, dim + NUM_STAGES :]
    total_TN = torch.einsum("ts,tsn->tn", support.mask_TN.to(near_IN.dtype), near_IN[support.row_TN])
    near_TN = total_TN * neighbour_weights(theta, support, near_IN.shape[1], near_IN.dtype)
    return torch.cat([w_TD, stage_weights(support, w_TD.dtype), near_TN], 1)


def neighbour_weights(theta: MetaParams, support: Batch, width: int, dtype: torch.dtype) -> Tensor:
    """What each support row of a task counts for on the axes of neighbours (T, N = `width`).

    On the axes of cosines nu in all, on those of the regression omega each; the one ends where the last stage begins, the other
    begins there: few rows have neighbours, many are there to regress on.
    """
    half, size_T = width // 2, support.mask_TN.sum(1).to(dtype)
    if not half:  # trained before there were neighbours
        return size_T.new_zeros(len(size_T), 0)
    nu, omega = theta["near.weight"].to(dtype)
    many_T = stages(size_T)[:, -1]
    each_T2 = torch.stack([nu * (1 - many_T) / size_T.clamp_min(1), omega * many_T], 1)
    return each_T2.repeat_interleave(half, 1)


def system(
    scorer: CatalogueScorer, theta: MetaParams, support: Batch, phi_IE: Tensor, bias_I: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cholesky factor of A (T, D, D), c (t - b) of the support rows (T, S; 0 where padded), and Lambda w0 (T, D)."""
    confidence_TS, positive_TS = evidence(theta, support, phi_IE.dtype)
    precision_D = torch.exp(theta["solve.log_precision"])
    phi_ID = phi_IE[:, : len(precision_D)]
    gram_DD = theta["cache.gram"] if "cache.gram" in theta else phi_ID.T @ phi_ID
    phi_TSD = phi_ID[support.row_TN]
    shared_DD = torch.diag(precision_D) + torch.exp(theta["solve.log_unobserved"]) * gram_DD
    matrix_TDD = shared_DD + (phi_TSD * confidence_TS[..., None]).mT @ phi_TSD
    prior_TD = scorer.task_prior(theta, support.tables.tasks, support.task_T) * precision_D
    surprise_TS = positive_TS - bias_I[support.row_TN]
    return torch.linalg.cholesky(matrix_TDD), confidence_TS * surprise_TS, prior_TD


def parts(scorer: CatalogueScorer, theta: MetaParams, support: Batch, query: Batch) -> dict[str, Tensor]:
    """What `ImplicitAlpaca.contributions` says of the scores of the query rows."""
    phi_IE, bias_I = scorer.row_features(theta, support.tables.rows)
    query_phi_IE, query_bias_I = (
        (phi_IE, bias_I) if query.tables.rows is support.tables.rows else scorer.row_features(theta, query.tables.rows)
    )
    chol_TDD, weight_TS, prior_TD = system(scorer, theta, support, phi_IE, bias_I)
    dims = [prior_TD.shape[1], NUM_STAGES, phi_IE.shape[1] - prior_TD.shape[1] - NUM_STAGES]
    phi_TQD, stage_TQR, near_TQN = torch.split(query_phi_IE[query.row_TN], dims, -1)
    phi_TSD, _, near_TSN = torch.split(phi_IE[support.row_TN], dims, -1)
    lifted_TDQ = torch.cholesky_solve(phi_TQD.mT, chol_TDD)
    stage_TR = stage_weights(support, prior_TD.dtype)
    item_TQ = query_bias_I[query.row_TN] + torch.einsum("tqr,tr->tq", stage_TQR, stage_TR)
    gamma, start_TD = trust(theta), scorer.task_prior(theta, support.tables.tasks, support.task_T)
    start_TQ = torch.einsum("tqd,td->tq", phi_TQD, start_TD)
    kernel_TQS = lifted_TDQ.mT @ phi_TSD.mT
    weight_TN = neighbour_weights(theta, support, dims[2], prior_TD.dtype)
    near_TQS = (near_TQN * weight_TN[:, None]) @ (near_TSN * support.mask_TN[..., None]).mT
    return {
        "global": torch.zeros_like(item_TQ),
        "item": item_TQ,
        "profile": gamma * torch.einsum("tdq,td->tq", lifted_TDQ, prior_TD) + (1 - gamma) * start_TQ,
        "support": gamma * kernel_TQS * weight_TS[:, None, :] + near_TQS,
    }


def evidence(theta: MetaParams, support: Batch, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Confidence (0 where padded) and target of each support row (T, S)."""
    levels = len(theta["solve.log_confidence"])
    low, high = theta["range.label"].to(dtype)
    share_TS = (
        ((support.label_TN.to(dtype) - low) / (high - low)).clamp(0, 1)
        if high > low
        else torch.ones_like(support.label_TN, dtype=dtype)
    )
    place_TS = share_TS * (levels - 1)
    below_TS = place_TS.floor().clamp(max=levels - 2)
    part_TS, at_TS = place_TS - below_TS, below_TS.long()

    def level(values_L: Tensor) -> Tensor:
        return values_L[at_TS] * (1 - part_TS) + values_L[at_TS + 1] * part_TS

    log_confidence_TS = level(theta["solve.log_confidence"])
    if support.timestamp_TN is not None:
        newer_TS = _newer(support.timestamp_TN, support.mask_TN).to(dtype)
        log_confidence_TS = log_confidence_TS - torch.log1p(newer_TS * torch.exp(-theta["solve.log_fading"]))
    return torch.exp(log_confidence_TS) * support.mask_TN, torch.exp(level(theta["solve.log_positive"]))


def trust(theta: MetaParams) -> Tensor:
    """gamma; 1 for heads that were trained before there was one."""
    if "solve.log_trust" not in theta:
        return theta["solve.log_fading"].new_ones(())
    return torch.exp(theta["solve.log_trust"])


def stage_weights(support: Batch, dtype: torch.dtype) -> Tensor:
    """Weights (T, R) of the stages by how many rows each task holds."""
    return stages(support.mask_TN.sum(1).to(dtype))


def _newer(time_TS: Tensor, mask_TS: Tensor) -> Tensor:
    """How many rows of the same set are newer than each one (T, S)."""
    time_TS = time_TS.masked_fill(~mask_TS, -math.inf)
    older_TS = torch.searchsorted(time_TS.sort(1).values, time_TS, right=True)
    return time_TS.shape[1] - older_TS
