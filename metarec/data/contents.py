"""The fingerprint of a dataset directory: a hash of what its tables hold, whatever their encoding in Parquet files."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metarec.data.schema import Schema


def fingerprint(path: Path, schema: Schema, scenarios: tuple[str, ...]) -> str:
    """Hash of schema and table contents (not of their encoding in files), sixteen hex digits."""
    digest = hashlib.sha256(json.dumps([schema.to_dict(), list(scenarios)], sort_keys=True).encode())
    for name in ("users", "items", "interactions", "graph", "links"):
        file = path / f"{name}.parquet"
        if not file.exists() or (name in ("graph", "links") and not schema.graph):
            continue
        digest.update(name.encode())
        with streamed(file) as parquet:
            # Column by column and value by value: how a writer cut the file into row groups must not matter.
            for column in parquet.schema_arrow.names:
                digest.update(f"{name}.{column}".encode())
                for part in _column_digests(parquet, column):
                    digest.update(part)
    return digest.hexdigest()[:16]


def streamed(path: Path) -> pq.ParquetFile:
    """A Parquet file that is read as it is iterated: by default Arrow buffers the whole file in advance."""
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 16)


def _column_digests(parquet: pq.ParquetFile, column: str) -> tuple[bytes, bytes]:
    """Hashes of a column's values and of where they are missing; both are fed value by value, whatever the batches."""
    content, validity = hashlib.sha256(), hashlib.sha256()
    for batch in parquet.iter_batches(columns=[column]):
        values = batch.column(0)
        if pa.types.is_primitive(values.type):
            validity.update(values.is_valid().to_numpy(zero_copy_only=False).tobytes())
            filled = values if values.null_count == 0 else pc.fill_null(values, 0)
            content.update(np.ascontiguousarray(filled.to_numpy(zero_copy_only=False)).tobytes())
        else:
            content.update("".join(f"{json.dumps(value)}\n" for value in values.to_pylist()).encode())
    return content.digest(), validity.digest()
