"""Tensors in safetensors files, with damage reported as one error. Nothing here unpickles."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from metarec.errors import CorruptCheckpointError


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Tensors as a safetensors file; the same tensors always give the same bytes."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    return safetensors_bytes(plain, dict(metadata) if metadata else None)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. CorruptCheckpointError when it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            # clone: a tensor on the file's memory map would change under the reader when the file is replaced in place
            return {name: file.get_tensor(name).clone() for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118  # a file handle, not a dict
    except (OSError, SafetensorError, ValueError) as error:
        raise CorruptCheckpointError(f"'{path}' cannot be read: {error}", metadata={"file": path.name}) from error


def arrays_to_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Numeric arrays as tensors of the same type; arrays that may not be written to (as Parquet gives them) are copied."""
    return {name: torch.from_numpy(np.require(array, requirements=("C", "W"))) for name, array in arrays.items()}
