"""Generate metarec/v1 from protos/metarec/v1: message modules, gRPC modules, typed stubs, and the retry policy beside them.

Run through `make protos`. A test generates into a temporary folder and compares, so stale code fails.
"""

import shutil
import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
POLICY = Path("metarec", "v1", "service_config.json")


def generate(out: Path) -> None:
    """Write `metarec/v1/*_pb2.py`, `*_pb2_grpc.py` and their `.pyi` stubs under `out`, and copy the policy."""
    sources = sorted((ROOT / "protos").rglob("*.proto"))
    well_known = resources.files("grpc_tools") / "_proto"
    scripts = Path(sys.executable).parent
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={ROOT / 'protos'}",
            f"--proto_path={well_known}",
            f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out=quiet:{out}",
            f"--mypy_grpc_out=quiet:{out}",
            *[str(source) for source in sources],
        ]
    )
    if status:
        raise SystemExit(f"protoc failed with status {status}")
    package = out / "metarec" / "v1" / "__init__.py"
    package.write_text('"""Generated from protos/metarec/v1 by `make protos`; never edited."""\n')
    # Deadlines and retries are data beside the protos; the client of an installed wheel reads this copy.
    shutil.copyfile(ROOT / "protos" / POLICY, out / POLICY)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
