"""Every table of PROTOCOLS with one command: learners and plain baselines side by side, several seeds.

    python -m bench.accuracy --ml-1m DIR --ml-100k DIR --out DIR [--only p1,p3] [--seeds 0,1,2]

--ml-1m is the folder of MovieLens-1M (ratings.parquet, episodes.parquet, emerging/ ...), --ml-100k a dataset directory as
`metarec data fetch ml-100k` makes it. Protocols whose data is not given are left out and named. What is below --out already, of
the same settings, is not run again: an interrupted run goes on where it was. Writes results.md, results.json and the plots.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

PROTOCOLS = {"p1": "ml_1m", "p3": "ml_1m", "p4": "ml_1m", "p5": "ml_100k"}
"""Modules of this package by the data they need."""


def run_protocol(name: str, data: Path, out: Path, seeds: str) -> int:
    """One protocol as a command of its own; its table goes to standard error."""
    command = [sys.executable, "-m", f"bench.accuracy.{name}", "--data", str(data), "--out", str(out), "--seeds", seeds]
    print(" ".join(command), file=sys.stderr, flush=True)
    return subprocess.run(command, stdout=sys.stderr, check=False).returncode


def collect(out: Path, names: list[str]) -> None:
    """results.md and results.json of the protocols that are there."""
    tables, figures = ["# Accuracy"], {}
    for name in names:
        for table in sorted((out / name).glob(f"{name}*.md")):
            # One page: each protocol's title becomes a section.
            tables.append("#" + table.read_text().strip())
            figures[table.stem] = json.loads(table.with_suffix(".json").read_text())
            if table.with_suffix(".svg").exists():
                tables.append(f"![{table.stem}]({name}/{table.stem}.svg)")
    (out / "results.md").write_text("\n\n".join(tables) + "\n")
    (out / "results.json").write_text(json.dumps(figures, indent=1))


def main() -> int:
    """The command: 0 when every protocol asked for ran."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ml-1m", type=Path, help="folder of MovieLens-1M")
    parser.add_argument("--ml-100k", type=Path, help="dataset directory of MovieLens-100K")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default=",".join(PROTOCOLS), help="protocols, comma-separated")
    parser.add_argument("--seeds", default="0,1,2")
    given = parser.parse_args()
    names = given.only.split(",")
    unknown = sorted(set(names) - set(PROTOCOLS))
    if unknown:
        parser.error(f"unknown protocols: {', '.join(unknown)}; use {', '.join(PROTOCOLS)}")
    failed = False
    for name in names:
        data = getattr(given, PROTOCOLS[name])
        if data is None:
            print(f"{name} left out: it needs --{PROTOCOLS[name].replace('_', '-')}", file=sys.stderr)
            continue
        failed |= run_protocol(name, data.resolve(), given.out.resolve() / name, given.seeds) != 0
        collect(given.out, names)
    print((given.out / "results.md").read_text() if (given.out / "results.md").exists() else "no results")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
