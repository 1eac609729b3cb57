"""Files that are either whole or absent: atomic writes, checksums, and safetensors that report damage as one error."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from metarec.errors import CorruptCheckpointError

Json = dict[str, object]


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that a reader, or a crash at any moment, finds the old file or the new one, never a part of one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; registries are shared between the users of services.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames within `path` survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def canonical(value: object) -> bytes:
    """JSON with one spelling per value, for hashing."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Tensors as a safetensors file; the same tensors always give the same bytes."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    return safetensors_bytes(plain, dict(metadata) if metadata else None)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. CorruptCheckpointError when it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            # clone: a tensor on the file's memory map would change under the reader when the file is replaced in place
            return {name: file.get_tensor(name).clone() for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise CorruptCheckpointError(f"'{path}' cannot be read: {error}", metadata={"file": path.name}) from error


def arrays_to_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Numeric arrays as tensors of the same type."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
