"""Attentive set encoder: a support set becomes keys and values that every query row attends to (Kim et al. 2019, section 3).

The score starts from a bilinear prior of row and profile, s0 = mu + b(i) + c(x) + phi(i)' x, and support rows enter through their
residuals r_j = y_j - s0_j alone. Tokens [phi_j, r_j, r_j phi_j, x] pass self-attention blocks (Vaswani et al. 2017, pre-norm);
what a query row takes from them has three parts, of which the first two also say something before any training:

    score = s0 + sum_j a_ij r_j + [phi_i, 1]' g(S) + net([phi_i, sum_j a_ij v_j, x]),

a the cross-attention with one empty place of weight of its own, so that no support means the prior and little support little
trust; g the mean of the tokens over 1 + |S| rows (the deterministic path of Garnelo et al. 2018, CNP); net a small network that
also gives the logarithm of the variance.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from metarec.errors import ConfigError
from metarec.models.contract import FastWeights, MetaParams
from metarec.models.linear_gaussian import active_columns, mapped_content, unique_rows
from metarec.tasks.batch import Batch, EntityTable, Tables

Features = tuple[Tensor, Tensor]
"""Vectors (T, N, D) and biases (T, N) of a batch's rows."""


@dataclass(frozen=True, kw_only=True)
class AttentiveSet:
    """Settings of the encoder.

    embedding_dim: D, length of a row's and a profile's vector
    hidden_dim: width of tokens, keys and values
    num_heads: attention heads; hidden_dim is a multiple of it
    num_layers: self-attention blocks over the support set
    """

    name: ClassVar[str] = "attentive_set"

    embedding_dim: int = 32
    hidden_dim: int = 64
    num_heads: int = 2
    num_layers: int = 1

    def __post_init__(self) -> None:
        for name, low in (("embedding_dim", 1), ("hidden_dim", 1), ("num_heads", 1), ("num_layers", 0)):
            if getattr(self, name) < low:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be at least {low}", field=name)
        if self.hidden_dim % self.num_heads:
            raise ConfigError(
                f"hidden_dim is {self.hidden_dim}, must be a multiple of num_heads, {self.num_heads}", field="hidden_dim"
            )

    def init(self, tables: Tables, generator: torch.Generator) -> MetaParams:
        """Small random vectors and maps; outputs of the networks start at 0, so that s0 and the residuals come first."""
        dim, width, codes = self.embedding_dim, self.hidden_dim, tables.rows.num_codes + 1
        rows, tasks = tables.rows.dense_NP.shape[1], tables.tasks.dense_NP.shape[1]

        def normal(*shape: int, scale: float) -> Tensor:
            return torch.randn(*shape, generator=generator) * scale

        def layer(name: str, fan_in: int, fan_out: int, gain: float = 1.0) -> MetaParams:
            weight = normal(fan_in, fan_out, scale=gain * math.sqrt(1 / fan_in))
            return {f"{name}.weight": weight, f"{name}.bias": torch.zeros(fan_out)}

        theta = {
            "mu": torch.zeros(()),
            "row.id": normal(codes, dim, scale=0.1),
            "row.id_bias": torch.zeros(codes),
            "row.content": normal(rows, dim, scale=0.1 / math.sqrt(max(1.0, active_columns(tables.rows)))),
            "row.content_bias": torch.zeros(rows),
            "task.content": normal(tasks, dim, scale=0.01),
            "task.content_bias": torch.zeros(tasks),
            "task.taste": torch.zeros(dim),
            "noise.log_var": torch.zeros(2),
            "attend.empty": torch.zeros(self.num_heads),
            **layer("token", 3 * dim + 1, width),
            **layer("attend.query", dim, width),
            **layer("attend.value", width, width),
            "pool.weight": normal(width, dim + 1, scale=0.1 / math.sqrt(width)),
            **layer("decode.first", 2 * dim + width, width),
            **layer("decode.second", width, 2, 0.0),
        }
        theta["row.id"][0] = 0.0
        # Alike at first: a row attends to rows like itself.
        theta |= {f"attend.key.{part}": theta[f"attend.query.{part}"].clone() for part in ("weight", "bias")}
        for block in range(self.num_layers):
            for name, fan_in, fan_out, gain in (
                ("query", width, width, 1.0),
                ("key", width, width, 1.0),
                ("value", width, width, 1.0),
                ("out", width, width, 0.1),
                ("up", width, 2 * width, 1.0),
                ("down", 2 * width, width, 0.1),
            ):
                theta |= layer(f"block{block}.{name}", fan_in, fan_out, gain)
        return theta

    def features(self, theta: MetaParams, batch: Batch, known_TN: Tensor | None = None) -> Features:
        """Vectors and biases of rows; `known_TN` (bool) hides ids where false. Uses the cache of `prepare` where it is there."""
        rows = batch.tables.rows
        if known_TN is None and "cache.phi" in theta:
            assert len(theta["cache.phi"]) == len(rows), "theta was prepared for another table"
            return theta["cache.phi"][batch.row_TN], theta["cache.bias"][batch.row_TN]
        unique_N, at_TN = unique_rows(batch.row_TN, len(rows))
        content_ND, bias_N = mapped_content(theta, rows, unique_N)
        code_N = rows.code_N[unique_N]
        known = (code_N > 0)[at_TN] if known_TN is None else (code_N > 0)[at_TN] & known_TN
        weight_TN = known.to(content_ND.dtype)
        phi_TND = content_ND[at_TN] + theta["row.id"][code_N][at_TN] * weight_TN[..., None]
        return phi_TND, bias_N[at_TN] + theta["row.id_bias"][code_N][at_TN] * weight_TN

    def encode(self, theta: MetaParams, features: Features, batch: Batch, residual_TS: Tensor) -> FastWeights:
        """Keys, values and residuals of the support rows, and g(S), from what the labels say beyond `prior`."""
        phi_TSD, mask_TS = features[0], batch.mask_TN
        weight_TS1 = mask_TS.to(phi_TSD.dtype)[..., None]
        residual_TS = torch.where(mask_TS, residual_TS, 0.0)
        profile_TSD = self._profile(theta, batch)[0][:, None].expand_as(phi_TSD)
        r_TS1 = residual_TS[..., None]
        token_TSH = _linear(theta, "token", torch.cat([phi_TSD, r_TS1, r_TS1 * phi_TSD, profile_TSD], -1))
        for block in range(self.num_layers):
            token_TSH = self._block(theta, f"block{block}", token_TSH, mask_TS)
        mean_TH = (token_TSH * weight_TS1).sum(1) / (1 + weight_TS1.sum(1))
        return {
            "key": _linear(theta, "attend.key", _direction(phi_TSD)) * weight_TS1,
            "value": _linear(theta, "attend.value", token_TSH) * weight_TS1,
            "residual": residual_TS,
            "mask": weight_TS1[..., 0],
            "taste": mean_TH @ theta["pool.weight"],
        }

    def prior(self, theta: MetaParams, features: Features, batch: Batch) -> Tensor:
        """s0 (T, N)."""
        profile_TD, offset_T = self._profile(theta, batch)
        return theta["mu"] + features[1] + offset_T[:, None] + torch.einsum("tnd,td->tn", features[0], profile_TD)

    def decode(self, theta: MetaParams, fast: FastWeights, features: Features, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scores and the logarithm of their variance (T, N); with empty `fast` those without support."""
        phi_TND, score_TN = features[0], self.prior(theta, features, batch)
        taken_TNH = phi_TND.new_zeros(*phi_TND.shape[:2], self.hidden_dim)
        if fast:
            taken_TNH, residual_TN = self._attend(theta, fast, phi_TND)
            score_TN = score_TN + residual_TN + torch.einsum("tnd,td->tn", phi_TND, fast["taste"][:, :-1])
            score_TN = score_TN + fast["taste"][:, -1:]
        profile_TND = self._profile(theta, batch)[0][:, None].expand_as(phi_TND)
        hidden_TNH = torch.relu(_linear(theta, "decode.first", torch.cat([phi_TND, taken_TNH, profile_TND], -1)))
        out_TN2 = _linear(theta, "decode.second", hidden_TNH)
        return score_TN + out_TN2[..., 0], out_TN2[..., 1]

    def score(self, theta: MetaParams, fast: FastWeights, batch: Batch) -> Tensor:
        """Scores (T, N) from the encoded support set."""
        return self.decode(theta, fast, self.features(theta, batch), batch)[0]

    def prepare(self, theta: MetaParams, rows: EntityTable) -> MetaParams:
        """Theta with `cache.phi` and `cache.bias` of all `rows`."""
        phi_ID, bias_I = mapped_content(theta, rows)
        return {
            **theta,
            "cache.phi": phi_ID + theta["row.id"][rows.code_N],
            "cache.bias": bias_I + theta["row.id_bias"][rows.code_N],
        }

    def _profile(self, theta: MetaParams, batch: Batch) -> tuple[Tensor, Tensor]:
        dense_TP = batch.tables.tasks.dense_NP[batch.task_T].to(theta["task.content"].dtype)
        return dense_TP @ theta["task.content"] + theta["task.taste"], dense_TP @ theta["task.content_bias"]

    def _split(self, value_TNH: Tensor) -> Tensor:
        """(T, heads, N, H / heads)."""
        return value_TNH.reshape(*value_TNH.shape[:2], self.num_heads, self.hidden_dim // self.num_heads).transpose(1, 2)

    def _attend(self, theta: MetaParams, fast: FastWeights, phi_TND: Tensor) -> tuple[Tensor, Tensor]:
        """Attended values (T, N, H) and residuals (T, N); a place without either competes for the weight."""
        query, key = self._split(_linear(theta, "attend.query", _direction(phi_TND))), self._split(fast["key"])
        logit = query @ key.mT / math.sqrt(key.shape[-1])
        logit = logit.masked_fill(fast["mask"][:, None, None, :] == 0, -math.inf)
        empty = theta["attend.empty"][:, None, None].expand(*logit.shape[:3], 1)
        weight = torch.softmax(torch.cat([logit, empty], -1), -1)[..., :-1]
        taken_TNH = (weight @ self._split(fast["value"])).transpose(1, 2).flatten(2)
        return taken_TNH, torch.einsum("tns,ts->tn", weight.mean(1), fast["residual"])

    def _block(self, theta: MetaParams, name: str, token_TSH: Tensor, mask_TS: Tensor) -> Tensor:
        """Self-attention and a feed-forward network, each on normalised tokens and added to them."""
        normal_TSH = layer_norm(token_TSH, token_TSH.shape[-1:])
        query, key, value = (self._split(_linear(theta, f"{name}.{part}", normal_TSH)) for part in ("query", "key", "value"))
        logit = query @ key.mT / math.sqrt(key.shape[-1])
        # A finite floor: a task without rows has nothing to attend to, and its tokens are not used.
        weight = torch.softmax(logit.masked_fill(~mask_TS[:, None, None, :], torch.finfo(logit.dtype).min), -1)
        mixed_TSH = (weight @ value).transpose(1, 2).flatten(2)
        token_TSH = token_TSH + _linear(theta, f"{name}.out", mixed_TSH)
        up = torch.relu(_linear(theta, f"{name}.up", layer_norm(token_TSH, token_TSH.shape[-1:])))
        return token_TSH + _linear(theta, f"{name}.down", up)


def _linear(theta: MetaParams, name: str, value: Tensor) -> Tensor:
    return value @ theta[f"{name}.weight"] + theta[f"{name}.bias"]


def _direction(phi_TND: Tensor) -> Tensor:
    """Vectors at a mean square of 1, so that attention asks which rows are alike, not how long their vectors are."""
    return phi_TND * (phi_TND.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
