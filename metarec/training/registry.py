"""The checkpoint registry on a directory: publish, list, promote, roll back; safe with many processes and with crashes.

checkpoints/<id>/   immutable; written beside its final place and renamed into it, so it is whole or absent
live.json           which one is live and which ones were before it; replaced atomically
.lock               held (fcntl) by whoever changes something; readers never need it
"""

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from metarec.errors import CorruptCheckpointError, FailedPreconditionError, GateNotPassedError, NoCheckpointError, NotFoundError
from metarec.training.files import Json, sync_directory, write_atomically
from metarec.training.manifest import MANIFEST, Manifest, corrupt, read_manifest
from metarec.training.verdict import decisive

if TYPE_CHECKING:
    from metarec.meta.prior import Prior

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
LIVE = "live.json"
STAGING = ".staging-"
MAX_HISTORY = 100


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """An entry of the registry; mirrors `metarec.v1.Checkpoint`. `created` is seconds since the epoch (UTC).

    `judged` says whether the gate has looked at it at all; `delta` is 0 when not.
    """

    id: str
    path: Path
    recipe: str
    created: float
    live: bool
    gate_passed: bool
    delta: float
    schema_hash: str
    data_fingerprint: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    gate_metrics: Mapping[str, float] = field(default_factory=dict)
    job_id: str = ""
    run: str = ""
    popular: tuple[str, ...] = ()
    judged: bool = True


Infos = list[CheckpointInfo]
Names = list[str]  # inside Registry, `list` is its method


class Registry:
    """The checkpoints below `path`; the directory is made when something is published."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def publish(self, prior: "Prior", manifest: Manifest) -> str:
        """Store `prior` as a new checkpoint and return its id, `c-<number>-<hash>`. It is not live before it is promoted."""
        from metarec.training.checkpoint import save_checkpoint

        with self._lock():
            root = self.path / CHECKPOINTS
            for leftover in root.glob(f"{STAGING}*"):
                # We hold the lock, so its writer is gone.
                shutil.rmtree(leftover, ignore_errors=True)
            number = 1 + max((_number(name) for name in self._ids()), default=0)
            staging = root / f"{STAGING}{os.getpid()}"
            checkpoint = save_checkpoint(prior, staging, manifest, f"c-{number}-{{digest}}")
            os.rename(staging, root / checkpoint)
            sync_directory(root)
        return checkpoint

    def list(self) -> Infos:
        """All readable checkpoints, newest first; damaged ones are left out with a warning."""
        live = self.live()
        infos = []
        for name in sorted(self._ids(), key=_number, reverse=True):
            try:
                infos.append(self._info(name, live))
            except CorruptCheckpointError as error:
                logger.warning("left out of the list: %s", error.message)
        return infos

    def get(self, checkpoint_id: str) -> CheckpointInfo:
        """One checkpoint; `live` means the live one. NotFoundError, NoCheckpointError or CorruptCheckpointError."""
        live = self.live()
        if checkpoint_id == "live":
            if live is None:
                raise NoCheckpointError(f"no checkpoint of registry '{self.path}' is live; promote one")
            checkpoint_id = live
        if checkpoint_id not in self._ids():
            known = ", ".join(sorted(self._ids(), key=_number, reverse=True)[:5]) or "none"
            raise NotFoundError(
                f"registry '{self.path}' has no checkpoint '{checkpoint_id}'; newest: {known}",
                metadata={"checkpoint": checkpoint_id},
            )
        return self._info(checkpoint_id, live)

    def load(self, checkpoint_id: str) -> "Prior":
        """The prior of one checkpoint, verified."""
        from metarec.training.checkpoint import load_checkpoint

        return load_checkpoint(self.get(checkpoint_id).path)

    def live(self) -> str | None:
        """Id of the live checkpoint, or None."""
        promoted = self._state()["promoted"]
        return promoted[-1] if promoted else None

    def promote(self, checkpoint_id: str, force: bool = False) -> CheckpointInfo:
        """Make a checkpoint live. GateNotPassedError (with the figures that decided) unless its gate was passed or `force`."""
        self.get(checkpoint_id)  # before the lock, which would make a directory where there is no registry
        with self._lock():
            info = self.get(checkpoint_id)
            if not info.gate_passed and not force:
                why = f"is not better than the best plain baseline; {decisive(info.gate_metrics, info.delta)}"
                raise GateNotPassedError(
                    f"checkpoint '{info.id}' {why}; train a better one ('When the gate refuses' in docs/training.md), "
                    "or force the promotion"
                    if info.judged
                    else f"checkpoint '{info.id}' was never judged by the gate; train with the gate, or force the promotion",
                    metadata={"checkpoint": info.id, "delta": f"{info.delta:.6f}"},
                )
            state = self._state()
            if not state["promoted"] or state["promoted"][-1] != info.id:
                self._save_state([*state["promoted"], info.id])
            return self._info(info.id, info.id)

    def rollback(self) -> str:
        """Make the checkpoint that was live before the current one live again and return its id; repeating goes further back.

        FailedPreconditionError when there was none before.
        """
        if self.live() is None:
            raise NoCheckpointError(f"no checkpoint of registry '{self.path}' is live; there is nothing to roll back")
        with self._lock():
            promoted = self._state()["promoted"]
            if len(promoted) < 2:
                raise FailedPreconditionError(
                    f"'{promoted[-1]}' is the first checkpoint that was promoted; there is none before it"
                )
            self.get(promoted[-2])
            self._save_state(promoted[:-1])
            return promoted[-2]

    def _ids(self) -> Names:
        root = self.path / CHECKPOINTS
        return [entry.name for entry in root.iterdir() if not entry.name.startswith(".")] if root.is_dir() else []

    def _info(self, checkpoint_id: str, live: str | None) -> CheckpointInfo:
        path = self.path / CHECKPOINTS / checkpoint_id
        manifest = read_manifest(path)
        gate = cast(Json, manifest["gate"] or {})
        return CheckpointInfo(
            id=checkpoint_id,
            path=path,
            recipe=str(cast(Json, manifest["recipe"])["name"]),
            created=float(cast(float, manifest["created"])),
            live=checkpoint_id == live,
            judged=manifest["gate"] is not None,
            gate_passed=bool(gate.get("passed", False)),
            delta=float(cast(float, gate.get("delta", 0.0))),
            schema_hash=str(manifest["schema_hash"]),
            data_fingerprint=str(manifest["data_fingerprint"]),
            metrics=cast(dict[str, float], manifest["metrics"]),
            gate_metrics=cast(dict[str, float], gate.get("metrics", {})),
            job_id=str(manifest["job_id"]),
            run=str(manifest["run"]),
            popular=tuple(cast(Names, manifest["popular"])),
        )

    def _state(self) -> dict[str, Names]:
        try:
            state = json.loads((self.path / LIVE).read_bytes())
            return {"promoted": [str(name) for name in state["promoted"]]}
        except FileNotFoundError:
            return {"promoted": []}
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptCheckpointError(
                f"'{self.path / LIVE}' cannot be read: {error}; delete it and promote a checkpoint", metadata={"file": LIVE}
            ) from error

    def _save_state(self, promoted: Names) -> None:
        kept = promoted[-MAX_HISTORY:]
        state = {"live": kept[-1], "promoted": kept, "updated": time.time()}
        write_atomically(self.path / LIVE, json.dumps(state, indent=1).encode())

    @contextmanager
    def _lock(self) -> Iterator[None]:
        (self.path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _number(checkpoint_id: str) -> int:
    parts = checkpoint_id.split("-")
    return int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0


def locate(path: Path) -> Path:
    """The checkpoint directory `path` means: itself, or the live (else the newest) checkpoint of the registry at `path`."""
    if (path / MANIFEST).exists():
        return path
    if (path / CHECKPOINTS).is_dir():
        registry = Registry(path)
        chosen = registry.live() or next((info.id for info in registry.list()), None)
        if chosen is None:
            raise NoCheckpointError(f"registry '{path}' holds no checkpoint; run 'metarec train --out {path}' first")
        return registry.get(chosen).path
    if path.is_dir() and any(path.glob("theta.*.safetensors")):
        raise corrupt(path / MANIFEST, "is missing")
    raise NotFoundError(f"'{path}' is neither a checkpoint nor a registry; run 'metarec train --out {path}' to make one")
