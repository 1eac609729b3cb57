"""Peak memory of `metarec data import` on a large synthetic interaction file: 20 million rows by default.

    python bench/import_memory.py [--rows N] [--format csv|parquet] [--json FILE]

The file (users and items by a power law, one row in a thousand repeated) is written to a temporary directory in pieces; the
import runs in a process of its own, whose peak resident memory the operating system reports.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

USERS, ITEMS, PIECE = 200_000, 50_000, 1_000_000
SCHEMA = """user_id: user_id
item_id: item_id
label: {column: rating, kind: rating, minimum: 1, maximum: 5}
timestamp: timestamp
"""


def write(path: Path, rows: int, kind: str) -> None:
    rng = np.random.default_rng(0)
    writer = None
    for start in range(0, rows, PIECE):
        count = min(PIECE, rows - start)
        table = pa.table(
            {
                "user_id": (USERS * rng.random(count) ** 2).astype(np.int64),
                "item_id": (ITEMS * rng.random(count) ** 3).astype(np.int64),
                "rating": rng.integers(1, 6, count),
                "timestamp": 1_500_000_000 + rng.integers(0, 10**8, count),
            }
        )
        repeated = np.where(rng.random(count) < 0.001, np.maximum(np.arange(count) - 1, 0), np.arange(count))
        table = table.take(pa.array(repeated))
        if writer is None:
            writer = pq.ParquetWriter(path, table.schema) if kind == "parquet" else csv.CSVWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--format", choices=("csv", "parquet"), default="csv")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="metarec-import-") as name:
        folder = Path(name)
        data, schema = folder / f"events.{arguments.format}", folder / "schema.yaml"
        print(f"writing {arguments.rows:,} rows", file=sys.stderr)
        write(data, arguments.rows, arguments.format)
        schema.write_text(SCHEMA)
        command = [
            sys.executable,
            "-c",
            "from metarec.cli.main import main; main()",
            "data",
            "import",
            "--interactions",
            str(data),
        ]
        start = time.perf_counter()
        run = subprocess.run([*command, "--schema", str(schema), "--out", str(folder / "out"), "--json"], stdout=subprocess.PIPE)
        seconds = time.perf_counter() - start
        if run.returncode:
            sys.exit(run.returncode)
        imported = json.loads(run.stdout)
        figures = {
            "rows": arguments.rows,
            "format": arguments.format,
            "file_bytes": data.stat().st_size,
            "kept": imported["interactions"],
            "users": imported["users"],
            "items": imported["items"],
            "seconds": round(seconds, 1),
            "rows_per_second": round(arguments.rows / seconds),
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        }
    text = json.dumps(figures, indent=1)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
