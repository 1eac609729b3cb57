"""One page of all results: a head that says how they were made, then every protocol's tables and plot."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from bench.accuracy.tables import NOT_RUN, markdown_table

TABLES = {"p1": ("p1",), "p3": ("p3",), "p4": ("p4-total", "p4-domains", "p4-leave-out"), "p5": ("p5",)}
"""Tables by protocol, each with `<name>.md`, `.json` and `.svg` in the folder of the protocol."""

TITLES = {
    "p1": "P1 and P2: new users, new items, both (MovieLens-1M)",
    "p3": "P3: emerging items (MovieLens-1M)",
    "p4-total": "P4: one model of all domains (MovieLens-1M clicks)",
    "p4-domains": "P4: the learner trained on each domain alone",
    "p4-leave-out": "P4: each domain left out of training, then adapted to",
    "p5": "P5: lists in time order (MovieLens-100K)",
}
"""Sections of tables that were not run; tables bring their own titles."""

ABOUT = """Every table of the evaluation protocols, made by one command and not edited by hand:

    python -m bench.accuracy --ml-1m DIR --ml-100k DIR --out OUT --publish docs/results.md

MAE: lower is better; everything else: higher. Plain baselines get the same support and are tuned on training users alone
([evaluation.md](evaluation.md)). Plots show the learner and the best others; the tables hold all. Times are those of the machine
as busy as it was.
"""


def which_half(ml_1m: Path) -> str:
    """Whether the cold users and items of this copy of MovieLens-1M are those of even id alone."""
    users = pq.read_table(ml_1m / "episodes.parquet", columns=["protocol", "user_id"]).to_pandas()
    cold = {int(str(user)) for user in users[users.protocol == "user_cold"].user_id.unique()}
    if all(user % 2 == 0 for user in cold):
        return f"development half ({len(cold)} new users, and new items, of even id; the other half is kept aside)"
    return f"whole ({len(cold)} new users)"


def write_page(out: Path, page: Path, plots: Path, data: dict[str, str]) -> None:
    """`page` with what is in `out`, the plots copied to `plots` (below the page's folder); `data` says what was given."""
    found = {name: _figures(out / protocol / f"{name}.json") for protocol, names in TABLES.items() for name in names}
    parts = ["# Results", ABOUT.strip(), _facts(found, data)]
    for protocol, names in TABLES.items():
        for name in names:
            if not found[name]:
                parts.append(f"## {TITLES[name]}\n\n{NOT_RUN.capitalize()}.")
                continue
            # One page: each protocol's title becomes a section.
            parts.append("#" + (out / protocol / f"{name}.md").read_text().strip())
            plot = out / protocol / f"{name}.svg"
            if plot.exists():
                plots.mkdir(parents=True, exist_ok=True)
                if plot.resolve() != (plots / plot.name).resolve():
                    (plots / plot.name).write_bytes(plot.read_bytes())
                parts.append(f"![{name}]({(plots / plot.name).relative_to(page.parent).as_posix()})")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n\n".join(parts) + "\n")


def _facts(found: dict[str, dict[str, Any]], data: dict[str, str]) -> str:
    """Data, environments, and a row per table: commit, seeds, time, and what is missing."""
    lines = [f"- {name}: {what}" for name, what in data.items()]
    environments = sorted({one for result in found.values() for one in result.get("environments", [])})
    lines += [f"- environment: {one}" for one in environments]
    rows = []
    for name, result in found.items():
        if not result:
            rows.append([name, "", "", "", "all"])
            continue
        missing = result.get("not_run", [])
        said = missing if isinstance(missing, list) else [*(f"seed {seed}" for seed in missing["alpaca"]), *missing["learners"]]
        done = [seed for seed in result["seeds"] if not isinstance(missing, list) or seed not in missing]
        seconds = f"{result['seconds'] / 60:.0f} min"
        rows.append([name, ", ".join(result["commits"]), _several(done), seconds, _several(said) or "none"])
    return "\n".join([*lines, "", *markdown_table(["table", "commit", "training seeds", "computing time", NOT_RUN], rows)])


def _several(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _figures(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def write_json(out: Path) -> None:
    """results.json: the figures of every table that is there."""
    found = {name: _figures(out / protocol / f"{name}.json") for protocol, names in TABLES.items() for name in names}
    (out / "results.json").write_text(json.dumps({name: result for name, result in found.items() if result}, indent=1))
