"""Checkpoints on disk: a directory of safetensors and JSON, with a manifest that says what they are and how to check them.

    manifest.json             who, when, with what, how good; a checksum of every other file and of itself
    encoder.json, encoder.safetensors      vocabularies and statistics of the feature encoder
    items.json, items.safetensors          the catalogue: ids, encoded content, popularity
    theta.<target>.safetensors             one file per head
    item_side.safetensors                  the prior of items as tasks, where the explicit head has one
    profiles.json, profiles.safetensors    heads of profile fields and segments of users, where users have fields to learn
    scenarios.json, scenarios.safetensors  the shifts of the scenarios of the training data, where it has any

Nothing on the load path unpickles, and nothing is used before its checksum has been compared.
"""

import json
import platform
from dataclasses import asdict, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from metarec.data.schema import Schema
from metarec.errors import CorruptCheckpointError, MetarecError
from metarec.features.encoder import FeatureEncoder
from metarec.meta.item_side import ItemSide
from metarec.meta.link import Link
from metarec.meta.prior import Head, Prior
from metarec.meta.profiles import Profiles
from metarec.meta.registry import make_learner
from metarec.meta.scenario import Scenario
from metarec.models.contract import trainable
from metarec.models.registry import make_model
from metarec.tasks.batch import EntityTable
from metarec.training.files import Json, canonical, sha256, write_atomically
from metarec.training.manifest import FORMAT_VERSION, MANIFEST, Manifest, content_hash, verify
from metarec.training.registry import locate
from metarec.training.tensors import arrays_to_tensors, read_tensors, tensor_bytes
from metarec.types import Target, TaskKind
from metarec.version import __version__

NUM_POPULAR = 200
ITEM_SIDE = "item_side.safetensors"
PROFILES, PROFILE_ARRAYS = "profiles.json", "profiles.safetensors"
SCENARIOS, SCENARIO_ARRAYS = "scenarios.json", "scenarios.safetensors"
COUNTS = ("kappa", "num_users", "num_rows")


def save_checkpoint(prior: Prior, directory: Path, manifest: Manifest, checkpoint_id: str = "") -> str:
    """Write `prior` into the empty or new `directory` and return the checkpoint's id.

    The id defaults to a hash of the contents; a registry hands in its own.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = _contents(prior)
    sums = {name: {"sha256": sha256(data), "bytes": len(data)} for name, data in files.items()}
    digest = content_hash(sums)
    checkpoint_id = checkpoint_id.format(digest=digest) if checkpoint_id else f"c-{digest}"
    order = np.argsort(-np.asarray(prior.popularity_I), kind="stable")[:NUM_POPULAR]
    body: Json = {
        "format": FORMAT_VERSION,
        "id": checkpoint_id,
        "recipe": manifest.recipe.to_dict(),
        "seed": manifest.seed,
        "created": manifest.created,
        "job_id": manifest.job_id,
        "run": manifest.run,
        "train_seconds": manifest.train_seconds,
        "schema": prior.schema.to_dict(),
        "schema_hash": prior.schema.hash,
        "data_fingerprint": manifest.data_fingerprint,
        "metrics": dict(manifest.metrics),
        "history": {target: [dict(epoch) for epoch in epochs] for target, epochs in manifest.history.items()},
        "gate": None if manifest.gate is None else {**asdict(manifest.gate), "metrics": dict(manifest.gate.metrics)},
        "heads": {target: _describe(head) for target, head in prior.heads.items()},
        "blend": prior.blend,
        "link": None if prior.link is None else asdict(prior.link),
        "num_items": len(prior.item_ids),
        "popular": [prior.item_ids[int(row)] for row in order],
        "versions": {
            "metarec": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "safetensors", "scikit-learn")},
        },
        "files": sums,
    }
    for name, data in files.items():
        write_atomically(directory / name, data)
    # The manifest comes last: a directory without one is no checkpoint.
    write_atomically(directory / MANIFEST, json.dumps({**body, "sha256": sha256(canonical(body))}, indent=1).encode())
    return checkpoint_id


def _describe(head: Head) -> Json:
    return {
        "kind": head.kind,
        "learner": head.learner.name,
        "learner_settings": _settings(head.learner),
        "model": head.model.name,
        "model_settings": _settings(head.model),
    }


def _settings(part: object) -> Json:
    assert is_dataclass(part)
    assert not isinstance(part, type)
    return asdict(part)


def _contents(prior: Prior) -> dict[str, bytes]:
    table = prior.items
    items = {"ids": list(prior.item_ids), "blocks": [list(block) for block in table.blocks], "num_codes": table.num_codes}
    files = {
        **encoder_files(prior.encoder),
        "items.json": json.dumps(items).encode(),
        "items.safetensors": tensor_bytes(
            {
                "code_N": table.code_N,
                "dense_NP": table.dense_NP,
                "popularity_I": torch.from_numpy(np.asarray(prior.popularity_I, dtype=np.float32)),
            }
        ),
    }
    if prior.item_side is not None:
        files[ITEM_SIDE] = tensor_bytes(prior.item_side.to_arrays())
    if prior.profiles is not None:
        described, arrays = prior.profiles.to_state()
        files |= {PROFILES: json.dumps(described).encode(), PROFILE_ARRAYS: tensor_bytes(arrays_to_tensors(arrays))}
    if prior.scenarios:
        plain = {name: {field: getattr(scenario, field) for field in COUNTS} for name, scenario in prior.scenarios.items()}
        mean_KE = torch.stack([scenario.mean_E for scenario in prior.scenarios.values()])
        covariance_KEE = torch.stack([scenario.covariance_EE for scenario in prior.scenarios.values()])
        files[SCENARIOS] = json.dumps(plain).encode()
        files[SCENARIO_ARRAYS] = tensor_bytes({"mean": mean_KE, "covariance": covariance_KEE})
    for target, head in prior.heads.items():
        files[theta_file(target)] = tensor_bytes(trainable(head.theta))
    return files


def encoder_files(encoder: FeatureEncoder) -> dict[str, bytes]:
    """The encoder as files; `read_encoder` is the way back."""
    described, arrays = encoder.to_state()
    return {
        "encoder.json": json.dumps(described).encode(),
        "encoder.safetensors": tensor_bytes(arrays_to_tensors(arrays)),
    }


def read_encoder(directory: Path) -> FeatureEncoder:
    """The encoder that `encoder_files` described."""
    tensors, _ = read_tensors(directory / "encoder.safetensors")
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    return FeatureEncoder.from_state(json.loads((directory / "encoder.json").read_bytes()), arrays)


def theta_file(target: str) -> str:
    """Name of the file with a head's theta."""
    return f"theta.{target}.safetensors"


def load_checkpoint(path: Path | str) -> Prior:
    """The prior in a checkpoint directory, or the live (else the newest) one of a registry directory.

    Raises NotFoundError, NoCheckpointError, or CorruptCheckpointError naming the damaged file.
    """
    directory = locate(Path(path))
    manifest = verify(directory)
    try:
        return _load(directory, manifest)
    except MetarecError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptCheckpointError(
            f"checkpoint '{directory}' does not fit this metarec ({type(error).__name__}: {error}); retrain it",
            metadata={"file": MANIFEST},
        ) from error


def _load(directory: Path, manifest: Json) -> Prior:
    items = json.loads((directory / "items.json").read_bytes())
    arrays, _ = read_tensors(directory / "items.safetensors")
    table = EntityTable(
        code_N=arrays["code_N"],
        dense_NP=arrays["dense_NP"],
        blocks=tuple((name, start, stop) for name, start, stop in items["blocks"]),
        num_codes=items["num_codes"],
    )
    heads = {
        cast(Target, target): load_head(cast(Target, target), description, read_tensors(directory / theta_file(target))[0])
        for target, description in cast(dict[str, Json], manifest["heads"]).items()
    }
    return Prior(
        schema=Schema.from_dict(cast(dict[str, object], manifest["schema"])),
        encoder=read_encoder(directory),
        item_ids=tuple(items["ids"]),
        items=table,
        popularity_I=arrays["popularity_I"].numpy(),
        heads=heads,
        blend=float(cast(float, manifest["blend"])),
        link=_link(manifest),
        item_side=ItemSide.from_arrays(read_tensors(directory / ITEM_SIDE)[0]) if (directory / ITEM_SIDE).exists() else None,
        profiles=_profiles(directory),
        scenarios=_scenarios(directory),
        checkpoint=str(manifest["id"]),
    )


def _profiles(directory: Path) -> Profiles | None:
    if not (directory / PROFILES).exists():
        return None
    tensors, _ = read_tensors(directory / PROFILE_ARRAYS)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    return Profiles.from_state(json.loads((directory / PROFILES).read_bytes()), arrays)


def _scenarios(directory: Path) -> dict[str, Scenario]:
    if not (directory / SCENARIOS).exists():
        return {}
    tensors, _ = read_tensors(directory / SCENARIO_ARRAYS)
    plain = cast(dict[str, dict[str, float]], json.loads((directory / SCENARIOS).read_bytes()))
    return {
        name: Scenario(
            mean_E=mean_E,
            covariance_EE=covariance_EE,
            kappa=fields["kappa"],
            num_users=int(fields["num_users"]),
            num_rows=int(fields["num_rows"]),
        )
        for (name, fields), mean_E, covariance_EE in zip(plain.items(), tensors["mean"], tensors["covariance"], strict=True)
    }


def _link(manifest: Json) -> Link | None:
    found = cast(dict[str, Any] | None, manifest.get("link"))
    return None if found is None else Link(**found)


def load_head(target: Target, description: Json, theta: dict[str, Tensor]) -> Head:
    """The head that `_describe` wrote down."""
    learner = make_learner(str(description["learner"]), cast(Json, description["learner_settings"]))
    model = make_model(str(description["model"]), cast(Json, description["model_settings"]))
    kind = cast(TaskKind, description.get("kind", "user"))  # checkpoints of before item tasks do not say
    return Head(target=target, kind=kind, learner=learner, model=model, theta=theta)
