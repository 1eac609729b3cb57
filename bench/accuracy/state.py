"""What a run has done already: one file per finished piece, which says what it was made from.

A piece is made again when its settings, the data or the code (metarec/ and bench/accuracy/) are others than they were; which of
them, and which files, is told. Pieces are renamed into place: one that is there is whole.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
CODE = ("metarec", "bench/accuracy")
NAMED = 3
"""Changed files that are named at most."""

Prints = Mapping[str, str]
"""Digest of the contents by name of the file."""


def fingerprints(root: Path, *, patterns: tuple[str, ...] = ("**/*.parquet",), below: tuple[str, ...] = (".",)) -> dict[str, str]:
    """Of the files under `root`, by their path from there."""
    paths = sorted({path for part in below for pattern in patterns for path in (root / part).glob(pattern) if path.is_file()})
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in paths}


def code_fingerprints() -> dict[str, str]:
    """Of everything that figures may depend on."""
    return fingerprints(REPOSITORY, patterns=("**/*.py", "**/*.yaml"), below=CODE)


def commit() -> str:
    """The commit of the checkout, with a + when files of CODE are not as it has them; "" outside a checkout."""
    try:
        said = [
            subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--", *CODE))
        ]
    except (OSError, subprocess.CalledProcessError):
        return ""
    return said[0] + ("+" if said[1] else "")


def environment() -> dict[str, str]:
    """Versions and machine, for the record: pieces are not made again for them."""
    from importlib.metadata import version

    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "scipy")},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


@dataclass(frozen=True, kw_only=True)
class State:
    """Pieces below `out`, made from `data` (digests by name) and the code as it is.

    With `collect` nothing is made: pieces that are there stand, whatever they were made from, and the others are missing.
    """

    out: Path
    data: Prints
    collect: bool = False
    say: Callable[[str], None] = lambda what: print(what, file=sys.stderr, flush=True)

    @cached_property
    def code(self) -> dict[str, str]:
        """Digests of the code."""
        return code_fingerprints()

    @property
    def digest(self) -> str:
        """Names folders of what was made from this data by this code, such as imports and registries."""
        return hashlib.sha256(json.dumps([dict(self.data), self.code], sort_keys=True).encode()).hexdigest()[:10]

    def piece(self, name: str, settings: object, make: Callable[[], Any]) -> dict[str, Any] | None:
        """The piece `{"result", "seconds", "made_with"}`, made now unless it is there; None: missing, with `collect`."""
        path = self.out / f"{name}.json"
        settings = json.loads(json.dumps(settings, sort_keys=True, default=str))
        found: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
        if self.collect:
            return found
        reason = "" if found is None else changed(found["made_with"], settings, self.data, self.code)
        if found is not None and not reason:
            self.say(f"{name}: there already")
            return found
        self.say(f"{name}: run again, {reason}" if reason else f"{name}: run")
        started = time.monotonic()
        result = make()
        made_with = {"settings": settings, "data": dict(self.data), "code": self.code, "commit": commit(), **environment()}
        found = {"result": result, "seconds": round(time.monotonic() - started, 1), "made_with": made_with}
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(found, indent=1))
        unfinished.replace(path)
        return found


def changed(made_with: Mapping[str, Any], settings: object, data: Prints, code: Prints) -> str:
    """In words, in what a piece differs from one that would be made now; "" when in nothing."""
    reasons = []
    if made_with["settings"] != settings:
        reasons.append("the settings changed")
    for what, old, new in (("data", made_with["data"], data), ("code", made_with["code"], code)):
        files = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
        if files:
            more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
            reasons.append(f"the {what} changed: {', '.join(files[:NAMED])}{more}")
    return "; ".join(reasons)


def provenance(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """Commits, environments and seconds of these pieces."""
    made = [piece["made_with"] for piece in pieces]
    return {
        "commits": sorted({one["commit"] for one in made}),
        "environments": sorted({", ".join(f"{name} {one[name]}" for name in environment()) for one in made}),
        "seconds": round(sum(piece["seconds"] for piece in pieces), 1),
    }
