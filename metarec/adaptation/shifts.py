"""What its first labels say of an emerging item beyond its content: a shift of its vector and offset (DESIGN 4.1, mirrored).

An item that training has not seen has the vector of its content. What an id would add has the Gaussian prior that id vectors of
known items have around content, N(0, diag(s)); with the raters' vectors w_u known, each label is linear in it,

    y_u - (mu + b + phi' w_u) = [w_u, 1]' delta + noise,

and Bayesian linear regression (Bishop 2006, eqs. 3.50-3.51) gives delta, a rater's own uncertainty adding to their noise. Raters
are adapted to without what they said of the item. The shift belongs to the explicit head's side of the ranking score, as labels
do; it is applied where items are scored and nowhere else, so that users' vectors do not depend on it.
"""

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from metarec.adaptation.adapted import Adapted, UserInput, fast_weights, known_support, shift_share
from metarec.adaptation.view import EngineView, ItemShift, row_at, row_vectors
from metarec.errors import MetarecError
from metarec.tasks.tables import encode_unknown_users
from metarec.types import FeatureValue

FORMAT = 1


def item_shift(view: EngineView, item_id: str, raters: Sequence[UserInput], labels: Sequence[float]) -> ItemShift | None:
    """The shift of an item after these labels, one for each rater; None for known items, unknown ids, no labels, and checkpoints
    whose explicit head is not of the closed form or does not count in the ranking score."""
    row, head = view.catalogue.row_of.get(item_id), view.heads.get("explicit")
    weight = view.weights.get("explicit", 0.0)
    if row is None or head is None or not labels or not weight or view.vectors is None or int(view.rows.code_N[row]) != 0:
        return None
    profiles = encode_unknown_users(view.prior.encoder, [_profile(view, rater) for rater in raters])
    supports = [known_support(view, [entry for entry in rater.support if entry.item_id != item_id])[0] for rater in raters]
    fast = fast_weights(view, profiles, supports, targets=("explicit",))["explicit"]
    spread_E = view.spreads["explicit"].astype(np.float64)
    if "factor" not in fast or "noise.log_var" not in head.theta or not len(spread_E):
        return None
    vector_UD, factor_UDD = fast["mean"].double().numpy(), fast["factor"].double().numpy()
    phi_D = head.theta["cache.phi"][row].double().numpy()
    level = float(head.theta["mu"] + head.theta["cache.bias"][row])
    size = len(spread_E) - 1
    x_UE = np.column_stack([vector_UD[:, :size], np.ones(len(labels))])
    residual_U = np.asarray(labels, np.float64) - level - vector_UD @ phi_D
    noise_U = math.exp(float(head.theta["noise.log_var"][0])) + np.square(phi_D @ factor_UDD).sum(1)
    weighted_UE = x_UE / noise_U[:, None]
    covariance_EE = np.linalg.inv(np.diag(1 / np.maximum(spread_E, 1e-9)) + weighted_UE.T @ x_UE)
    delta_E = covariance_EE @ (weighted_UE.T @ residual_U)
    phi_E = np.zeros(view.vectors.phi_IE.shape[1], np.float32)
    first = _first_column(view)
    phi_E[first : first + size] = weight * delta_E[:size]
    return ItemShift(
        phi_E=phi_E,
        bias=float(weight * delta_E[size]),
        left=float(np.trace(covariance_EE) / max(spread_E.sum(), 1e-12)),
        shots=len(labels),
    )


def shift_value(adapted: Adapted, item_id: str) -> float:
    """What the item's shift adds to its ranking score for a user; 0 where there is none."""
    shift = adapted.view.shifts.get(item_id)
    if shift is None or adapted.vector is None:
        return 0.0
    return shift_share(adapted) * (shift.bias + float(shift.phi_E @ adapted.vector))


def encode_shifts(checkpoint: str, shifts: Mapping[str, ItemShift]) -> bytes:
    """As bytes; `decode_shifts` is the way back."""
    plain = {"format": FORMAT, "checkpoint": checkpoint, "items": list(shifts)}
    values = list(shifts.values())
    tensors: dict[str, NDArray[np.generic]] = {
        "phi": np.stack([shift.phi_E for shift in values]) if values else np.zeros((0, 0), np.float32),
        "bias": np.array([shift.bias for shift in values], np.float64),
        "left": np.array([shift.left for shift in values], np.float64),
        "shots": np.array([shift.shots for shift in values], np.int64),
    }
    return save(tensors, {"shifts": json.dumps(plain, separators=(",", ":"), ensure_ascii=False)})


def decode_shifts(data: bytes) -> tuple[str, dict[str, ItemShift]]:
    """The checkpoint and the shifts in these bytes. MetarecError when they are damaged or of another format."""
    try:
        size = int.from_bytes(data[:8], "little")
        plain = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["shifts"])
        if plain["format"] != FORMAT:
            raise MetarecError(f"item shifts have format {plain['format']!r}, this metarec reads {FORMAT}")
        tensors = load(data)
        columns = zip(
            plain["items"], tensors["phi"], *(tensors[name].tolist() for name in ("bias", "left", "shots")), strict=True
        )
        return plain["checkpoint"], {
            item_id: ItemShift(phi_E=phi_E, bias=bias, left=left, shots=shots) for item_id, phi_E, bias, left, shots in columns
        }
    except (KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
        raise MetarecError(f"item shifts of {len(data)} bytes cannot be read: {type(error).__name__}: {error}") from error


def _first_column(view: EngineView) -> int:
    """Where the explicit head's part of the ranking vectors begins."""
    first = 0
    for target in view.weights:
        if target == "explicit":
            break
        first += row_vectors(view.prior.heads[target], row_at(view.rows, 0))[0].shape[1]
    return first


def _profile(view: EngineView, rater: UserInput) -> dict[str, FeatureValue]:
    fields = view.prior.encoder.user_fields
    return {name: value for name, value in (rater.features or {}).items() if name in fields}
