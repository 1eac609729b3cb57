"""The manifest of a checkpoint: what it says about itself, and how its files are checked. Imports no numerics."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from metarec.errors import CorruptCheckpointError
from metarec.training.files import Json, canonical, sha256
from metarec.training.gate import GateReport
from metarec.training.recipe import Recipe

FORMAT_VERSION = 3
"""Grows when theta or files change so that an older checkpoint cannot be read; 2: alpaca has `task.choice` and
`row.choice`; 3: knots of numbers, latent spaces of graph facts, stages of
the implicit head."""

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint says about itself besides its arrays.

    `created` is seconds since the epoch; `run` names the training run, so that a run that is resumed after it had published does
    not publish twice; `history` holds the metrics of every epoch by head.
    """

    recipe: Recipe
    seed: int
    data_fingerprint: str
    created: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    gate: GateReport | None = None
    job_id: str = ""
    run: str = ""
    history: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    train_seconds: float = 0.0


def content_hash(sums: Mapping[str, Mapping[str, object]]) -> str:
    """Eight hex digits that tell apart checkpoints with different arrays."""
    return sha256(canonical({name: entry["sha256"] for name, entry in sums.items()}))[:8]


def read_manifest(directory: Path) -> Json:
    """The manifest of the checkpoint in `directory`, checked. CorruptCheckpointError names what is wrong."""
    path = directory / MANIFEST
    try:
        data = json.loads(path.read_bytes())
        found = data.pop("sha256")
        if found != sha256(canonical(data)):
            raise corrupt(path, "is damaged: its checksum differs")
    except FileNotFoundError:
        raise corrupt(path, "is missing") from None
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise corrupt(path, f"cannot be read: {error}") from error
    if data["format"] != FORMAT_VERSION:
        raise CorruptCheckpointError(f"'{path}' has format {data['format']!r}, this metarec reads {FORMAT_VERSION}; retrain it")
    return cast(Json, data)


def corrupt(path: Path, what: str) -> CorruptCheckpointError:
    """The error about a damaged file of a checkpoint."""
    return CorruptCheckpointError(
        f"checkpoint file '{path}' {what}; restore the file or promote another checkpoint", metadata={"file": path.name}
    )


def verify(directory: Path) -> Json:
    """Compare every file with the manifest's checksums and return the manifest."""
    manifest = read_manifest(directory)
    for name, entry in cast(dict[str, dict[str, object]], manifest["files"]).items():
        path = directory / name
        if Path(name).name != name:
            raise corrupt(directory / MANIFEST, f"names a file outside the checkpoint: '{name}'")
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise corrupt(path, "is missing") from None
        except OSError as error:
            raise corrupt(path, f"cannot be read: {error}") from error
        if sha256(data) != entry["sha256"]:
            raise corrupt(path, "differs from the checksum in the manifest")
    return manifest
