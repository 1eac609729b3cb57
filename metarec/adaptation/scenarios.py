"""Scenarios in serving: their shifts fitted to what users did, and users within them (metarec.meta.scenario).

A shift is one of the explicit head; the implicit head has none. It moves users, not items, so that one vector per scenario is
all that travels: a user within a scenario is adapted to their labels less what the scenarios of these add, and moved by it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from metarec.adaptation.adapted import Adapted, UserInput, Within, known_support, support_batches
from metarec.adaptation.view import EngineView, Floats, ScenarioShift, row_vectors, task_vector
from metarec.errors import FailedPreconditionError, InvalidInputError, MetarecError
from metarec.meta.alpaca_terms import support_noise
from metarec.meta.scenario import Evidence, Scenario, has_scenarios
from metarec.models.contract import FastWeights
from metarec.models.linear_gaussian import LinearGaussian
from metarec.tasks.batch import EntityTable
from metarec.tasks.tables import encode_unknown_users
from metarec.types import Features

FORMAT = 1
BATCH = 64
"""Users whose evidence is summed at once."""


def fit_scenarios(view: EngineView, users: Iterable[UserInput]) -> dict[str, Scenario]:
    """The posterior of each scenario that these users' support sets name, all at once; {} for a head that has none.

    Users without interactions in a scenario may be among them; profiles that do not fit the checkpoint are left out.
    """
    head = view.heads.get("explicit")
    if head is None or not has_scenarios(head):
        return {}
    evidence, places = Evidence(head), dict[str, int]()
    for batch in _chunks(users):
        supports = [known_support(view, user.support)[0] for user in batch]
        support = support_batches(view, _profiles(view, [user.features for user in batch]), supports)
        scenario_TN = torch.zeros(support.row_TN.shape, dtype=torch.int64)
        for task, entries in enumerate(supports):
            for row, entry in enumerate(entries):
                if entry.scenario:
                    scenario_TN[task, row] = places.setdefault(entry.scenario, len(places) + 1)
        evidence.add(support, scenario_TN)
    found = evidence.solve()
    return {name: found[place] for name, place in places.items() if place in found}


def needs_scenarios(view: EngineView) -> None:
    """FailedPreconditionError for a checkpoint whose scenarios are no tasks."""
    head = view.heads.get("explicit")
    if head is None or not has_scenarios(head):
        raise FailedPreconditionError(
            f"checkpoint '{view.prior.checkpoint}' has no explicit head of learner 'alpaca', whose users scenarios move; train "
            "one with recipe 'alpaca'",
            metadata={"checkpoint": view.prior.checkpoint},
        )


def as_shift(scenario: Scenario) -> ScenarioShift:
    """What serving needs of a scenario."""
    return ScenarioShift(
        mean_E=scenario.mean_E.float().numpy(),
        kappa=scenario.kappa,
        num_users=scenario.num_users,
        num_rows=scenario.num_rows,
    )


def within(
    adapted: Sequence[Adapted],
    scenarios: Sequence[str],
    shifts: Mapping[str, ScenarioShift] | None = None,
    spread_EE: "NDArray[np.float64] | None" = None,
) -> list[Adapted]:
    """The users within these scenarios, one for each; those whom no shift concerns as they are.

    All must have been adapted to with one view; its shifts are used unless others are given. `spread_EE`, the covariance of the
    one scenario's shift, makes predictions that much less certain.
    """
    concerned = [place for place, user in enumerate(adapted) if _concerned(user, scenarios[place], shifts)]
    if not concerned:
        return list(adapted)
    view = adapted[concerned[0]].view
    shifts = view.scenarios if shifts is None else shifts
    head, found = view.heads["explicit"], list(adapted)
    # Heads of a view are prepared; of a large catalogue only a user's own rows are touched.
    phi_ID = head.theta["cache.phi"].numpy()
    nothing_E = np.zeros(phi_ID.shape[1], np.float32)
    for place in concerned:
        user = adapted[place]
        shift_E = shifts[scenarios[place]].mean_E if scenarios[place] in shifts else nothing_E
        moved = tuple(
            replace(entry, label=entry.label - float(phi_ID[row] @ shifts[entry.scenario].mean_E))
            if entry.scenario in shifts
            else entry
            for entry, row in zip(user.used, view.catalogue.rows(entry.item_id for entry in user.used).tolist(), strict=True)
        )
        found[place] = replace(user, within=Within(scenario=scenarios[place], used=moved, shift_E=shift_E, spread_EE=spread_EE))
    # Users none of whose labels a scenario adds to have their vector already.
    again = [place for place in concerned if _labels_move(adapted[place], shifts)]
    vectors = {place: adapted[place].state.weights["explicit"]["vector"] for place in concerned}
    if again:
        profiles = _stacked([adapted[place].profile for place in again])
        support = support_batches(view, profiles, [cast(Within, found[place].within).used for place in again])
        with torch.no_grad():
            vector_TE = task_vector(head, head.learner.adapt(head.model, head.theta, support)).float().numpy()
        vectors |= dict(zip(again, vector_TE, strict=True))
    for place in concerned:
        found[place] = _moved(found[place], vectors[place])
    return found


def label_weights(view: EngineView, adapted: Adapted) -> FastWeights:
    """Fast weights of the explicit head, their uncertainty too, which a state does not keep; those within the user's scenario."""
    head, support = view.heads["explicit"], adapted.support(view, "explicit")
    with torch.no_grad():
        fast = head.learner.adapt(head.model, head.theta, support)
        if adapted.within is None:
            return fast
        mean_TE = fast["mean"] + torch.from_numpy(adapted.within.shift_E)
        if adapted.within.spread_EE is None:
            return {**fast, "mean": mean_TE}
        # What is known of the user leaves the shift this much to say: I - Cov[w] Phi' R^-1 Phi over the scenario's rows.
        scenario = adapted.within.scenario
        here_TN = support.mask_TN & torch.tensor([[entry.scenario == scenario for entry in adapted.used] or [False]])
        phi_NE, _ = cast(LinearGaussian, head.model).batch_features(head.theta, support)
        seen_NE = phi_NE[0] / support_noise(head.theta, support)[0].sqrt()[:, None] * here_TN[0][:, None]
        eye_EE = torch.eye(seen_NE.shape[1], dtype=seen_NE.dtype)
        gain_EE = eye_EE - fast["factor"][0] @ fast["factor"][0].T @ (seen_NE.T @ seen_NE)
        root_EE = torch.linalg.cholesky(torch.from_numpy(adapted.within.spread_EE)).to(gain_EE.dtype)
        factor_TEF = torch.cat([fast["factor"], (gain_EE @ root_EE)[None]], 2)
        return {**fast, "mean": mean_TE, "factor": factor_TEF}


def scenario_effect(view: EngineView, mean_E: Floats) -> tuple[float, float]:
    """By how much a shift moves the labels of the catalogue's items: mean and standard deviation over them."""
    phi_ID, _ = row_vectors(view.heads["explicit"], view.rows)
    added_I = phi_ID @ mean_E
    return float(added_I.mean()), float(added_I.std())


def encode_scenarios(checkpoint: str, shifts: Mapping[str, ScenarioShift]) -> bytes:
    """As bytes; `decode_scenarios` is the way back."""
    values = list(shifts.values())
    plain = {
        "format": FORMAT,
        "checkpoint": checkpoint,
        "scenarios": list(shifts),
        "kappa": [shift.kappa for shift in values],
        "users": [shift.num_users for shift in values],
        "rows": [shift.num_rows for shift in values],
    }
    mean_KE = np.stack([shift.mean_E for shift in values]) if values else np.zeros((0, 0), np.float32)
    return save({"mean": mean_KE}, {"scenarios": json.dumps(plain, separators=(",", ":"), ensure_ascii=False)})


def decode_scenarios(data: bytes) -> tuple[str, dict[str, ScenarioShift]]:
    """The checkpoint and the shifts in these bytes. MetarecError when they are damaged or of another format."""
    try:
        size = int.from_bytes(data[:8], "little")
        plain = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["scenarios"])
        if plain["format"] != FORMAT:
            raise MetarecError(f"scenarios have format {plain['format']!r}, this metarec reads {FORMAT}")
        columns = zip(plain["scenarios"], load(data)["mean"], plain["kappa"], plain["users"], plain["rows"], strict=True)
        return plain["checkpoint"], {
            name: ScenarioShift(mean_E=mean_E, kappa=kappa, num_users=users, num_rows=rows)
            for name, mean_E, kappa, users, rows in columns
        }
    except (KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
        raise MetarecError(f"scenarios of {len(data)} bytes cannot be read: {type(error).__name__}: {error}") from error


def _concerned(user: Adapted, scenario: str, shifts: Mapping[str, ScenarioShift] | None) -> bool:
    known = user.view.scenarios if shifts is None else shifts
    return bool(known) and (scenario in known or _labels_move(user, known))


def _labels_move(user: Adapted, shifts: Mapping[str, ScenarioShift]) -> bool:
    return any(entry.scenario in shifts for entry in user.used)


def _moved(user: Adapted, vector_E: Floats) -> Adapted:
    assert user.within is not None
    weights = dict(user.state.weights)
    weights["explicit"] = {**weights["explicit"], "vector": (vector_E + user.within.shift_E).astype(np.float32)}
    whole = None if user.vector is None else np.concatenate([weights[target]["vector"] for target in user.view.weights])
    return replace(user, state=replace(user.state, weights=weights), vector=whole)


def _stacked(tables: Sequence[EntityTable]) -> EntityTable:
    return replace(
        tables[0],
        code_N=torch.cat([table.code_N for table in tables]),
        dense_NP=torch.cat([table.dense_NP for table in tables]),
    )


def _profiles(view: EngineView, features: Sequence[Features | None]) -> EntityTable:
    encoder = view.prior.encoder
    names = frozenset(encoder.user_fields)
    known = [{name: value for name, value in (entry or {}).items() if name in names} for entry in features]
    try:
        return encode_unknown_users(encoder, known)
    except InvalidInputError:
        return _stacked([_profile(view, entry) for entry in known])


def _profile(view: EngineView, features: Features) -> EntityTable:
    try:
        return encode_unknown_users(view.prior.encoder, [features])
    except InvalidInputError:
        # Stored under another schema than the checkpoint's.
        return encode_unknown_users(view.prior.encoder, [{}])


def _chunks(users: Iterable[UserInput]) -> Iterable[list[UserInput]]:
    chunk: list[UserInput] = []
    for user in users:
        chunk.append(user)
        if len(chunk) == BATCH:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
